"""Build the network of any model from its configuration."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from triplex_deploy.contract import Config
from triplex_deploy.models.spot_model import SpotModel


def build_model(config: Config, seed: int | None = None) -> SpotModel:
    """Return a randomly initialized model in training mode.

    Args:
        config: The model's configuration; ``config.network`` names the class.
        seed: Seed of the weights. The global random generator is then left as it was.
    """
    network = network_class(config)
    if seed is None:
        return network(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(config)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Build modules without memory or starting weights inside the ``with`` block."""
    with torch.device("meta"), _WithoutRandomValues():
        yield


class _WithoutRandomValues(TorchFunctionMode):
    """Leaves tensors without memory as they are.

    PyTorch would import its compiler to draw their values, which takes a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        is_start = getattr(func, "__module__", "") == nn.init.__name__
        if is_start or func in (Tensor.normal_, Tensor.uniform_):
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


def network_class(config: Config) -> type[SpotModel]:
    """Import and return the class of the network that ``config.network`` names."""
    module, _, name = config.network.partition(":")
    network: type[SpotModel] = getattr(import_module(module), name)
    return network

"""Build the network of any model from its configuration."""

from importlib import import_module

import torch

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


def network_class(config: Config) -> type[SpotModel]:
    """Import and return the class of the network that ``config.network`` names."""
    module, _, name = config.network.partition(":")
    network: type[SpotModel] = getattr(import_module(module), name)
    return network

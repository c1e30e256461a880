"""timm for tests: with torchvision if it works, otherwise with a stand-in while timm is imported.

timm imports torchvision, and on PyPI that is the CUDA build. The networks use nothing of it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
from torch import nn

_STOOD_IN_FOR = ("", ".datasets", ".ops", ".ops.misc", ".transforms", ".transforms.functional")


def require_timm() -> Any:
    """Return timm; skip the test if it is not installed or cannot be imported."""
    if find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install --no-deps timm")
    if find_spec("torchvision") is None and "timm" not in sys.modules:
        with _torchvision_stood_in_for():
            import timm
            import timm.layers
    try:
        import timm
    except RuntimeError as error:
        pytest.skip(f"timm cannot be imported: {error}")
    return timm


class _Anything(type(nn.Module)):  # type: ignore[misc]
    """A class with every attribute, such as the members of an enumeration."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _StandIn(ModuleType):
    """A module with every attribute; each is a class that timm may derive from."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (nn.Module,), {})


@contextmanager
def _torchvision_stood_in_for() -> Iterator[None]:
    modules = {f"torchvision{part}": _StandIn(f"torchvision{part}") for part in _STOOD_IN_FOR}
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(modules[parent], last, module)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)

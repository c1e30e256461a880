"""Open checkpoint files without running code from them, and load their weights strictly."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from triplex_deploy.errors import CheckpointError


def load_tensors(path: str | Path, stand_ins: Sequence[tuple[Callable[..., Any], str]] = ()) -> Any:
    """Plain values and CPU tensors of a ``torch.save`` file.

    ``stand_ins`` are (class of ours, name of a class in the file) and take the place of theirs. A
    file that is absent, damaged, or needs other objects unpickled raises ``CheckpointError``.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {what}; pass the path of a checkpoint")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a torch file, or of a version before 1.6; save it again with torch.save"
        )
    try:
        with torch.serialization.safe_globals(list(stand_ins)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, since it is not made of plain values and tensors alone "
            f"({_reason(error)}); save tensors, strings and numbers only"
        ) from error
    except (
        OSError,
        EOFError,
        RuntimeError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
    ) as error:
        raise CheckpointError(
            f"{path}: not a readable torch file ({_reason(error)}); copy or save it again"
        ) from error


def _reason(error: Exception) -> str:
    """The telling line of torch's long message: the refused object, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Unsupported" in line or "GLOBAL" in line]
    line = (telling or lines or [type(error).__name__])[0]
    return line.split(" Please use")[0].rstrip(".")[:200]


class _Table:
    """Stands in for dictionaries and namespaces: a plain dictionary, whatever it is made from."""

    def __new__(cls, *_: object) -> Any:
        return OrderedDict()


class _Nothing:
    """Stands in for values nobody reads."""

    def __init__(self, *_: object) -> None:
        """Keep none of it."""

    def __setstate__(self, state: object) -> None:
        """Nor of this."""


_TABLES: Final = (
    "addict.addict.Dict",
    "argparse.Namespace",
    "easydict.EasyDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "types.SimpleNamespace",
)
_NOTHINGS: Final = (
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
)


def load_state_dict(path: str | Path) -> Mapping[str, Tensor]:
    """The tensors under ``state_dict``, as Lightning files have them, or of the file itself.

    Settings that published checkpoints keep in a few well-known classes are read as if they were
    ours, and dropped: nothing the file names is imported or called. ``CheckpointError`` for any
    other object, and for a file without a state dict.
    """
    stand_ins = [(_Table, name) for name in _TABLES] + [(_Nothing, name) for name in _NOTHINGS]
    try:
        content = load_tensors(path, stand_ins)
    except CheckpointError as error:
        if "refused" not in str(error):
            raise
        raise CheckpointError(
            f"{str(error).partition('; ')[0]}; if you trust the file, write its tensors alone with "
            "`python -c \"import torch; c = torch.load('FILE', 'cpu', weights_only=False); "
            "torch.save(c['state_dict'], 'TENSORS')\"` and pass those"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{path}: holds no state dict of tensors; pass weights saved with torch"
        )
    return state


_SHOWN = 5


def check_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Raise ``CheckpointError`` naming the keys of ``state`` that do not fit ``module``."""
    expected = module.state_dict()
    _refuse(what, "not a tensor", [key for key, value in state.items() if not _is_tensor(value)])
    _refuse(what, "missing keys", [key for key in expected if key not in state])
    _refuse(what, "unexpected keys", [key for key in state if key not in expected])
    misshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if state[key].shape != value.shape
    ]
    _refuse(what, "wrong shapes", misshaped)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Copy ``state`` into ``module``; ``what`` names the weights in the ``CheckpointError``."""
    check_state(module, state, what)
    module.load_state_dict(state)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _refuse(what: str, why: str, keys: list[str]) -> None:
    if not keys:
        return
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    raise CheckpointError(
        f"{what}: {why}: {', '.join(keys[:_SHOWN])}{more}; "
        "use weights of this architecture and configuration"
    )

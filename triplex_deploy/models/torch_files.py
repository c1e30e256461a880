"""Open checkpoint files without running code from them, and load their weights strictly.

They are also written here, atomically.
"""

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
from triplex_deploy.files.atomic import atomic_path, unwritable
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.escape import first_of

_AGAIN: Final = "copy or save it again"


def load_tensors(path: str | Path, stand_ins: Sequence[tuple[Callable[..., Any], str]] = ()) -> Any:
    """Return the plain values and CPU tensors of a ``torch.save`` file.

    Args:
        path: The file.
        stand_ins: Pairs of a class of ours and the name of a class in the file, which it replaces.

    Raises:
        CheckpointError: The file is missing or damaged, or holds any other object.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {what}; pass the path of a checkpoint")
    if not _is_zip(path):
        raise CheckpointError(
            f"{path}: not a torch file, or of a version before 1.6; save it again with torch.save"
        )
    _check_records(path)
    try:
        with torch.serialization.safe_globals(list(stand_ins)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, because it holds more than plain values and tensors "
            f"({_reason(error)}); save tensors, strings and numbers only"
        ) from error
    except (
        OSError,
        EOFError,
        AssertionError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
    ) as error:
        raise CheckpointError(
            f"{path}: not a readable torch file ({_reason(error)}); copy or save it again"
        ) from error
    _check_storages(path, content)
    return content


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # its end claims what no zip of one file has
        return False


def save_tensors(content: object, path: Path) -> None:
    """Write plain values and tensors with ``torch.save``, completely or not at all.

    Raises ``OutputError`` if the file cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            with temporary.open("xb") as file:
                torch.save(content, file)
        except RuntimeError as error:  # what torch raises where the disk is full
            raise unwritable(path, error) from error


def _check_records(path: Path) -> None:
    """Refuse compressed records and records with a wrong checksum.

    ``torch.save`` never compresses, and ``torch.load`` checks neither.
    """
    what = f"{path}: not a readable torch file"
    with damage_as(CheckpointError, what, _AGAIN), zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        total = sum(record.file_size for record in records)
        packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
        if packed or total > path.stat().st_size:
            raise CheckpointError(
                f"{path}: its records grow to {total} bytes when they are read, but torch.save "
                "never compresses; save it again with torch.save"
            )
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(f"{path}: {damaged} is damaged (its checksum differs); {_AGAIN}")


def _check_storages(path: Path, content: object) -> None:
    """Refuse tensors that need more values than the file holds for them."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if value.layout != torch.strided or _claimed_bytes(value) > _held_bytes(value):
                raise CheckpointError(
                    f"{path}: a tensor of shape {tuple(value.shape)} has fewer values than its "
                    "shape needs; save contiguous tensors again with torch.save"
                )
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _claimed_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _held_bytes(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().nbytes())


def _reason(error: Exception) -> str:
    """Return the line of torch's message that names the refused object, or the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Unsupported" in line or "GLOBAL" in line]
    line = (telling or lines or [type(error).__name__])[0]
    return line.split(" Please use")[0].rstrip(".")[:200]


class _Table:
    """Replaces dictionaries and namespaces by a plain dictionary."""

    def __new__(cls, *_: object) -> Any:
        return OrderedDict()


class _Nothing:
    """Replaces values that are not needed."""

    def __init__(self, *_: object) -> None:
        """Ignore the arguments."""

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


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
    """Return the tensors under ``state_dict``, as in Lightning files, or all tensors of a file.

    Published checkpoints keep their settings in a few known classes. These settings are dropped,
    and nothing that the file names is imported or called.

    Raises:
        CheckpointError: The file holds any other object, or no state dict.
    """
    stand_ins = [(_Table, name) for name in _TABLES] + [(_Nothing, name) for name in _NOTHINGS]
    try:
        content = load_tensors(path, stand_ins)
    except CheckpointError as error:
        if "refused" not in str(error):
            raise
        raise CheckpointError(
            f"{str(error).partition('; ')[0]}; if you trust the file, save only its tensors with "
            "`python -c \"import torch; c = torch.load('FILE', 'cpu', weights_only=False); "
            "torch.save(c['state_dict'], 'TENSORS')\"` and pass those"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{path}: holds no state dict of tensors; pass weights saved with torch"
        )
    return state


RENAMED_MODULES: Final = {"trunk": "backbone"}
"""Present name of each submodule that had another name in older versions."""


def current_state_keys(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict of any version of this package under the present names of modules.

    Args:
        state: Tensors by parameter name, such as ``target_encoder.trunk.conv1.weight``.

    Returns:
        The same tensors in the same order, with renamed modules: ``target_encoder.backbone...``.

    Raises:
        CheckpointError: Two keys get the same name.
    """
    current: dict[str, Any] = {}
    for key, value in state.items():
        parts = str(key).split(".")
        name = ".".join(RENAMED_MODULES.get(part, part) for part in parts)
        if name in current:
            raise CheckpointError(f"state_dict: {name} is stored twice; write the file again")
        current[name] = value
    return current


_SHOWN = 5
"""Most keys that an error lists."""


def check_state(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Check that weights fit a module.

    Args:
        module: The module.
        state: Weights by parameter name.
        what: Name of the weights in the error.

    Raises:
        CheckpointError: Keys or shapes do not fit; the message names the keys.
    """
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
    """Copy weights into a module.

    Args:
        module: The module.
        state: Weights by parameter name.
        what: Name of the weights in the error.

    Raises:
        CheckpointError: Keys or shapes do not fit; the message names the keys.
    """
    check_state(module, state, what)
    module.load_state_dict(state)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _refuse(what: str, why: str, keys: list[str]) -> None:
    if not keys:
        return
    raise CheckpointError(
        f"{what}: {why}: {first_of(keys, _SHOWN)}; "
        "use weights of this architecture and configuration"
    )

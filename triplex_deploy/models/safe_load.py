"""Reading files of tensors without running the code a pickle may carry."""

import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

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

"""Read ``.npz`` files, which may be damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import TriplexError
from triplex_deploy.files.damaged import damage_as


def read_npz(
    path: Path, kind: type[TriplexError], what: str, remedy: str, names: Sequence[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Read arrays of a file by name; their checksums are looked at.

    Args:
        path: The file.
        kind: The error to raise.
        what: What is wrong with a file that cannot be read, such as ``damaged``.
        remedy: What the user can do then.
        names: Names of the arrays; None for all.

    Raises:
        TriplexError: ``kind``, if the file or one of the arrays is missing or damaged.
    """
    with (
        damage_as(kind, f"{path}: {what}", remedy),
        path.open("rb") as file,  # NumPy leaves a file open that it cannot read
        np.load(file, allow_pickle=False) as stored,
    ):
        return dict(stored) if names is None else {name: stored[name] for name in names}

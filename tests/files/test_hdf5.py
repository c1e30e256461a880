"""HDF5 files that lead into other files, claim too much or are open elsewhere are one error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from tests.field.kit import write_space_ranger
from triplex_deploy.data import SectionEntry
from triplex_deploy.data.feature_matrix import read_feature_matrix
from triplex_deploy.data.hest import read_hest_section
from triplex_deploy.data.measured import read_measured
from triplex_deploy.errors import OutputError, TriplexError
from triplex_deploy.files import hdf5, hdf5_look
from triplex_deploy.files.hdf5 import open_hdf5
from triplex_deploy.outputs.files import is_prediction
from triplex_deploy.outputs.h5ad import read_prediction
from triplex_deploy.spots import read_spots

Damage = Callable[[h5py.File, str, Path], None]


def h5ad(path: Path) -> Path:
    obs = pd.DataFrame({"array_row": [0, 0, 1], "array_col": [0, 1, 0]}, index=list("abc"))
    table = anndata.AnnData(scipy.sparse.csr_matrix(np.eye(3, 4, dtype=np.float32)), obs)
    table.obsm["spatial"] = np.array([[10.0, 20.0], [30.0, 20.0], [10.0, 40.0]])
    table.write_h5ad(path)
    return path


def hest(folder: Path) -> Path:
    (folder / "st").mkdir()
    return h5ad(folder / "st/T1.h5ad")


def visium(folder: Path) -> Path:
    (folder / "slide.tif").touch()
    outs = write_space_ranger(folder / "s1", folder / "slide.tif", {})
    return outs / "filtered_feature_bc_matrix.h5"


READERS: dict[str, tuple[Callable[[Path], Path], str, Callable[[Path], object]]] = {
    "spots": (lambda folder: h5ad(folder / "s.h5ad"), "obsm/spatial", read_spots),
    "truth": (lambda folder: h5ad(folder / "t.h5ad"), "X/data", read_measured),
    "hest": (
        hest,
        "X/data",
        lambda path: read_hest_section(path.parents[1], "T1", SectionEntry("P1")),
    ),
    "visium": (visium, "matrix/data", lambda path: read_feature_matrix(path.parent)),
    "prediction": (lambda folder: h5ad(folder / "p.h5ad"), "X/data", read_prediction),
}
"""A valid file, an array in it, and its reader, by what is read."""


def linked(file: h5py.File, name: str, other: Path) -> None:
    file[name] = h5py.ExternalLink(str(other), name)


def virtual(file: h5py.File, name: str, other: Path) -> None:
    with h5py.File(other) as source:
        layout = h5py.VirtualLayout(source[name].shape, source[name].dtype)
        layout[...] = h5py.VirtualSource(source[name])
    file.create_virtual_dataset(name, layout)


def stored_outside(file: h5py.File, name: str, other: Path) -> None:
    file.create_dataset(name, (3,), "f4", external=[(str(other), 0, 12)])


def linked_through(file: h5py.File, name: str, other: Path) -> None:
    file["elsewhere"] = h5py.ExternalLink(str(other), "/")
    file[name] = h5py.SoftLink(f"/elsewhere/{name}")


def far_too_large(file: h5py.File, name: str, _other: Path) -> None:
    file.create_dataset(name, (4 * 10**9,), "f4", chunks=(1024,))


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (linked, "lies in another file"),
        (virtual, "lies in another file"),
        (stored_outside, "lies in another file"),
        (linked_through, "elsewhere lies in another file"),
        (far_too_large, "claims 4000000000 values|4,000,000,000 rows"),
    ],
)
def test_every_reader_refuses(kind: str, damage: Damage, message: str, tmp_path: Path) -> None:
    make, name, read = READERS[kind]
    path = make(tmp_path)
    other = tmp_path / "other.h5"
    other.write_bytes(path.read_bytes())
    with h5py.File(path, "r+") as file:
        attributes = dict(file[name].attrs)
        del file[name]
        damage(file, name, other)
        if damage not in (linked, linked_through):
            file[name].attrs.update(attributes)
    with pytest.raises(TriplexError, match=message) as caught:
        read(path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("kind", READERS)
def test_every_reader_lets_a_child_look_first(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, _, read = READERS[kind]
    path = make(tmp_path)
    (tmp_path / "child.py").write_text("import os; os.abort()")
    monkeypatch.setattr(hdf5_look, "CHILD", tmp_path / "child.py")
    with pytest.raises(TriplexError, match=r"fails on it \(SIGABRT\)"):
        read(path)


HOLD = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); input()"


@pytest.mark.parametrize("kind", [*READERS, "is it a prediction"])
def test_every_reader_says_that_a_file_is_open_elsewhere(kind: str, tmp_path: Path) -> None:
    make, _, read = READERS.get(kind, (READERS["prediction"][0], "", is_prediction))
    path = make(tmp_path)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(TriplexError, match="open elsewhere or cannot be locked") as caught:
            read(path)
        holder.communicate(b"\n")
    assert path.name in str(caught.value)


def test_only_the_groups_that_are_read_must_be_sound(tmp_path: Path) -> None:
    path = h5ad(tmp_path / "s.h5ad")
    with h5py.File(path, "r+") as file:
        file["X/indices"][0] = 10**6
    assert len(read_spots(path).names) == 3
    with pytest.raises(TriplexError, match="outside its sparse matrix"):
        read_measured(path)


def test_what_is_no_prediction_is_none(tmp_path: Path) -> None:
    assert not is_prediction(h5ad(tmp_path / "s.h5ad"))
    (tmp_path / "text.h5ad").write_text("no HDF5")
    assert not is_prediction(tmp_path / "text.h5ad")
    assert not is_prediction(tmp_path / "absent.h5ad")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    path = h5ad(tmp_path / "s.h5ad")
    with h5py.File(path, "r+") as file:
        file["obs/again"] = file["obs"]
        file["obs/soft"] = h5py.SoftLink("/obs")
    with open_hdf5(path, OutputError, "table", "copy it") as file:
        assert "again" in file["obs"]


def test_no_other_part_opens_hdf5(tmp_path: Path) -> None:
    """Every reader goes through ``open_hdf5``; what only asks after a checked digest may not.

    Stores of SpatialData are Zarr, and their codecs are checked before they are read.
    """
    package = Path(hdf5.__file__).parents[1]
    allowed = {"files/hdf5.py", "files/hdf5_child.py", "outputs/h5ad_parts.py", "cohort/resume.py"}
    allowed |= {"spots/spatial_store.py"}
    words = ("h5py.File(", "read_h5ad(path, backed", "anndata.read_h5ad(", "read_zarr(")
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in words)
    }
    assert found <= allowed

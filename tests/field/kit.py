"""What the cases are made of: a finished demo, a small slide, and damage to copies of them."""

from __future__ import annotations

import json
import shutil
import signal
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.field.child import Outcome, run_command, triplex

MPP = 200 / 224
"""Microns per pixel of the demo's slides."""


@dataclass
class Kit:
    """The material of one case; ``folder`` is its own and is removed afterwards."""

    demo: Path
    """A finished ``triplex-deploy demo --out``."""
    folder: Path
    """Working folder."""
    data: Path | None = None
    """Folder of real data with ``slides`` and ``her2st``; None if there is none."""
    env: dict[str, str] = field(default_factory=dict)
    """Variables of every command."""

    @property
    def bundle(self) -> Path:
        """The demo's bundle."""
        return self.demo / "bundle"

    @property
    def prediction(self) -> Path:
        """The demo's prediction."""
        return self.demo / "prediction" / "slide.h5ad"

    def run(self, *arguments: object, **options: Any) -> Outcome:
        """Run ``triplex-deploy`` with these arguments in the working folder."""
        env = {**self.env, **options.pop("env", {})}
        cwd = options.pop("cwd", self.folder)
        return run_command(triplex(*arguments), cwd, env, **options)

    def predict(self, slide: object, *arguments: object, **options: Any) -> Outcome:
        """Predict with the demo's bundle into ``out``, without a report."""
        bundle = options.pop("bundle", self.bundle)
        out = options.pop("out", self.folder / "out")
        given = (slide, "--bundle", bundle, "--out", out, "--no-report", *arguments)
        return self.run("predict", *given, **options)

    def prepare(self, dataset: object, *arguments: object, **options: Any) -> Outcome:
        """Prepare a data set of 10 genes into ``prepared``."""
        out = options.pop("out", self.folder / "prepared")
        given = (dataset, "--genes", "5", "--out", out, *arguments)
        return self.run("prepare", *given, **options)

    def small(self, name: str = "small.tif", flip: bool = False) -> Path:
        """Write a slide of four tiles, cut out of the demo's slide."""
        pixels = self.pixels()[900:1348, 900:1348]
        write_tiff(self.folder / name, pixels[::-1, ::-1] if flip else pixels)
        return self.folder / name

    def pixels(self) -> NDArray[np.uint8]:
        """Return the demo slide's pixels."""
        import tifffile

        pixels: NDArray[np.uint8] = tifffile.imread(self.demo / "slide.tif", key=0)
        return pixels

    def copy(self, name: str) -> Path:
        """Copy a file or folder of the demo into the working folder."""
        source, target = self.demo / name, self.folder / Path(name).name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
        return target

    def sections(self, *names: str) -> Path:
        """Copy the demo's data set with these sections only."""
        root = self.folder / "dataset"
        for name in names:
            (image,) = self.demo.glob(f"dataset/ST-imgs/*/{name}/*")
            for path in (
                image,
                self.demo / f"dataset/ST-cnts/{name}.tsv.gz",
                self.demo / f"dataset/ST-spotfiles/{name}_selection.tsv",
            ):
                target = root / path.relative_to(self.demo / "dataset")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        return root

    def altered_bundle(self, change: Callable[[dict[str, Any], Path], None]) -> Path:
        """Copy the bundle, change its manifest's content, and seal it again."""
        from triplex_deploy.bundle import Manifest
        from triplex_deploy.files.digest import sha256_of

        root = self.copy("bundle")
        path = root / "manifest.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content, root)
        for entry in content["graphs"]:
            entry["sha256"] = sha256_of(root / entry["file"])
        content["files"] = {name: sha256_of(root / name) for name in content["files"]}
        sealed = Manifest.model_validate_json(json.dumps(content)).sealed()
        path.write_text(sealed.to_json(), encoding="utf-8")
        return root

    def truth_csr(self) -> Any:
        """Return the demo's truth with sparse counts."""
        import anndata
        import scipy.sparse

        truth = anndata.read_h5ad(self.demo / "truth.h5ad")
        truth.X = scipy.sparse.csr_matrix(truth.X)
        return truth

    def evaluate(self, truth: object, **options: Any) -> Outcome:
        """Score the demo's prediction against a truth."""
        return self.run("evaluate", self.prediction, "--truth", truth, **options)

    def space_ranger(self, **parts: Any) -> Path:
        """Write Space Ranger outputs of 20 spots and 12 genes; ``parts`` replace arrays."""
        return write_space_ranger(self.folder / "visium" / "s1", self.demo / "slide.tif", parts)

    def mtx(self, text: bytes) -> Path:
        """Write Space Ranger outputs whose matrix.mtx is this text."""
        outs = self.space_ranger()
        (outs / "filtered_feature_bc_matrix.h5").unlink()
        folder = outs / "filtered_feature_bc_matrix"
        folder.mkdir()
        (folder / "matrix.mtx").write_bytes(text)
        (folder / "barcodes.tsv").write_text("".join(f"AAAC{i}-1\n" for i in range(20)))
        genes = "".join(f"E{i}\tG{i}\tGene Expression\n" for i in range(12))
        (folder / "features.tsv").write_text(genes)
        return outs


def write_tiff(path: Path, pixels: NDArray[np.uint8], **options: Any) -> Path:
    """Write a tiled TIFF at the demo's scale."""
    import tifffile

    tifffile.imwrite(
        path,
        pixels,
        **{
            "tile": (256, 256),
            "compression": "lzw",
            "photometric": "rgb",
            "resolution": (1e4 / MPP, 1e4 / MPP),
            "resolutionunit": "CENTIMETER",
            "metadata": None,
            **options,
        },
    )
    return path


def patch_tag(path: Path, tag: int, value: int) -> None:
    """Overwrite the value of a tag of the first page of a TIFF."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages.first.tags[tag].offset
    with path.open("r+b") as stream:
        stream.seek(offset + 8)
        stream.write(struct.pack("<I", value))


def write_space_ranger(outs: Path, slide: Path, parts: Mapping[str, Any]) -> Path:
    """Write ``outs`` with an h5 of counts, positions and the slide."""
    import h5py
    import scipy.sparse

    (outs / "spatial").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    counts = scipy.sparse.csr_matrix(rng.poisson(2, (20, 12)).astype(np.int32))
    arrays: dict[str, Any] = {
        "data": counts.data,
        "indices": counts.indices.astype(np.int64),
        "indptr": counts.indptr.astype(np.int64),
        "shape": [12, 20],
        **parts,
    }
    codes = [f"AAAC{i}-1" for i in range(20)]
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(codes, "S")
        for name, values in arrays.items():
            group[name] = values
        features = group.create_group("features")
        features["name"] = np.array([f"G{j}" for j in range(12)], "S")
        features["id"] = np.array([f"E{j}" for j in range(12)], "S")
        features["feature_type"] = np.array(["Gene Expression"] * 12, "S")
    header = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres"
    rows = [header]
    for i, code in enumerate(codes):
        row, column = i // 5, 2 * (i % 5) + i // 5 % 2
        rows.append(f"{code},1,{row},{column},{900 + row * 97},{900 + column * 56}")
    (outs / "spatial" / "tissue_positions.csv").write_text("\n".join(rows) + "\n")
    shutil.copy(slide, outs / "slide.tif")
    return outs


def set_csr(path: Path, key: str, index: int, value: int) -> None:
    """Overwrite one number of the sparse matrix X of an h5ad."""
    import h5py

    with h5py.File(path, "r+") as file:
        file["X"][key][index] = value


def largest_difference(first: Path, second: Path) -> float:
    """Return the largest difference of two predictions; infinity if their spots differ."""
    import anndata

    one, other = anndata.read_h5ad(first), anndata.read_h5ad(second)
    if one.shape != other.shape or list(one.obs_names) != list(other.obs_names):
        return float("inf")
    return float(np.abs(np.asarray(one.X) - np.asarray(other.X)).max())


HANGUP = int(signal.SIGHUP)
TERMINATE = int(signal.SIGTERM)

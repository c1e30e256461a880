"""Every reader of files, with a valid small file for each and a digest of what it reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.field.child import UNEXPECTED
from tests.fuzz.data_readers import (
    cell_ranger_2,
    digest,
    hest,
    mask,
    parquet,
    read_dataset,
    read_mask,
    read_pooled,
    read_section_list,
    read_slide,
    read_slide_list,
    read_spots,
    read_store,
    read_truth,
    regions,
    section_list,
    slide,
    slide_list,
    space_ranger,
    spots,
    st,
    store,
    truth_tsv,
    visium_hd,
    xenium,
)

SIDE_PX = 500
MPP = 0.5


@dataclass(frozen=True)
class Reader:
    """One reader."""

    name: str
    """Its name in tables."""
    make: Callable[[Path, Path], Path]
    """Writes a valid sample into a folder, with help of a folder of shared material; returns what
    is to be read."""
    read: Callable[[Path], str]
    """Reads it and returns a digest of all that was read."""
    targets: tuple[str, ...] = ("**/*",)
    """Patterns of the files in the sample that are damaged."""
    is_sealed: bool = False
    """Whether damage of any kind must be noticed: the files carry digests."""
    notices_cuts: bool = True
    """Whether a file that was cut short must be noticed. Lists of lines cannot notice it."""


# --- bundles, checkpoints, prepared folders, runs --------------------------------------------


def _copied(name: str) -> Callable[[Path, Path], Path]:
    def make(folder: Path, shared: Path) -> Path:
        source = shared / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy(source, folder / name)
        return folder / name

    return make


def _read_bundle(path: Path) -> str:
    from triplex_deploy.bundle import read_bundle

    bundle = read_bundle(path)
    return digest(bundle.manifest.to_json())


def _read_checkpoint(path: Path) -> str:
    from triplex_deploy.models.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    state = [(k, v.numpy()) for k, v in sorted(checkpoint.state_dict.items())]
    arrays = [value for _, value in state]
    return digest(checkpoint.genes, checkpoint.tile_mpp, [name for name, _ in state], *arrays)


def _read_prepared(path: Path) -> str:
    from triplex_deploy.training.prepared import label_sections, open_prepared

    prepared = open_prepared(path)
    values: list[Any] = []
    for name, section in prepared.sections.items():
        values += [name, np.asarray(section.features), np.asarray(section.tiles)]
        values += [section.measured.counts, section.measured.grid_rc, section.measured.genes]
    panel = tuple(sorted(next(iter(prepared.sections.values())).measured.genes))[:3]
    label_sections(prepared, list(prepared.sections), panel)
    return digest(*values)


def _read_run(path: Path) -> str:
    from triplex_deploy.training.evaluate import evaluate_run

    return digest(json.dumps(evaluate_run(path), sort_keys=True))


def _read_result(path: Path) -> str:
    from triplex_deploy import read_prediction

    prediction = read_prediction(path)
    values = (prediction.genes, prediction.expression, prediction.level0_xy, prediction.grid_rc)
    return digest(*values)


# --- settings ----------------------------------------------------------------------------------


def _toml(folder: Path, _shared: Path) -> Path:
    text = '[predict]\nbatch-size = "8"\nmemory-gb = 2.0\nno-report = true\n[bench]\n'
    (folder / "triplex-deploy.toml").write_text(text)
    return folder / "triplex-deploy.toml"


def _read_toml(path: Path) -> str:
    import contextlib
    import io
    import os

    from triplex_deploy.cli.main import run

    os.chdir(path.parent)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(["predict", "absent.tif", "--bundle", "absent", "--out", "out"])
    printed = out.getvalue() + err.getvalue()
    if UNEXPECTED.search(printed) or "Traceback" in printed:
        raise RuntimeError(printed[-300:])
    return digest(status in (1, 2, 3))


def _yaml(folder: Path, _shared: Path) -> Path:
    text = "model: triplex\nembedding_dim: 64\nepochs: 3\nlearning_rate: 0.001\nbatch_size: 16\n"
    (folder / "settings.yaml").write_text(text)
    return folder / "settings.yaml"


def _read_yaml(path: Path) -> str:
    from triplex_deploy.training.options import read_settings, split_settings

    return digest(split_settings(read_settings(path, [])))


def _study(folder: Path, _shared: Path) -> Path:
    import triplex_deploy.study as package

    source = Path(package.__file__).with_name("configs") / "demo.yaml"
    shutil.copy(source, folder / "study.yaml")
    return folder / "study.yaml"


def _read_study(path: Path) -> str:
    from triplex_deploy.study.config import read_study

    read_study(str(path), path.parent)
    return digest("read")


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("slide: tiled pyramid", slide("pyramid"), read_slide),
        Reader("slide: svs jpeg", slide("svs jpeg"), read_slide),
        Reader("slide: svs jpeg 2000", slide("svs 33005"), read_slide),
        Reader("slide: tiff strips", slide("strips.tif"), read_slide),
        Reader("slide: tiff planar", slide("planar.tif"), read_slide),
        Reader("slide: tiff deflate", slide("tiled.tif"), read_slide),
        Reader("slide: ome-tiff", slide("pyramid.ome.tif"), read_slide),
        Reader("slide: ome-zarr 0.4", slide("0.4.zarr"), read_slide, notices_cuts=False),
        Reader("slide: ome-zarr 0.5", slide("0.5.zarr"), read_slide, notices_cuts=False),
        Reader("slide: png", slide("png"), read_slide),
        Reader("slide: jpeg", slide("jpeg"), read_slide),
        Reader("spots: csv", spots(".csv"), read_spots, notices_cuts=False),
        Reader("spots: tsv.gz", spots(".tsv.gz"), read_spots, is_sealed=True),
        Reader("spots: h5ad", spots(".h5ad"), read_spots),
        Reader(
            "spots: space ranger",
            space_ranger(mtx=False),
            read_spots,
            targets=("**/*.csv",),
            notices_cuts=False,
        ),
        Reader("spots: parquet", parquet, read_spots),
        Reader("mask: png", mask, read_mask),
        Reader("mask: geojson", regions, read_mask),
        Reader("truth: tsv.gz", truth_tsv, read_truth, is_sealed=True),
        Reader("truth: h5ad", spots(".h5ad"), read_truth),
        Reader("data set: st", st, read_dataset("st"), ("**/*.tsv",), notices_cuts=False),
        Reader(
            "data set: visium h5",
            space_ranger(mtx=False),
            read_dataset("visium"),
            ("**/*.h5", "**/*.csv"),
            notices_cuts=False,
        ),
        Reader(
            "data set: visium mtx",
            space_ranger(mtx=True),
            read_dataset("visium"),
            ("**/*.mtx", "**/*.tsv"),
            notices_cuts=False,
        ),
        Reader(
            "data set: visium hd",
            visium_hd,
            read_pooled("visium-hd"),
            ("**/square_016um/**/*",),
            notices_cuts=False,
        ),
        Reader(
            "data set: xenium",
            xenium,
            read_pooled("xenium"),
            ("**/*.parquet", "**/*.csv", "**/*.xenium"),
            notices_cuts=False,
        ),
        Reader(
            "data set: spatialdata",
            store,
            read_store,
            ("**/zarr.json", "**/c/**/*", "**/*.parquet"),
            notices_cuts=False,
        ),
        Reader("data set: cell ranger 2", cell_ranger_2, read_dataset("visium"), ("**/*.gz",)),
        Reader("data set: hest", hest, read_dataset("hest"), ("**/*.h5ad", "**/*.json")),
        Reader("list of sections", section_list, read_section_list, notices_cuts=False),
        Reader("list of slides", slide_list, read_slide_list, ("*.csv",), notices_cuts=False),
        Reader("bundle", _copied("bundle"), _read_bundle, is_sealed=True),
        Reader("checkpoint", _copied("small.ckpt"), _read_checkpoint, is_sealed=True),
        Reader("prepared folder", _copied("prepared"), _read_prepared, is_sealed=True),
        Reader("run", _copied("run"), _read_run, ("**/*.json",)),
        Reader("prediction", _copied("result.h5ad"), _read_result),
        Reader("settings: toml", _toml, _read_toml, notices_cuts=False),
        Reader("settings: yaml", _yaml, _read_yaml, notices_cuts=False),
        Reader("study", _study, _read_study, notices_cuts=False),
    )
}
"""All readers by name."""


def targets_of(reader: Reader, sample: Path) -> list[Path]:
    """Return the files of a sample that are damaged, in a fixed order."""

    def found() -> Iterator[Path]:
        for pattern in reader.targets:
            yield from (path for path in sample.glob(pattern) if path.is_file())

    return sorted(set(found()))

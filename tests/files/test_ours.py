"""No writer replaces, removes or follows what this package did not write."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from triplex_deploy.bundle import first_other_file, is_bundle
from triplex_deploy.cli.bench import _require_own as require_own_bench
from triplex_deploy.cli.evaluate import _require_own as require_own_metrics
from triplex_deploy.errors import OutputError
from triplex_deploy.files.atomic import atomic_folder, atomic_path, copy_file
from triplex_deploy.files.lock import exclusive_lock, holder
from triplex_deploy.files.ours import (
    has_keys,
    is_our_png,
    is_ours,
    is_own_folder,
    remove_ours,
    require_ours,
)
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.cohort import write_cohort_index
from triplex_deploy.outputs.files import write_outputs
from triplex_deploy.outputs.formats import FORMATS, convert
from triplex_deploy.training.prepare import _IS_PREPARED

FOREIGN = (
    b"my own notes",
    b'{"name": "my web app"}',
    b"\x89PNG\r\n\x1a\nmine",
    b"<html>mine</html>",
)


def _prediction() -> Prediction:
    return Prediction(
        slide_name="x",
        expression=np.ones((12, 1), np.float32),
        genes=("GNAS",),
        level0_xy=np.stack([np.arange(12) * 100.0, np.zeros(12)], axis=1),
        grid_rc=np.stack([np.zeros(12, np.int64), np.arange(12)], axis=1),
        slide_size_wh=(1300, 200),
        slide_mpp=0.5,
        spot_diameter_px=100.0,
        thumbnail=np.full((20, 130, 3), 255, np.uint8),
        run={"bundle_id": "0f3a", "layout": "grid"},
    )


@dataclass(frozen=True)
class Writer:
    """A writer of this package, and a name that it uses in a folder."""

    name: str
    write: Callable[[Path], Any]


def _lock(folder: Path) -> None:
    with exclusive_lock(folder / ".x.lock"):
        pass


def _atomic(folder: Path) -> None:
    with atomic_path(folder / "any") as temporary:
        temporary.write_text("ours")


def _folder(folder: Path) -> None:
    with atomic_folder(folder / "any") as temporary:
        temporary.mkdir()


def _to(format_name: str) -> Writer:
    suffix = FORMATS[format_name].suffix
    return Writer(
        f"x{suffix}", lambda folder: convert(_prediction(), format_name, folder / f"x{suffix}")
    )


WRITERS = [
    *(Writer(f"x{end}", lambda folder: write_outputs(_prediction(), folder)) for end in (".h5ad",)),
    Writer("x.json", lambda folder: write_outputs(_prediction(), folder)),
    Writer("x.html", lambda folder: write_outputs(_prediction(), folder)),
    Writer("index.html", lambda folder: write_cohort_index(folder, [])),
    _to("csv"),
    _to("geojson"),
    _to("ome-tiff"),
    Writer(".x.lock", _lock),
    Writer("m.json", lambda folder: require_own_metrics(folder / "m.json")),
    Writer("m.png", lambda folder: require_own_metrics(folder / "m.json")),
    Writer("m-maps.png", lambda folder: require_own_metrics(folder / "m.json")),
    Writer("b.json", lambda folder: require_own_bench(folder / "b.json", None)),
    Writer("b.png", lambda folder: require_own_bench(None, folder / "b.png")),
    Writer("prepared.json", lambda f: require_ours(f / "prepared.json", _IS_PREPARED, "data")),
]


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.name)
@pytest.mark.parametrize("content", FOREIGN, ids=["text", "json", "png", "html"])
def test_foreign_file_is_kept(writer: Writer, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / writer.name
    path.write_bytes(content)
    with pytest.raises(OutputError) as caught:
        writer.write(tmp_path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
    assert str(path) in str(caught.value)


LINKED = [*WRITERS, Writer("any", _atomic), Writer("any", _folder)]


@pytest.mark.parametrize("writer", LINKED, ids=lambda writer: writer.name)
@pytest.mark.parametrize("exists", [True, False], ids=["file", "dangling"])
def test_link_is_neither_followed_nor_replaced(
    writer: Writer, exists: bool, tmp_path: Path
) -> None:
    other, folder = tmp_path / "other", tmp_path / "folder"
    folder.mkdir()
    if exists:
        other.write_text("theirs")
    (folder / writer.name).symlink_to(other)
    with pytest.raises(OutputError):
        writer.write(folder)
    assert (folder / writer.name).is_symlink()
    assert other.exists() == exists
    assert not exists or other.read_text() == "theirs"


def test_own_files_are_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        write_outputs(_prediction(), tmp_path)
        write_cohort_index(tmp_path, [])
        convert(_prediction(), "csv", tmp_path / "x.csv")
        _lock(tmp_path)
    assert json.loads((tmp_path / "x.json").read_text())["bundle_id"] == "0f3a"


def test_report_of_another_program_is_not_removed(tmp_path: Path) -> None:
    page = tmp_path / "x.html"
    page.write_text("mine")
    write_outputs(_prediction(), tmp_path, report=False)
    assert page.read_text() == "mine"


def test_metadata_that_were_cut_short_are_replaced(tmp_path: Path) -> None:
    write_outputs(_prediction(), tmp_path)
    for damaged in ("[" * 100_000, "", '{"bundle_id": "0f'):
        (tmp_path / "x.json").write_text(damaged)
        write_outputs(_prediction(), tmp_path)
        assert json.loads((tmp_path / "x.json").read_text())["bundle_id"] == "0f3a"


def test_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(OutputError):
        write_outputs(_prediction(), tmp_path)
    with pytest.raises(OutputError):
        require_ours(tmp_path / "x.json", lambda _: True, "metadata")


def test_picture_is_recognized_by_its_mark(tmp_path: Path) -> None:
    from triplex_deploy.training.figures import draw_histogram

    draw_histogram(tmp_path / "m.png", [0.1, 0.2])
    assert is_ours(tmp_path / "m.png", is_our_png)
    remove_ours(tmp_path / "m.png", lambda _: False)
    assert (tmp_path / "m.png").exists()


def test_holder_of_a_lock_cannot_forge_lines(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_bytes(b"process \x1b[31mEVIL\nerror: forged line")
    assert holder(path) == "process \\x1b[31mEVIL"


def test_manifest_of_another_program_makes_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "my web app"}')
    assert not is_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text(
        '{"schema_version": 1, "config": {}, "tile_px": 224, "graphs": [{"file": "a.onnx"}], '
        '"files": {"README.md": ""}}'
    )
    assert is_bundle(tmp_path)
    for name in ("a.onnx", "README.md"):
        (tmp_path / name).write_text("")
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "a.plan").write_text("")
    assert first_other_file(tmp_path) is None
    (tmp_path / "thesis.txt").write_text("years of work")
    assert first_other_file(tmp_path) == "thesis.txt"


def test_copy_does_not_follow_a_link(tmp_path: Path) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    source.write_text("ours")
    other.write_text("theirs")
    (tmp_path / "encoder.onnx").symlink_to(other)
    with pytest.raises(OutputError, match="is a link"):
        copy_file(source, tmp_path / "encoder.onnx")
    assert other.read_text() == "theirs"


def test_part_of_a_job_that_is_a_link_is_refused(tmp_path: Path) -> None:
    from triplex_deploy.cohort.run_job import _require_own

    other = tmp_path / "other"
    other.mkdir()
    job = SimpleNamespace(
        h5ad_path=tmp_path / "x.h5ad",
        metadata_path=tmp_path / "x.json",
        work_dir=tmp_path / ".x.part",
        report=True,
    )
    for name in (".x.part", ".x.part/features"):
        link = tmp_path / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(other)
        with pytest.raises(OutputError, match="is a link"):
            _require_own(job)  # type: ignore[arg-type]
        link.unlink()


def test_keys_are_recognized_in_the_first_bytes() -> None:
    recognize = has_keys("schema", "genes")
    assert recognize(b'{\n "schema": 1, "genes": [')
    assert not recognize(b'{"schema": 1}')
    assert not recognize(b'"schema" "genes"')


def test_folder_that_others_may_write_is_not_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    assert is_own_folder(folder)
    folder.mkdir(mode=0o755)
    assert is_own_folder(folder)
    folder.chmod(0o777)
    assert not is_own_folder(folder)
    folder.chmod(0o755)
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert is_own_folder(folder) == (owner == 0)


def test_features_in_a_folder_of_others_are_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from triplex_deploy.pipeline.feature_cache import FeatureCache

    cache = FeatureCache(tmp_path, "key", 2)
    cache.add(np.zeros((1, 2), np.int64), np.ones((1, 2), np.float32))
    cache.flush()
    assert len(list(FeatureCache(tmp_path, "key", 2).parts())) == 1
    tmp_path.chmod(0o777)
    others = FeatureCache(tmp_path, "key", 2)
    assert list(others.parts()) == []
    assert "chmod o-w" in caplog.text
    others.add(np.ones((1, 2), np.int64), np.ones((1, 2), np.float32))
    others.flush()
    assert len(list(tmp_path.glob("*.npz"))) == 1

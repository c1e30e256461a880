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
import torch

from triplex_deploy.bundle import first_other_file, is_bundle
from triplex_deploy.cli.bench import _require_own as require_own_bench
from triplex_deploy.cli.evaluate import _require_own as require_own_metrics
from triplex_deploy.contract import ModelConfig
from triplex_deploy.demo.run import _claim as claim_demo
from triplex_deploy.errors import OutputError
from triplex_deploy.exporters.staging import require_free
from triplex_deploy.exporters.triton import write_repository
from triplex_deploy.files.atomic import atomic_folder, atomic_path, copy_file
from triplex_deploy.files.lock import exclusive_lock, holder
from triplex_deploy.files.ours import (
    first_foreign,
    has_keys,
    is_our_npz,
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
from triplex_deploy.study.deploy import _require_own as require_own_deployment
from triplex_deploy.study.figures import _figure
from triplex_deploy.study.write import require_own_results
from triplex_deploy.training.features import OWN_FILES, claim_section
from triplex_deploy.training.import_checkpoint import ImportOptions, import_checkpoint
from triplex_deploy.training.prepare import _require_own as require_own_prepared
from triplex_deploy.training.run_files import require_own_run, save_state

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


def _study(folder: Path) -> None:
    paths = [folder / "tables" / "paper-scores.csv"]
    require_own_results(folder, "paper", [path for path in paths if path.parent.is_dir()])


def _study_picture(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with _figure(path, 1, 1):
        pass


def _import(folder: Path) -> None:
    options = ImportOptions("2024", {}, folder / "genes.txt", 0.5)
    import_checkpoint(folder / "weights.ckpt", folder / "model.ckpt", options)


def _bundle_of_triplex() -> Any:
    return SimpleNamespace(config=ModelConfig())


PREPARED = ("prepared.json", "tile_encoder.pt", "tile_encoder.onnx")
RUN = ("checkpoint.ckpt", "state.pt", "history.csv", "metrics.json", "curves.png")
DEPLOYED = ("cost.json", "spots.npz", "prediction.npz", "request.json")
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
    *(Writer(name, lambda folder: require_own_prepared(folder, None)) for name in PREPARED),
    *(Writer(name, claim_section) for name in OWN_FILES),
    *(Writer(name, require_own_run) for name in RUN),
    *(Writer(name, _study) for name in ("paper.json", "paper.md", "tables/paper-scores.csv")),
    *(Writer(name, require_own_deployment) for name in DEPLOYED),
    Writer("figures/paper.png", lambda folder: _study_picture(folder / "figures" / "paper.png")),
    Writer("b/thesis.txt", lambda folder: require_free(folder / "b", force=True)),
    Writer("b", lambda folder: require_free(folder / "b", force=False)),
    Writer("model.ckpt", _import),
    *(Writer(name, claim_demo) for name in ("slide.tif", ".triplex-demo-notes")),
    Writer("triton", lambda folder: write_repository(_bundle_of_triplex(), folder / "triton")),
]


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.name)
@pytest.mark.parametrize("content", FOREIGN, ids=["text", "json", "png", "html"])
def test_foreign_file_is_kept(writer: Writer, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / writer.name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(OutputError) as caught:
        writer.write(tmp_path)
    assert path.read_bytes() == content
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]
    named = tmp_path / Path(writer.name).parts[0]
    assert str(named) in str(caught.value)


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
    (folder / writer.name).parent.mkdir(exist_ok=True)
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
    assert "--shared-cache" in caplog.text
    others.add(np.ones((1, 2), np.int64), np.ones((1, 2), np.float32))
    others.flush()
    assert len(list(tmp_path.glob("*.npz"))) == 1


def test_first_foreign_file_of_a_folder_is_found(tmp_path: Path) -> None:
    for name in ("README.md", "run/fold-0/state.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert first_foreign(tmp_path, ("README.md", "run/fold-*/state.pt")) is None
    assert first_foreign(tmp_path, ("README.md",)) == tmp_path / "run/fold-0/state.pt"
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    assert first_foreign(tmp_path, ("README.md", "*.pt")) == tmp_path / "run" / "link"
    assert first_foreign(tmp_path / "absent", ()) is None


def test_notes_in_a_folder_that_the_demo_would_remove_are_kept(tmp_path: Path) -> None:
    claim_demo(tmp_path)
    claim_demo(tmp_path)
    notes = tmp_path / "run" / "fold-1" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    with pytest.raises(OutputError, match=r"notes.txt: is not of the demo"):
        claim_demo(tmp_path)
    assert notes.read_text() == "mine"


def test_notes_in_a_cell_that_a_study_would_train_again_are_kept(tmp_path: Path) -> None:
    from triplex_deploy.study.train_cell import _clear

    (tmp_path / "cell.json").write_text('{"digest": "0", "training_s": 1}')
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes.txt: is not of the study"):
        _clear(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "notes.txt").unlink()
    _clear(tmp_path)
    assert not tmp_path.exists()


def test_sections_and_runs_that_were_begun_are_recognized(tmp_path: Path) -> None:
    claim_section(tmp_path / "A1")
    (tmp_path / "A1" / "features.npy").write_text("ours, cut short")
    claim_section(tmp_path / "A1")
    for content in (b"epoch,train_loss\n0,1.5\n", b""):
        (tmp_path / "history.csv").write_bytes(content)
        (tmp_path / "curves.png").write_bytes(b"\x89PNG without a mark, of an earlier version")
        require_own_run(tmp_path)


def test_the_state_of_a_large_model_is_recognized(tmp_path: Path) -> None:
    weights = {f"encoder.layers.{i}.attention.weight": torch.zeros(1) for i in range(1500)}
    record = {"history": [{"epoch": 0.0, "train_loss": 1.5}]}
    state = {"options": {}, "config": {}, "record": record, "model": weights}
    save_state(tmp_path, {**state, "optimizer": {}})
    require_own_run(tmp_path)
    torch.save({"state_dict": weights}, tmp_path / "state.pt")
    with pytest.raises(OutputError, match=r"state.pt: is not a file of a training run"):
        require_own_run(tmp_path)


def test_what_numpy_writes_is_recognized_by_its_first_array(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        np.savez(file, level0_xy=np.zeros((2, 2)), grid_rc=np.zeros((2, 2)))
    assert is_ours(tmp_path / "a.npz", is_our_npz("level0_xy"))
    assert not is_ours(tmp_path / "a.npz", is_our_npz("grid_rc"))

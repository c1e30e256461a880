"""One job: which files it leaves, and when it is skipped or run again."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.cohort.stub_model import StubOpener, job_of, write_slide
from triplex_deploy.cohort import run_job as run_job_module
from triplex_deploy.cohort.executor import run_jobs
from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.cohort.pool import SerialExecutor
from triplex_deploy.cohort.run_job import run_job
from triplex_deploy.cohort.slide_worker import SlideProgram
from triplex_deploy.errors import OutputError
from triplex_deploy.files.lock import exclusive_lock
from triplex_deploy.progress import Silent
from triplex_deploy.runtime.model import Model


@pytest.fixture
def stub(opening: StubOpener) -> Model:
    return opening.open()


@pytest.fixture
def job(slides: list[Path], out: Path) -> Job:
    return job_of(slides[0], out)


def _serial(opening: StubOpener) -> SerialExecutor[Job, Outcome]:
    return SerialExecutor(SlideProgram(opening))


def _run(job: Job, stub: Model) -> Outcome:
    return run_job(job, stub, Silent())


def test_job_leaves_its_files_and_nothing_hidden(job: Job, stub: Model, out: Path) -> None:
    outcome = _run(job, stub)
    assert (outcome.status, outcome.error) == ("done", None)
    assert sorted(path.name for path in out.iterdir()) == ["Übersicht 0.h5ad", "Übersicht 0.json"]
    metadata = json.loads(job.metadata_path.read_text(encoding="utf-8"))
    assert metadata["spots"] == 4
    assert len(metadata["resume_key"]) == len(metadata["h5ad_sha256"]) == 64


def test_elapsed_time_is_that_of_its_stages(job: Job, stub: Model) -> None:
    before = {"start-up": 2.0, "check bundle": 1.0}
    outcome = run_job(replace(job, report=True), stub, Silent(), before)
    assert outcome.metadata is not None
    wall_s = outcome.metadata["wall_s"]
    assert list(wall_s)[:3] == ["start-up", "check bundle", "open slide"]
    assert list(wall_s)[-4:] == ["write h5ad", "write report", "other", "total"]
    *stages, total = wall_s.values()
    assert sum(stages) == pytest.approx(total, abs=1e-6)
    assert total >= 3
    metadata = json.loads(job.metadata_path.read_text(encoding="utf-8"))
    assert metadata["wall_s"] == wall_s


def test_what_came_before_counts_for_the_first_slide(
    slides: list[Path], out: Path, opening: StubOpener
) -> None:
    jobs = [job_of(slide, out) for slide in slides[:2]]
    with _serial(replace(opening, before={"start-up": 2.0})) as executor:
        first, second = executor.run(jobs)
    assert first.metadata is not None
    assert second.metadata is not None
    assert first.metadata["wall_s"]["start-up"] == 2.0
    assert "start-up" not in second.metadata["wall_s"]


def test_output_of_another_name_is_that_slides_name_in_the_table(
    job: Job, stub: Model, out: Path
) -> None:
    (out / "sub").mkdir()
    renamed = replace(job, h5ad_path=out / "sub" / "patient 7.h5ad")
    assert _run(renamed, stub).status == "done"
    with h5py.File(renamed.h5ad_path) as table:
        assert list(table["uns/spatial"]) == ["patient 7"]
    assert renamed.metadata_path.exists()


def test_complete_slide_is_skipped_with_its_metadata(job: Job, stub: Model) -> None:
    done = _run(job, stub)
    written = job.h5ad_path.stat().st_mtime_ns
    again = _run(job, stub)
    assert again.status == "skipped"
    assert again.metadata is not None
    assert done.metadata is not None
    assert again.metadata["spots"] == done.metadata["spots"]
    assert job.h5ad_path.stat().st_mtime_ns == written
    assert _run(replace(job, resume=False), stub).status == "done"
    assert job.h5ad_path.stat().st_mtime_ns > written


def test_options_of_speed_do_not_matter(job: Job, stub: Model) -> None:
    _run(job, stub)
    faster = replace(job.options, batch_size=3, memory_gb=1.0)
    assert _run(replace(job, options=faster), stub).status == "skipped"


def _cut_the_table(job: Job) -> Job:
    content = job.h5ad_path.read_bytes()
    job.h5ad_path.write_bytes(content[: len(content) // 2])
    return job


def _change_one_byte_of_x(job: Job) -> Job:
    with h5py.File(job.h5ad_path, "r+") as table:
        table["X"][0, 0] += 1
    return job


def _lose_the_metadata(job: Job) -> Job:
    job.metadata_path.unlink()
    return job


def _garble_the_metadata(job: Job) -> Job:
    job.metadata_path.write_text("[1,")
    return job


def _lie_about_the_spots(job: Job) -> Job:
    metadata = json.loads(job.metadata_path.read_text(encoding="utf-8"))
    job.metadata_path.write_text(json.dumps({**metadata, "spots": 5}))
    return job


def _touch_the_slide(job: Job) -> Job:
    os.utime(job.slide, ns=(1, 1))
    return job


def _redraw_the_slide_and_set_its_clock_back(job: Job) -> Job:
    before = job.slide.stat()
    write_slide(job.slide, 101)
    assert job.slide.stat().st_size == before.st_size, "the case is one of equal sizes"
    os.utime(job.slide, ns=(before.st_atime_ns, before.st_mtime_ns))
    return job


def _choose_genes(job: Job) -> Job:
    return replace(job, options=replace(job.options, genes=("gene1",)))


def _change_the_scale(job: Job) -> Job:
    return replace(job, options=replace(job.options, mpp=0.51))


def _relate_by_region(job: Job) -> Job:
    return replace(job, options=replace(job.options, region_mm=6.5))


def _want_a_report(job: Job) -> Job:
    return replace(job, report=True)


@pytest.mark.parametrize(
    "change",
    [
        _cut_the_table,
        _change_one_byte_of_x,
        _lose_the_metadata,
        _garble_the_metadata,
        _lie_about_the_spots,
        _touch_the_slide,
        _redraw_the_slide_and_set_its_clock_back,
        _choose_genes,
        _change_the_scale,
        _relate_by_region,
        _want_a_report,
    ],
)
def test_anything_else_is_predicted_again(job: Job, stub: Model, change: Any) -> None:
    _run(job, stub)
    changed = change(job)
    outcome = _run(changed, stub)
    assert (outcome.status, outcome.error) == ("done", None)
    assert _run(changed, stub).status == "skipped"


def test_table_of_somebody_else_is_never_overwritten(job: Job, stub: Model) -> None:
    _run(job, stub)
    with h5py.File(job.h5ad_path, "w") as table:
        table["X"] = np.ones((4, 3))
    outcome = _run(job, stub)
    assert "is not a prediction" in (outcome.error or ""), "it opens, and is not a prediction"
    job.h5ad_path.write_text("notes")
    job.metadata_path.unlink()
    assert "is not a prediction" in (_run(job, stub).error or "")
    assert job.h5ad_path.read_text() == "notes"


def test_changed_spots_or_mask_are_noticed(job: Job, stub: Model, tmp_path: Path) -> None:
    spots, mask = tmp_path / "spots.csv", tmp_path / "mask.png"
    spots.write_text("pixel_x,pixel_y,array_row,array_col\n120,120,0,0\n320,120,0,1\n")
    placed = replace(job, options=replace(job.options, all_tiles=False, spots=spots))
    assert _run(placed, stub).status == "done"
    assert _run(placed, stub).status == "skipped"
    spots.write_text("pixel_x,pixel_y,array_row,array_col\n120,120,0,0\n321,120,0,1\n")
    assert _run(placed, stub).status == "done"
    Image.fromarray(np.full((50, 50), 255, np.uint8)).save(mask)
    masked = replace(job, options=replace(job.options, all_tiles=False, mask=mask))
    assert _run(masked, stub).status == "done"
    Image.fromarray(np.full((50, 50), 254, np.uint8)).save(mask)
    assert _run(masked, stub).status == "done"


def test_slide_locked_elsewhere_is_left_alone(job: Job, stub: Model, out: Path) -> None:
    with exclusive_lock(job.lock_path):
        outcome = _run(job, stub)
    assert outcome.status == "elsewhere"
    assert "in progress elsewhere (process" in (outcome.error or "")
    assert list(out.iterdir()) == []


def test_failure_and_interrupt_leave_no_output_but_the_features(
    job: Job, stub: Model, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OutputError("disk full; free some space")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_job_module, "save_outputs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run(replace(job, resume=False), stub)
    assert list(out.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        _run(job, stub)
    monkeypatch.setattr(run_job_module, "save_outputs", broken)
    outcome = _run(job, stub)
    assert (outcome.status, outcome.error) == ("failed", "disk full; free some space")
    assert list(out.iterdir()) == [job.work_dir]
    assert [path.name for path in job.work_dir.iterdir()] == ["features"]
    monkeypatch.undo()
    resumed = _run(job, stub)
    assert resumed.metadata is not None
    assert (resumed.metadata["tiles_encoded"], resumed.metadata["tiles_from_cache"]) == (0, 4)
    assert not job.work_dir.exists()


def test_cache_the_caller_chose_is_kept(job: Job, stub: Model, out: Path, tmp_path: Path) -> None:
    kept = replace(job, options=replace(job.options, cache=tmp_path / "cache"))
    first, second = (_run(replace(kept, resume=False), stub).metadata for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first["tiles_from_cache"], second["tiles_from_cache"]) == (0, first["tiles_encoded"])
    assert sorted(path.suffix for path in out.iterdir()) == [".h5ad", ".json"]


@pytest.mark.parametrize("links", [True, False], ids=["put back", "power cut"])
def test_results_appear_together_with_the_table_last(
    links: bool, job: Job, stub: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(job, stub)
    old_table, old_metadata = job.h5ad_path.read_bytes(), job.metadata_path.read_bytes()
    real, seen = Path.replace, []

    def dies_before_the_table(self: Path, target: Path) -> Path:
        if self.parent.name == "files" and target.parent == job.h5ad_path.parent:
            seen.append(target.suffix)
            if target.suffix == ".h5ad":
                raise OSError("power cut")
        return real(self, target)

    def no_links(*_: object, **__: object) -> None:
        raise OSError("nothing can be put back")

    monkeypatch.setattr(Path, "replace", dies_before_the_table)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    changed = replace(job, options=replace(job.options, mpp=0.51))
    assert _run(changed, stub).status == "failed"
    monkeypatch.undo()
    assert seen == [".json", ".h5ad"]
    assert job.h5ad_path.read_bytes() == old_table
    assert (job.metadata_path.read_bytes() == old_metadata) == links
    assert _run(changed, stub).status == "done", "metadata of another table are not believed"
    assert _run(changed, stub).status == "skipped"


def test_leftovers_of_a_killed_run_are_swept(
    job: Job, opening: StubOpener, stub: Model, watcher: Any, out: Path
) -> None:
    _run(job, stub)
    (job.work_dir / "files").mkdir(parents=True)
    (job.work_dir / "files" / ".triplex-0.tmp").write_text("half")
    job.lock_path.touch()
    executor_for = lambda _: _serial(opening)  # noqa: E731
    (outcome,) = run_jobs([job], stub.bundle, executor_for)
    assert outcome.status == "skipped"
    assert sorted(path.suffix for path in out.iterdir()) == [".h5ad", ".json"]


def test_slide_done_elsewhere_meanwhile_is_waited_for_and_skipped(
    slides: list[Path], out: Path, tmp_path: Path, opening: StubOpener, stub: Model, watcher: Any
) -> None:
    """Another process locks the first slide, and finishes it while the second is predicted."""
    first, second = (job_of(slide, out) for slide in slides[:2])
    (tmp_path / "other").mkdir()
    theirs = replace(first, h5ad_path=tmp_path / "other" / first.h5ad_path.name)
    _run(theirs, stub)
    lock = exclusive_lock(first.lock_path)
    lock.__enter__()
    seen = []
    for outcome in run_jobs([first, second], stub.bundle, lambda _: _serial(opening)):
        seen.append((outcome.job.slide, outcome.status))
        if outcome.job.slide == second.slide:
            shutil.copy(theirs.metadata_path, first.metadata_path)
            shutil.copy(theirs.h5ad_path, first.h5ad_path)
            lock.__exit__(None, None, None)
    assert seen == [(second.slide, "done"), (first.slide, "skipped")]


def test_executor_is_not_started_when_all_is_complete(job: Job, stub: Model) -> None:
    _run(job, stub)

    def never(_n: int) -> Any:
        raise AssertionError("the bundle was opened for nothing")

    assert [o.status for o in run_jobs([job], stub.bundle, never)] == ["skipped"]

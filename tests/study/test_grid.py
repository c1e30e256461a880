"""The cells of a study: finished ones are kept, failed ones are named, and tables show the rest."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.study.conftest import ROOT, study_values, write_study
from triplex_deploy.cli.main import run as run_command
from triplex_deploy.cohort.executor import ExecutorChoice
from triplex_deploy.errors import OutputError
from triplex_deploy.files.lock import exclusive_lock
from triplex_deploy.study.cells import StudyCell, make_cells, metrics_of
from triplex_deploy.study.config import read_study
from triplex_deploy.study.run_cells import run_cells, task_size
from triplex_deploy.study.train_cell import train_cell

TWO_WORKERS = ExecutorChoice(workers=2)


def cells_of(
    folder: Path, values: dict[str, Any], out: Path | None = None
) -> tuple[StudyCell, ...]:
    return make_cells(read_study(write_study(folder, values)), out or folder / "out")


def trained_at(cells: tuple[StudyCell, ...]) -> dict[str, int]:
    """When each cell's checkpoint was written."""
    return {cell.key: cell.checkpoint.stat().st_mtime_ns for cell in cells}


@pytest.fixture(scope="module")
def finished(prepared_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 2 models, 2 folds and 1 seed, whose output is in ``out``; nothing is exported."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_study(folder, study_values(prepared_path))
    assert run_command(["study", str(path), "--out", str(folder / "out"), "--no-deploy"]) == 0
    return folder


def test_finished_study_has_rows_for_its_models_and_the_constant(finished: Path) -> None:
    results = json.loads((finished / "out/tiny.json").read_text())
    assert results["cells"] == {"all": 4, "done": 4}
    arguments = f"study {finished / 'study.yaml'} --out {finished / 'out'} --no-deploy"
    assert results["command"] == f"triplex-deploy {arguments}"
    assert results["config"]["models"]["GEM"]["global_depth"] == 2
    dataset = results["datasets"]["ST"]
    assert dataset["folds"] == {"0": ["A1"], "1": ["B1"]}
    assert set(dataset["models"]) == {"GEM", "NEM"}
    assert dataset["constant"]["mse"]["mean"] > 0
    assert dataset["models"]["NEM"]["difference"]["mse"]["n"] == 2
    assert dataset["models"]["GEM"]["difference"]["mse"] == {"mean": 0, "std": 0, "n": 2}
    page = (finished / "out/tiny.md").read_text()
    assert "| constant predictor |" in page
    assert page.splitlines()[2] == f"`triplex-deploy {arguments}`"
    assert "folds 0, 1; seeds 1; test_fold selection" in page
    assert (finished / "out/tables/tiny-ST-accuracy.csv").read_text().startswith("model,MSE,MAE")
    picture = finished / "out/figures/tiny-ST-folds.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "figures/tiny-ST-folds.png" in page
    assert not list((finished / "out").rglob("state.pt")), "a finished cell goes on from nothing"


def test_table_is_the_mean_of_the_cells_metrics(finished: Path, prepared_path: Path) -> None:
    cells = cells_of(finished, study_values(prepared_path))
    of_gem = [metrics_of(cell) for cell in cells if cell.model == "GEM"]
    errors = [metrics["model"]["mse"] for metrics in of_gem if metrics]
    results = json.loads((finished / "out/tiny.json").read_text())
    mean = results["datasets"]["ST"]["models"]["GEM"]["mse"]["mean"]
    assert mean == pytest.approx((errors[0] + errors[1]) / 2)


def test_second_run_trains_nothing(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = cells_of(finished, json_values(finished))
    before = trained_at(cells)
    arguments = ["study", str(finished / "study.yaml"), "--out", str(finished / "out")]
    assert run_command([*arguments, "--no-deploy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"]["done"] == 4
    assert trained_at(cells) == before


def json_values(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "study.yaml").read_text())
    return values


def test_other_settings_train_their_own_cells_anew(finished: Path, tmp_path: Path) -> None:
    """Cells of a model whose settings are the same stay as they are."""
    values = json_values(finished)
    values["models"]["NEM"]["learning_rate"] = 1e-3
    values["folds"] = [0]
    cells = cells_of(tmp_path, values, finished / "out")
    before = trained_at(cells)
    kept = {cell.model: metrics_of(cell) is not None for cell in cells}
    assert kept == {"GEM": True, "NEM": False}
    statuses = {o.cell.model: o.status for o in run_cells(cells, ExecutorChoice())}
    assert statuses == {"GEM": "kept", "NEM": "done"}
    after = trained_at(cells)
    assert [key for key in after if after[key] != before[key]] == ["ST / NEM / fold 0 / seed 1"]
    note = json.loads((cells[1].folder / "cell.json").read_text())
    assert note["settings"]["learning_rate"] == 1e-3
    assert note["training_s"] > 0


def test_killed_study_repeats_no_finished_cell(prepared_path: Path, tmp_path: Path) -> None:
    """Killed in the second epoch of the second cell, which resumes after its first epoch."""
    values = study_values(prepared_path, folds=[0])
    values["settings"]["epochs"] = 3
    cells = cells_of(tmp_path, values)
    script = f"""
import os, signal
from pathlib import Path
from triplex_deploy.cli.main import run
from triplex_deploy.training import batches
epoch, seen = batches.SpotSampler.epoch, []
def dying(self, number, *share):
    seen.append(number)
    if len(seen) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return epoch(self, number, *share)
batches.SpotSampler.epoch = dying
run(["study", {str(tmp_path / "study.yaml")!r}, "--out", {str(tmp_path / "out")!r}, "--no-deploy"])
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL
    assert [metrics_of(cell) is not None for cell in cells] == [True, False]
    assert len((cells[1].folder / "history.csv").read_text().splitlines()) == 1 + 1
    first = trained_at(cells[:1])
    epochs = []

    from triplex_deploy.training import batches

    real = batches.SpotSampler.epoch

    def counted(self: Any, number: int, *share: int) -> Any:
        epochs.append(number)
        return real(self, number, *share)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches.SpotSampler, "epoch", counted)
        statuses = [outcome.status for outcome in run_cells(cells, ExecutorChoice())]
    assert statuses == ["kept", "done"]
    assert epochs == [1, 2]
    assert trained_at(cells[:1]) == first


def test_failing_cell_is_named_and_stops_no_other(
    prepared_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = study_values(prepared_path, folds=[0])
    values["models"] = {
        "BAD": {**values["models"]["NEM"], "learning_rate": 1e30},
        **values["models"],
    }
    path = write_study(tmp_path, values)
    assert run_command(["study", str(path), "--out", str(tmp_path / "out"), "--no-deploy"]) == 3
    text = capsys.readouterr().out
    assert "2 of 3 cells done" in text
    assert "failed: ST / BAD / fold 0 / seed 1" in text
    results = json.loads((tmp_path / "out/tiny.json").read_text())
    assert [failure["cell"] for failure in results["failed"]] == ["ST / BAD / fold 0 / seed 1"]
    assert set(results["datasets"]["ST"]["models"]) == {"GEM", "NEM"}
    assert "## Failed" in (tmp_path / "out/tiny.md").read_text()


def test_cell_that_another_process_trains_is_left_to_it(
    finished: Path, prepared_path: Path, tmp_path: Path
) -> None:
    cell = cells_of(tmp_path, study_values(prepared_path))[0]
    lock = cell.folder.with_name(".seed-1.lock")
    lock.parent.mkdir(parents=True)
    with exclusive_lock(lock) as is_locked:
        assert is_locked
        outcome = train_cell(cell)
    assert outcome.status == "elsewhere"
    assert outcome.error is not None
    assert str(os.getpid()) in outcome.error


def test_folder_of_something_else_is_not_removed(prepared_path: Path, tmp_path: Path) -> None:
    cell = cells_of(tmp_path, study_values(prepared_path))[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "thesis.txt").write_text("mine")
    outcome = train_cell(cell)
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert "holds files that are not of a study" in outcome.error
    assert (cell.folder / "thesis.txt").read_text() == "mine"


def test_workers_share_the_cells(prepared_path: Path, tmp_path: Path) -> None:
    cells = cells_of(tmp_path, study_values(prepared_path, folds=[0]))
    outcomes = list(run_cells(cells, TWO_WORKERS))
    assert sorted((o.cell.model, o.status) for o in outcomes) == [("GEM", "done"), ("NEM", "done")]
    assert all(metrics_of(cell) is not None for cell in cells)


def kill_when_locked(cells: tuple[StudyCell, ...], killed: list[int]) -> threading.Thread:
    """Start a thread that kills the process of each cell as soon as that process has its lock."""

    def kill() -> None:
        for cell in cells:
            lock = cell.folder.with_name(f".{cell.folder.name}.lock")
            while not (lock.exists() and (words := lock.read_text().split())):
                time.sleep(0.001)
            killed.append(int(words[1]))  # the lock file holds "process N on HOST"
            os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_process_that_is_killed_fails_its_cell_and_the_others_are_trained(
    prepared_path: Path, tmp_path: Path
) -> None:
    values = study_values(prepared_path, folds=[0, 1])
    values["settings"]["epochs"] = 200  # so that the process is killed while it trains
    cells = cells_of(tmp_path, values)[:1]
    values["settings"]["epochs"] = 1
    cells += cells_of(tmp_path, values)[1:3]
    killed: list[int] = []
    thread = kill_when_locked(cells[:1], killed)
    outcomes = {outcome.cell.key: outcome for outcome in run_cells(cells, TWO_WORKERS)}
    thread.join()
    lost = outcomes.pop(cells[0].key)
    assert lost.status == "failed"
    assert (lost.error or "").startswith("its worker was killed")
    assert (lost.error or "").endswith("given up after 1 attempt; run the study again")
    assert [outcome.status for outcome in outcomes.values()] == ["done", "done"]
    assert killed[0] != os.getpid()


@pytest.mark.slow
def test_interrupt_stops_the_workers_and_leaves_no_result(
    prepared_path: Path, tmp_path: Path
) -> None:
    values = study_values(prepared_path, folds=[0])
    values["settings"]["epochs"] = 2000
    cells = cells_of(tmp_path, values)
    arguments = ["study", tmp_path / "study.yaml", "--out", tmp_path / "out", "--workers", "2"]
    script = "import sys; from triplex_deploy.cli.main import run; sys.exit(run(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments), "--no-deploy"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 180
        while not all((cell.folder / "history.csv").exists() for cell in cells):
            assert process.poll() is None, "the study ended"
            assert time.monotonic() < deadline, "the trainings did not start"
            time.sleep(0.05)
        locks = [cell.folder.with_name(f".{cell.folder.name}.lock") for cell in cells]
        workers = [int(lock.read_text().split()[1]) for lock in locks]
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 130
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    finally:
        process.kill()
    assert [metrics_of(cell) for cell in cells] == [None, None]


needs_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is absent: pip install 'triplex-deploy[cluster]'"
)


@needs_ray
def test_ray_task_reserves_the_devices_of_its_cell_or_a_few_cores(
    prepared_path: Path, tmp_path: Path
) -> None:
    from triplex_deploy.cohort.ray_workers import TaskSize

    values = study_values(prepared_path, folds=[0])
    values["models"]["GEM"] |= {"accelerator": "cuda", "devices": 2}
    on_gpus, on_cpus = cells_of(tmp_path, values)
    nodes = [{"CPU": 2.0}, {"CPU": 16.0, "GPU": 2.0}]
    assert task_size(on_gpus, nodes) == TaskSize(cpus=1, gpus=2)
    assert task_size(on_cpus, nodes) == TaskSize(cpus=4, gpus=0)
    assert task_size(on_cpus, nodes[:1]) == TaskSize(cpus=2, gpus=0)


RAY_SCRIPT = """
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from triplex_deploy.cohort.executor import ExecutorChoice
from triplex_deploy.study.cells import make_cells
from triplex_deploy.study.config import read_study
from triplex_deploy.study.run_cells import run_cells
from tests.study.test_grid import kill_when_locked

folder = Path(sys.argv[1])
cells, killed = make_cells(read_study(folder / "study.yaml"), folder / "out"), []
thread = kill_when_locked(cells[:1], killed)
for outcome in run_cells(cells, ExecutorChoice("ray")):
    print(outcome.cell.model, outcome.status, outcome.error)
thread.join()
print(len(killed), "killed")
"""


@needs_ray
@pytest.mark.slow
def test_cell_of_a_killed_ray_task_is_trained_by_another(
    prepared_path: Path, tmp_path: Path
) -> None:
    """In a process of its own: Ray leaves threads, sockets and warnings behind."""
    cells = cells_of(tmp_path, study_values(prepared_path, folds=[0]))
    finished = subprocess.run(
        [sys.executable, "-c", RAY_SCRIPT, tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr
    lines = sorted(finished.stdout.splitlines()[-3:])
    assert lines == ["1 killed", "GEM done None", "NEM done None"]
    assert all(metrics_of(cell) is not None for cell in cells)


def test_study_that_cannot_be_written_is_refused(prepared_path: Path, tmp_path: Path) -> None:
    from triplex_deploy.study.run import run_study

    path = write_study(tmp_path, study_values(prepared_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        run_study(read_study(path), tmp_path / "file")

"""The same jobs through Ray on this machine; skipped, visibly, where Ray is not installed."""

import sys
from pathlib import Path

import h5py
import pytest

from tests.cohort.ray_script import needs_ray, run_ray_script
from triplex_deploy.errors import BackendError
from triplex_deploy.install import install_command

pytestmark = pytest.mark.lengthy

SCRIPT = """
import json, logging, os, signal, sys, threading, time
from contextlib import suppress
from pathlib import Path
from tests.cohort.conftest import NobodyWatches
from tests.cohort.stub_model import StubOpener, job_of, stub_bundle
from triplex_deploy.cohort.executor import ExecutorChoice
from triplex_deploy.cohort.executor import run_jobs

traces, out, *slides = map(Path, sys.argv[1:])
opening = StubOpener(traces, delay_s=0.1, threads=1)
choice = ExecutorChoice("ray", 2, logging.WARNING)

def kill_one():
    while not list(out.glob(".*.lock")):
        time.sleep(0.01)
    time.sleep(0.3)
    while not (traces / "killed").exists():  # between two slides there may be no lock
        for lock in out.glob(".*.lock"):
            with suppress(OSError, IndexError):
                number = int(lock.read_text().split()[1])  # "process N on H": one at work
                os.kill(number, signal.SIGKILL)
                (traces / "killed").touch()
                return
        time.sleep(0.01)

threading.Thread(target=kill_one, daemon=True).start()
jobs = [job_of(slide, out, batch_size=1) for slide in slides]
outcomes = run_jobs(
    jobs, stub_bundle(), lambda n: choice.make(opening, NobodyWatches(), n)
)
print(json.dumps([[o.job.slide.name, o.status, o.error] for o in outcomes]))
"""


@pytest.mark.slow
@needs_ray
def test_actor_killed_mid_run_loses_nothing_and_nothing_is_done_twice(
    slides: list[Path], tmp_path: Path
) -> None:
    traces, out = tmp_path / "traces", tmp_path / "out"
    traces.mkdir()
    outcomes, _ = run_ray_script(SCRIPT, traces, out, slides, limit_s=240)
    assert (traces / "killed").exists()
    assert sorted(name for name, _, _ in outcomes) == [slide.name for slide in slides]
    assert {status for _, status, _ in outcomes} == {"done"}
    assert len([path for path in traces.iterdir() if path.name.isdigit()]) == 3
    assert sorted(path.suffix for path in out.iterdir()) == [".h5ad"] * 4 + [".json"] * 4
    values = set()
    for path in out.glob("*.h5ad"):
        with h5py.File(path) as table:
            values.add(table["X"][:].tobytes())
    assert len(values) == 4


@needs_ray
@pytest.mark.parametrize(
    ("nodes", "workers", "threads", "device", "expected"),
    [
        ([{"CPU": 16}, {"CPU": 8}], None, None, "any", (4, 0, 6)),
        ([{"CPU": 2}], None, None, "any", (2, 0, 1)),
        ([{"CPU": 2}], 2, None, "any", (1, 0, 2)),
        ([{"CPU": 16}], 3, 8, "any", (8, 0, 3)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 8, "GPU": 1}], None, None, "any", (1, 1, 3)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 8}], None, None, "cuda", (1, 1, 2)),
        ([{"CPU": 16, "GPU": 2}], None, None, "cpu", (4, 0, 4)),
    ],
)
def test_actors_fill_the_cluster_by_gpu_or_by_a_few_cpus(
    nodes: list[dict[str, float]],
    workers: int | None,
    threads: int | None,
    device: str,
    expected: tuple[int, int, int],
) -> None:
    from triplex_deploy.cohort.ray_workers import ActorSize

    size = ActorSize.on(nodes, workers, threads, device)
    assert (size.cpus, size.gpus, size.limit) == expected


@needs_ray
def test_readers_of_an_actor_are_its_part_of_the_cores() -> None:
    from triplex_deploy.cohort.ray_workers import ActorSize

    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 24.0, "GPU": 2.0}, {"CPU": 4.0}]
    assert ActorSize.on(nodes, None).readers == 8
    assert ActorSize.on(nodes, None, threads=3).readers == 3
    assert ActorSize.on(nodes, None, device="cpu").readers is None


@needs_ray
def test_gpus_that_a_cluster_has_not_are_an_error() -> None:
    from triplex_deploy.cohort.ray_workers import ActorSize

    with pytest.raises(BackendError, match=r"the Ray cluster has no GPU; .*--device cpu"):
        ActorSize.on([{"CPU": 4.0}], None, device="cuda")


def test_ray_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from tests.cohort.stub_model import stub_bundle, write_slide
    from triplex_deploy.cli.main import run
    from triplex_deploy.runtime import model

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "triplex_deploy.cohort.ray_workers", raising=False)
    monkeypatch.setattr(model, "load_bundle", lambda _: stub_bundle())
    slide = write_slide(tmp_path / "a.png")
    out = tmp_path / "out"
    arguments = ["predict", slide, "--bundle", tmp_path, "--out", out, "--executor", "ray"]
    assert run([str(argument) for argument in arguments]) == 1
    assert install_command("cluster") in capsys.readouterr().err

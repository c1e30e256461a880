"""Two Ray nodes on this machine, one of which is killed while it works."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.cohort.conftest import NobodyWatches
from tests.cohort.ray_script import needs_ray, run_ray_script
from tests.cohort.stub_model import StubOpener, job_of, stub_bundle, write_slide
from triplex_deploy.cohort.executor import ExecutorChoice, run_jobs

pytestmark = [pytest.mark.slow, needs_ray]

SCRIPT = """
import json, logging, os, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from tests.cohort.conftest import NobodyWatches
from tests.cohort.stub_model import StubOpener, job_of, stub_bundle
from triplex_deploy.cohort.executor import ExecutorChoice, run_jobs

traces, out, *slides = map(Path, sys.argv[1:])
os.environ["RAY_AUTH_MODE"] = "disabled"
cluster = Cluster()
memory = {"object_store_memory": 100_000_000, "num_gpus": 0}
cluster.add_node(num_cpus=1, **memory)
second = cluster.add_node(num_cpus=1, **memory)
os.environ["RAY_ADDRESS"] = cluster.address
opening = StubOpener(traces, delay_s=0.3, threads=1)
choice = ExecutorChoice("ray", 2, logging.WARNING)

def kill_second():
    while len(list(out.glob(".*.lock"))) < 2:  # both nodes are at work
        time.sleep(0.01)
    cluster.remove_node(second, allow_graceful=False)
    (traces / "killed").touch()

threading.Thread(target=kill_second, daemon=True).start()
jobs = [job_of(slide, out, batch_size=1) for slide in slides]
outcomes = list(run_jobs(jobs, stub_bundle(), lambda n: choice.make(opening, NobodyWatches(), n)))
print(json.dumps([[o.job.slide.name, o.status, o.error] for o in outcomes]))
ray.shutdown()
cluster.shutdown()
"""


def test_a_node_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    slides = [write_slide(tmp_path / f"s{number}.png", 100 + 20 * number) for number in range(6)]
    traces, out, alone = tmp_path / "traces", tmp_path / "out", tmp_path / "alone"
    traces.mkdir()
    outcomes, errors = run_ray_script(SCRIPT, traces, out, slides, limit_s=500)
    assert (traces / "killed").exists()
    assert sorted((name, status) for name, status, _ in outcomes) == [
        (slide.name, "done") for slide in slides
    ]
    assert "state-dump" not in errors
    choice = ExecutorChoice()
    jobs = [job_of(slide, alone) for slide in slides]
    list(
        run_jobs(jobs, stub_bundle(), lambda n: choice.make(StubOpener(traces), NobodyWatches(), n))
    )
    for job in jobs:
        with h5py.File(job.h5ad_path) as one, h5py.File(out / job.h5ad_path.name) as two:
            np.testing.assert_array_equal(one["X"][:], two["X"][:])

"""Graphs that run per slide free their working memory afterwards."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.runtime.model import Model, RunnableBundle

SPOTS = 6000
CHILD = """
import sys
import numpy as np
from triplex_deploy.runtime.model import load_bundle


def resident_bytes():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def run(session, spots):
    features = np.ones((spots, 512), np.float32)
    return session.run({"features": features, "apeg_index": np.full((spots, 9), -1)})


with load_bundle(sys.argv[1]).open(device="cpu") as model:
    session = model.session("global_encoder")
    run(session, 2)
    before = resident_bytes()
    run(session, int(sys.argv[2]))
    print(resident_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is in /proc")
def test_memory_of_a_large_slide_is_freed(bundle: RunnableBundle) -> None:
    """By default ONNX Runtime would keep seven tensors of the slide's size."""
    command = [sys.executable, "-c", CHILD, str(bundle.path), str(SPOTS)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(finished.stdout) < SPOTS * 512 * 4


def test_only_graphs_of_a_whole_slide_share_no_block_of_memory(model: Model) -> None:
    laid_out = {
        name: session._session.get_session_options().enable_mem_pattern  # type: ignore[attr-defined]
        for name, session in model.sessions.items()
    }
    assert {name for name, layout in laid_out.items() if not layout} == {"global_encoder"}


def test_slides_of_changing_size_have_the_same_outputs(model: Model) -> None:
    session = model.session("global_encoder")
    first = session.run(graph_inputs(session.spec, 30))["global_tokens"]
    session.run(graph_inputs(session.spec, 500))
    again = session.run(graph_inputs(session.spec, 30))["global_tokens"]
    np.testing.assert_array_equal(again, first)

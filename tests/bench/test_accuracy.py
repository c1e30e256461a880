"""Test where the accuracy of a subject comes from."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.bench.accuracy import HERE, measure_accuracy, read_accuracy
from triplex_deploy.bundle import PARITY_INPUTS
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.model import Model, RunnableBundle
from triplex_deploy.runtime.replay import CHAIN
from triplex_deploy.runtime.session import Arrays, Session


class Noisy(Session):
    """Adds noise to what another session computes, as a coarse precision does."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.spec)
        self._session = session

    def _run(self, inputs: Tensors) -> Arrays:
        rng = np.random.default_rng(0)
        outputs = self._session.run(inputs)
        return {
            name: array + 0.3 * array.std() * rng.standard_normal(array.shape, np.float32)
            for name, array in outputs.items()
        }

    def close(self) -> None:
        pass


@pytest.fixture
def noisy(model: Model) -> Model:
    sessions = {name: Noisy(session) for name, session in model.sessions.items()}
    return replace(model, sessions=sessions)


def test_accuracy_is_of_the_graphs_as_they_run_here(model: Model, noisy: Model) -> None:
    exact, _ = measure_accuracy(model)
    coarse, _ = measure_accuracy(noisy)
    assert exact is not None
    assert coarse is not None
    assert exact.source == coarse.source == HERE
    assert (exact.passed, coarse.passed) == (True, False)
    assert exact.least_cosine > 0.99999
    assert coarse.least_cosine < 0.99
    assert coarse.min_gene_pcc < exact.min_gene_pcc


def test_bundle_without_a_stored_slide_has_the_accuracy_of_its_export(
    noisy: Model, tmp_path: Path
) -> None:
    with np.load(noisy.bundle.path / PARITY_INPUTS) as stored:
        kept = {name: array for name, array in stored.items() if not name.startswith(f"{CHAIN}/")}
    np.savez(tmp_path / PARITY_INPUTS, **kept)
    shutil.copy(noisy.bundle.path / "parity.json", tmp_path)
    bundle = replace(noisy.bundle, path=tmp_path)
    found, _ = measure_accuracy(replace(noisy, bundle=bundle))
    report = json.loads((noisy.bundle.path / "parity.json").read_text())
    assert found is not None
    assert (found.source, found.passed) == ("parity.json", report["passed"])


def test_stored_inputs_that_cannot_be_read_are_named(model: Model, tmp_path: Path) -> None:
    bundle = replace(model.bundle, path=tmp_path)
    found, reason = measure_accuracy(replace(model, bundle=bundle))
    assert found is None
    assert PARITY_INPUTS in str(reason)


def test_accuracy_that_is_not_there_says_why(tmp_path: Path) -> None:
    assert read_accuracy(tmp_path, "onnxruntime") == (
        None,
        "parity.json cannot be read (No such file or directory)",
    )
    (tmp_path / "parity.json").write_text('{"graphs": []}')
    found, reason = read_accuracy(tmp_path, "onnxruntime")
    assert found is None
    assert "has another form" in str(reason)


def test_accuracy_is_that_of_the_backends_own_graphs(
    bundle: RunnableBundle, tmp_path: Path
) -> None:
    (tmp_path / "tensorrt_parity.json").write_text((bundle.path / "parity.json").read_text())
    found, _ = read_accuracy(tmp_path, "tensorrt")
    assert found is not None
    assert found.source == "tensorrt_parity.json"
    assert read_accuracy(tmp_path, "onnxruntime")[0] is None

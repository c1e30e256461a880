"""``export``, ``verify`` and ``doctor`` as commands."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Invoke
from triplex_deploy.runtime.model import RunnableBundle

pytestmark = pytest.mark.torch


def test_verify_replays_every_graph(invoke: Invoke, bundle: RunnableBundle) -> None:
    finished = invoke("verify", bundle.path, "--json")
    assert finished.status == 0, finished.err
    summary = json.loads(finished.out)
    assert summary["passed"] is True
    assert [graph["graph"] for graph in summary["graphs"]] == list(bundle.specs)


def test_verify_names_the_graph_that_strays(
    invoke: Invoke, bundle: RunnableBundle, tmp_path: Path
) -> None:
    import shutil

    from triplex_deploy.bundle import Manifest
    from triplex_deploy.files.digest import sha256_of

    copy = tmp_path / "bundle"
    shutil.copytree(bundle.path, copy)
    path = copy / "parity_inputs.npz"
    stored = dict(np.load(path))
    stored["global_encoder/out/global_tokens"] *= 1.01
    np.savez(path, **stored)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["parity_inputs.npz"] = sha256_of(path)
    sealed = Manifest.model_validate_json(json.dumps(manifest)).sealed()
    (copy / "manifest.json").write_text(sealed.to_json())
    finished = invoke("verify", copy)
    assert finished.status == 1
    assert "global_encoder no longer match PyTorch" in finished.err


def test_export_of_a_missing_checkpoint(invoke: Invoke, tmp_path: Path) -> None:
    finished = invoke("export", tmp_path / "gone.ckpt", "--out", tmp_path / "bundle")
    assert finished.status == 1
    assert "gone.ckpt" in finished.err
    assert list(tmp_path.iterdir()) == []


def test_export_keeps_what_is_there(invoke: Invoke, checkpoint_path: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    finished = invoke("export", checkpoint_path, "--out", tmp_path / "bundle")
    assert finished.status == 1
    assert "--force" in finished.err


def test_doctor_finds_this_machine_fit(invoke: Invoke) -> None:
    finished = invoke("doctor", "--json")
    assert finished.status == 0
    findings = {finding["name"]: finding for finding in json.loads(finished.out)["findings"]}
    assert findings["tiling kernels"]["ok"] is True
    assert findings["onnxruntime"]["ok"] is True


def test_doctor_fails_where_predicting_cannot_work(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    finished = invoke("doctor")
    assert finished.status == 1
    assert "FAULT" in finished.out
    assert "error: onnxruntime" in finished.err

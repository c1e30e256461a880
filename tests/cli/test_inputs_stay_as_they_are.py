"""Names beyond ASCII and with spaces work, and nothing is ever written beside an input."""

import hashlib
import shutil
from pathlib import Path

from tests.cli.conftest import Invoke
from triplex_deploy.runtime.model import RunnableBundle


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_inputs_with_unusual_names_are_read_and_not_touched(
    invoke: Invoke, bundle: RunnableBundle, slide_path: Path, tmp_path: Path
) -> None:
    inputs = tmp_path / "Eingang µ"
    shutil.copytree(bundle.path, inputs / "Modell für Brust")
    shutil.copy(slide_path, inputs / "Größe 1 組織.tif")
    before = _contents(inputs)
    for path in [inputs, *inputs.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    out = tmp_path / "Aus gang"
    slide, model = inputs / "Größe 1 組織.tif", inputs / "Modell für Brust"
    finished = invoke("predict", slide, "--bundle", model, "--out", out, "--genes", "GNAS")
    for path in [inputs, *inputs.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert finished.status == 0, finished.err
    assert sorted(path.name for path in out.iterdir()) == [
        "Größe 1 組織.h5ad",
        "Größe 1 組織.html",
        "Größe 1 組織.json",
    ]
    assert _contents(inputs) == before

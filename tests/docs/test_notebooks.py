"""The notebooks: their cells run in order as plain Python, without a Jupyter kernel."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT

FOLDER = ROOT / "examples" / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def code_of(name: str) -> list[str]:
    content = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the quick demo, from which both notebooks start."""
    import triplex_deploy as td

    folder = tmp_path_factory.mktemp("notebooks")
    td.run_demo(folder / "demo-out", quick=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_run_in_order(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in code_of(name):
        exec(compile(cell, name, "exec"), names)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_hold_no_outputs_and_compile(name: str) -> None:
    content = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    for cell in content["cells"]:
        assert {"id", "cell_type", "metadata", "source"} <= set(cell)
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            compile("".join(cell["source"]), name, "exec")


def test_there_are_two_notebooks() -> None:
    assert NOTEBOOKS == ["predict-and-look.ipynb", "train-and-export.ipynb"]

"""The summary beside a prediction is used with that prediction alone, and only if it is sound."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from triplex_deploy.outputs import Prediction, cohort
from triplex_deploy.outputs.cohort import summarize_folder, summarize_prediction
from triplex_deploy.outputs.files import write_outputs
from triplex_deploy.outputs.sidecar import recorded_summary, sidecar_path
from triplex_deploy.outputs.slide_summary import SlideSummary


@pytest.fixture
def table(prediction: Prediction, tmp_path: Path) -> Path:
    named = replace(prediction, slide_name="A", run={"layout": "grid", "spots_per_s": 12.3456})
    return write_outputs(named, tmp_path, report=False)


def change(table: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = sidecar_path(table)
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_the_summary_beside_a_prediction_is_that_of_its_content(
    table: Path, prediction: Prediction
) -> None:
    named = replace(prediction, slide_name="A", run={"layout": "grid", "spots_per_s": 12.3456})
    assert recorded_summary(table) == SlideSummary.of(named)


def test_an_index_is_made_without_opening_a_prediction(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: Path) -> Prediction:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(cohort, "read_prediction", opened)
    monkeypatch.setattr(cohort, "is_prediction", opened)
    assert [summary.slide_name for summary in summarize_folder(table.parent)] == ["A"]


def test_the_summary_of_another_prediction_is_not_taken(
    table: Path, prediction: Prediction, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    few = prediction.select_genes(["FASN"])
    other = write_outputs(replace(few, slide_name="A"), tmp_path / "other")
    table.write_bytes(other.read_bytes())
    assert recorded_summary(table) is None
    assert [gene.name for gene in summarize_prediction(table).genes] == ["FASN"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spots", -1),
        ("spots", True),
        ("spots", "30"),
        ("seconds", "fast"),
        ("size_mm", [1.0]),
        ("size_mm", [1.0, -2.0]),
        ("size_mm", [1.0, None]),
        ("genes", ["GNAS"]),
        ("genes", {"GNAS": [1.0]}),
        ("genes", {"GNAS": ["<b>", 1.0]}),
        ("genes", {f"gene{number}": [1.0, 1.0] for number in range(301)}),
        ("tissue_jpeg", '" onerror="alert(1)'),
        ("map_jpeg", "A" * (1 << 19)),
        ("map_jpeg", None),
    ],
)
def test_a_damaged_summary_is_made_anew(table: Path, key: str, value: Any) -> None:
    change(table, lambda content: content["summary"].update({key: value}))
    assert recorded_summary(table) is None
    assert summarize_prediction(table).n_spots == 30


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_a_summary_of_another_kind_is_made_anew(table: Path, content: Any) -> None:
    change(table, lambda record: record.update(summary=content))
    assert recorded_summary(table) is None
    assert summarize_prediction(table).n_spots == 30


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a":' * 100_000])
def test_a_damaged_file_beside_a_prediction_changes_nothing(table: Path, text: str) -> None:
    sidecar_path(table).write_text(text)
    (summary,) = summarize_folder(table.parent)
    assert (summary.slide_name, summary.n_spots) == ("A", 30)


def test_the_metadata_of_a_run_stay_readable(table: Path) -> None:
    """The pictures of the summary are on one line, after the metadata."""
    *_, before, summary, end = sidecar_path(table).read_text(encoding="utf-8").splitlines()
    assert before.startswith('  "h5ad_sha256": ')
    assert summary.startswith('  "summary": {')
    assert end == "}"

"""The JSON of a result: it comes back as it was written, or is refused by name."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from tests.bench.conftest import make_case, make_result
from triplex_deploy.bench import result as schema
from triplex_deploy.bench.result import read_result, write_result
from triplex_deploy.errors import ConfigError

PAGE = Path(__file__).resolve().parents[2] / "docs/benchmarks.md"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "result.json"
    write_result(make_result(make_case([[1.0, 2.0], [1.5, 2.5]])), path)
    return path


def test_result_comes_back_as_it_was_written(written: Path) -> None:
    assert read_result(written) == make_result(make_case([[1.0, 2.0], [1.5, 2.5]]))


def test_unknown_schema_version_is_refused(written: Path) -> None:
    content = json.loads(written.read_text())
    written.write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(ConfigError, match="schema version 99, this release reads 1"):
        read_result(written)


def test_unknown_and_missing_fields_are_named(written: Path) -> None:
    content = json.loads(written.read_text())
    content["cases"][0]["color"] = "red"
    written.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"cases\.0\.color"):
        read_result(written)
    del content["cases"][0]["color"], content["machine"]["cpu"]
    written.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"machine\.cpu"):
        read_result(written)


def test_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_result(tmp_path / "absent.json")
    path = tmp_path / "list.json"
    path.write_text("[1, 2]")
    with pytest.raises(ConfigError, match="not a JSON object"):
        read_result(path)


def test_every_field_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    models = [
        model
        for model in vars(schema).values()
        if isinstance(model, type) and issubclass(model, BaseModel) and model is not BaseModel
    ]
    assert len(models) > 8
    missing = [
        f"{model.__name__}.{name}"
        for model in models
        for name in model.model_fields
        if f"`{name}`" not in page
    ]
    assert missing == []

"""The reference has a table for every public function, and every field has a description."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import triplex_deploy
from triplex_deploy.cohort.executor import ExecutorChoice
from triplex_deploy.cohort.job import Job, Outcome
from triplex_deploy.outputs.file_format import FileFormat
from triplex_deploy.outputs.measured import Measured

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "python.md"
PUBLIC = {name: getattr(triplex_deploy, name) for name in triplex_deploy.__all__}
FUNCTIONS = [name for name, value in PUBLIC.items() if inspect.isfunction(value)]
CLASSES = [value for value in PUBLIC.values() if dataclasses.is_dataclass(value)]
CLASSES += [Outcome, Job, ExecutorChoice, FileFormat, Measured]


def test_every_public_name_is_in_the_reference() -> None:
    named = set(re.findall(r"^::: triplex_deploy\.(\w+)$", PAGE.read_text(encoding="utf-8"), re.M))
    assert named == set(PUBLIC) - {"__version__"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_described(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    arguments = text.partition("\nArgs:\n")[2].partition("\n\n")[0]
    described = re.findall(r"^    (\w+): ", arguments, re.M)
    assert described == list(inspect.signature(PUBLIC[name]).parameters)
    assert "\nRaises:\n" in text
    returns = inspect.signature(PUBLIC[name]).return_annotation
    assert ("\nReturns:\n" in text or "\nYields:\n" in text) == (returns != "None")


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_field_is_described(cls: Any) -> None:
    (body,) = (node.body for node in ast.parse(inspect.getsource(cls)).body)  # type: ignore[attr-defined]
    bare = []
    for field, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = after.value if isinstance(after, ast.Expr) else None
            if not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
                bare.append(field.target.id)
    assert bare == []

"""Write the metadata of a run as a JSON file."""

from __future__ import annotations

from pathlib import Path

from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.strict_json import to_strict_json
from triplex_deploy.outputs.prediction import Prediction


def write_json(prediction: Prediction, path: str | Path) -> None:
    """Write the metadata of a prediction's run as strict JSON, atomically.

    Args:
        prediction: Its ``run`` is written.
        path: File to write; an existing file is replaced.

    Raises:
        ContractError: If a value has no JSON form.
        OutputError: If the file cannot be written.
    """
    text = metadata_text(prediction)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def metadata_text(prediction: Prediction) -> str:
    """Return the content of the JSON file; raises ``ContractError`` for a value without JSON."""
    return to_strict_json(prediction.run, indent=2) + "\n"

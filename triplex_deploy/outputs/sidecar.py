"""The run's facts as JSON: beside the prediction, and inside it."""

from __future__ import annotations

from pathlib import Path

from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.strict_json import to_strict_json
from triplex_deploy.outputs.prediction import Prediction


def write_sidecar(prediction: Prediction, path: str | Path) -> None:
    """Write ``prediction.run`` as strict JSON, atomically; ``OutputError`` on failure."""
    text = to_strict_json(prediction.run, indent=2)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")

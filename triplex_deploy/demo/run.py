"""The whole job on synthetic input: checkpoint, bundle, slide, prediction, all under one folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exporters.export import ExportOptions, export_bundle
from triplex_deploy.demo.checkpoint import write_demo_checkpoint
from triplex_deploy.demo.slide import synthesise_slide
from triplex_deploy.errors import OutputError
from triplex_deploy.outputs.files import write_outputs
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.pipeline.predict import predict_slide
from triplex_deploy.pipeline.progress import Progress
from triplex_deploy.runtime.model import load_bundle

logger = logging.getLogger(__name__)

MPP: Final = 0.5
SEED: Final = 0
MARKER: Final = ".triplex-demo"
"""Marks a folder as the demo's own, which it may write over."""


@dataclass(frozen=True)
class DemoSize:
    """Width and height of the synthetic slide in pixels."""

    width: int
    height: int


FULL: Final = DemoSize(4480, 3584)
QUICK: Final = DemoSize(2240, 1792)


def run_demo(out: str | Path, size: DemoSize, progress: Progress) -> Prediction:
    """Write checkpoint.ckpt, bundle/, slide.tif and prediction/ under ``out``.

    Raises ``OutputError`` if ``out`` holds anything but an earlier demo.
    """
    root = Path(out)
    _claim(root)
    logger.info("writing an untrained checkpoint")
    write_demo_checkpoint(root / "checkpoint.ckpt", MPP, SEED)
    logger.info("exporting it, with its parity check")
    export_bundle(root / "checkpoint.ckpt", root / "bundle", ExportOptions(force=True))
    logger.info("synthesising a slide of %d x %d px", size.width, size.height)
    synthesise_slide(root / "slide.tif", size.width, size.height, MPP, SEED)
    with load_bundle(root / "bundle").open(device="cpu") as model:
        prediction = predict_slide(root / "slide.tif", model, progress=progress)
    write_outputs(prediction, root / "prediction")
    return prediction


def _claim(root: Path) -> None:
    try:
        if root.exists() and any(root.iterdir()) and not (root / MARKER).exists():
            raise OutputError(f"{root}: holds other files; choose an empty folder for the demo")
        (root / "prediction").mkdir(parents=True, exist_ok=True)
        (root / MARKER).touch()
    except OSError as error:
        raise OutputError(
            f"{root}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error

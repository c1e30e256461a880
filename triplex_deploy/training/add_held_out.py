"""Store in a checkpoint what its held-out spots say: calibration and reliability by gene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from triplex_deploy.models import read_checkpoint, write_checkpoint
from triplex_deploy.training.held_out import calibrate, measure_reliability, predict_held_out
from triplex_deploy.training.prepared import Prepared, label_sections


def add_held_out(
    prepared: Prepared,
    checkpoint_path: Path,
    selecting_path: Path,
    held_out: Sequence[str],
) -> None:
    """Add calibration and reliability to a checkpoint, and write it again.

    Nothing is added if fewer than ``held_out.MIN_SPOTS`` spots are held out.

    Args:
        prepared: The prepared data set.
        checkpoint_path: The checkpoint.
        selecting_path: The checkpoint that predicts the held-out sections. It is another one if the
            model was fitted again on all training sections.
        held_out: Names of the sections that ``selecting_path`` was not fitted on. No test section
            is among them.

    Raises:
        CheckpointError: A checkpoint is damaged.
        OutputError: The checkpoint cannot be written.
    """
    selecting = read_checkpoint(selecting_path)
    held = label_sections(prepared, held_out, selecting.genes)
    sections = predict_held_out(selecting.build_model(), held)
    calibration = calibrate(sections)
    if calibration is None:
        return
    measured = measure_reliability(sections, held, prepared.label_transform, calibration)
    checkpoint = read_checkpoint(checkpoint_path)
    described = replace(checkpoint, calibration=calibration, reliability=measured)
    write_checkpoint(described, checkpoint_path)

"""A fake model for workers that open fast, are slow or crash."""

import logging
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.pipeline.fake_model import FakeSession, fake_config, fake_model
from triplex_deploy.bundle import Bundle
from triplex_deploy.cohort.job import Job
from triplex_deploy.cohort.slide_worker import ModelOpener
from triplex_deploy.contract import GraphSpec
from triplex_deploy.errors import BackendError
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.progress import WallClock
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.failures import failed_call
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import Arrays

DEADLY = 250
"""Mean of a tile from which on the process crashes."""


def stub_bundle() -> Bundle:
    return fake_model(fake_config()).bundle


@dataclass(frozen=True)
class StubOpener(ModelOpener):
    """Open the fake model; in the folder ``bundle`` each process leaves a file named by its id.

    The file holds the device that the process was to open.
    """

    delay_s: float = 0.0
    """Seconds that each call of a tile encoder takes."""
    breaks: bool = False
    """Fail to open."""
    says: str = ""
    """What the log says while it opens."""

    def open(self, clock: WallClock | None = None) -> Model:
        if self.breaks:
            raise BackendError("device cuda:9: not there; pass --device cpu")
        if self.says:
            logging.getLogger("triplex_deploy.runtime.model").warning("%s", self.says)
        (self.bundle / str(os.getpid())).write_text(self.device)
        model = fake_model(fake_config())
        sessions = {
            name: StubSession(spec, self.delay_s, self.bundle)
            for name, spec in model.bundle.specs.items()
        }
        return replace(model, sessions=sessions)


class StubSession(FakeSession):
    """A graph that a bright tile crashes: once, or always if the folder has a file ``always``.

    If the folder has a file ``loses_gpu``, the tile takes the GPU away instead.
    """

    def __init__(self, spec: GraphSpec, delay_s: float, traces: Path) -> None:
        super().__init__(spec, delay_s)
        self._traces = traces

    def _run(self, inputs: Tensors) -> Arrays:
        tiles = inputs.get("tiles")
        if tiles is not None and (np.asarray(tiles).min(axis=(1, 2, 3)) > DEADLY).any():
            self._crash()
        return super()._run(inputs)

    def _crash(self) -> None:
        once = self._traces / "crashed"
        if (self._traces / "always").exists() or not once.exists():
            once.touch()
            if (self._traces / "loses_gpu").exists():
                text = "CUDA failure 700: an illegal memory access was encountered ; GPU=0"
                raise failed_call(self.spec.name, "ONNX Runtime", RuntimeError(text))
            os.kill(os.getpid(), signal.SIGSEGV)


def write_slide(path: Path, level: int = 120, side_px: int = 500) -> Path:
    """A plain PNG; of 500 px a side, the grid over it has four spots."""
    from PIL import Image

    pixels = np.full((side_px, side_px, 3), level, np.uint8)
    pixels[: side_px // 2] -= 40 if level <= DEADLY else 0
    Image.fromarray(pixels).save(path)
    return path


def job_of(slide: Path, out: Path, **options: Any) -> Job:
    chosen = {"mpp": 0.5, "all_tiles": True, **options}
    return Job(slide, out / f"{slide.stem}.h5ad", PredictOptions(**chosen), report=False)

"""A model without ONNX Runtime, for workers that must open fast, dawdle or crash on demand."""

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triplex_deploy.bundle import Bundle, GraphEntry, Manifest, tensor_entries
from triplex_deploy.contract import (
    IMAGE_MEAN,
    IMAGE_STD,
    NEIGHBORHOOD,
    TILE_PX,
    GraphSpec,
    ModelConfig,
    graph_specs,
)
from triplex_deploy.errors import BackendError
from triplex_deploy.pipeline.many.engine import Opening
from triplex_deploy.pipeline.many.job import Job
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.runtime.device import CPU
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import Session

CONFIG = ModelConfig(
    n_genes=3, feature_dim=8, embedding_dim=8, global_heads=2, neighbor_heads=2, fusion_heads=2
)
DEADLY = 250
"""A tile this bright takes the process down, where a slide is to crash its worker."""


def stub_bundle(path: Path) -> Bundle:
    manifest = Manifest(
        schema_version=1,
        config=CONFIG.to_dict(),
        genes=("GNAS", "FASN", "ACTG1"),
        tile_px=TILE_PX,
        tile_mpp=0.5,
        neighborhood=NEIGHBORHOOD,
        mean=IMAGE_MEAN,
        std=IMAGE_STD,
        label_transform={},
        precision="fp32",
        graphs=tuple(
            GraphEntry(
                name=name,
                file=f"{name}.onnx",
                sha256="0" * 64,
                precision="fp32",
                opset=23,
                target="onnxruntime",
                inputs=tensor_entries(spec)[0],
                outputs=tensor_entries(spec)[1],
            )
            for name, spec in graph_specs(CONFIG).items()
        ),
        files={},
        parity_passed=True,
        provenance={},
    )
    return Bundle(path, manifest, CONFIG)


@dataclass(frozen=True)
class StubOpening(Opening):
    """``bundle`` is a folder for the workers' traces: one empty file per process, its id."""

    seconds_per_call: float = 0.0
    breaks: bool = False

    def open(self) -> Model:
        if self.breaks:
            raise BackendError("device cuda:9: not there; pass --device cpu")
        (self.bundle / str(os.getpid())).touch()
        sessions = {
            name: StubSession(spec, self.bundle, self.seconds_per_call)
            for name, spec in graph_specs(CONFIG).items()
        }
        return Model(stub_bundle(self.bundle), sessions, CPU, "stub", ExitStack())


class StubSession(Session):
    """Every output row is the mean of the input rows, in the shape the contract says."""

    def __init__(self, spec: GraphSpec, traces: Path, seconds_per_call: float) -> None:
        super().__init__(spec)
        self._traces, self._seconds = traces, seconds_per_call

    def _run(self, inputs: Any) -> dict[str, np.ndarray]:
        time.sleep(self._seconds)
        if (
            self.spec.name == "tile_encoder"
            and (inputs["tiles"].min(axis=(1, 2, 3)) > DEADLY).any()
        ):
            self._crash()
        rows = [np.reshape(array, (len(array), -1)).mean(axis=1) for array in inputs.values()]
        value = np.sum(rows, axis=0, dtype=np.float32)
        (output,) = self.spec.outputs
        shape = (len(value), *output.axes[1:])
        wide = np.broadcast_to(value.reshape(-1, *[1] * (len(shape) - 1)), shape)
        return {output.name: np.ascontiguousarray(wide)}

    def _crash(self) -> None:
        """At the first call, or at every one where the folder has a file ``always``."""
        once = self._traces / "crashed"
        if (self._traces / "always").exists() or not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGSEGV)

    def close(self) -> None:
        pass


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

"""Predict a whole slide as the work of a benchmark, and split its time by the run's metadata."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from triplex_deploy.bench.machine import Clock
from triplex_deploy.bench.result import END_TO_END
from triplex_deploy.bench.work import COPIES, STAGES, CallResult, Seconds, Work, copies_absent
from triplex_deploy.outputs.files import write_outputs
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.predict import predict_slide
from triplex_deploy.runtime.model import Model

RECORDED: Final = (
    "spots",
    "neighborhood",
    "neighborhood_stride_px",
    "tiles_encoded",
    "tiles_without_sharing",
    "slide_tiles_decoded",
    "sharing",
    "peak_memory_mb",
    "workers",
    "batch_size",
)
"""Metadata of a run that a result keeps."""
WITHIN_CALLS: Final = "within each graph's call, counted as compute"
_TOTAL: Final = "total"
_WAITING_FOR_PIXELS: Final = "encode workers"
"""Key of the seconds in which encoder workers wait for the reader."""


class SlideWork(Work):
    """Predicts a slide with an opened bundle, and writes h5ad, JSON and report."""

    def __init__(
        self, model: Model, slide_path: Path, options: PredictOptions, clock: Clock
    ) -> None:
        self.graph, self.axis, self.size, self.limit = END_TO_END, "slides", 1, 1
        self.unit = "spots"
        self.absent = dict(copies_absent(model) or dict.fromkeys(COPIES, WITHIN_CALLS))
        self.metadata = {"slide": slide_path.name}
        self._model, self._path, self._options, self._clock = model, slide_path, options, clock
        self._graphs: dict[str, float] = {}
        self._warned = False

    def query(self) -> CallResult:
        with _without_warnings(self._warned), tempfile.TemporaryDirectory() as folder:
            prediction = predict_slide(self._path, self._model, self._options)
            begin = self._clock.now()
            write_outputs(prediction, Path(folder))
            write_s = self._clock.now() - begin
        self._warned = True
        run = prediction.run
        self.metadata |= {name: run[name] for name in RECORDED if name in run}
        stages, self._graphs = split_run(run, tuple(self._model.sessions))
        return CallResult(prediction.n_spots, {**stages, "write": write_s})

    def batch(self, queries: int) -> CallResult:
        return self.query()

    def graph_seconds(self) -> Seconds:
        return self._graphs


def split_run(
    run: Mapping[str, Any], graphs: tuple[str, ...]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return a run's seconds by stage, and by graph.

    ``decode`` is how long the encoders waited for pixels; decoding itself runs beside them.
    Everything that is neither a graph nor a stage of ``STAGES`` is preparation.
    """
    stages: dict[str, float] = {}
    idle_s = run.get("idle_s", {})
    if _WAITING_FOR_PIXELS in idle_s:
        stages["decode"] = float(idle_s[_WAITING_FOR_PIXELS])
    timings_s = {name: float(s) for name, s in run["timings_s"].items() if name != _TOTAL}
    for name, seconds in timings_s.items():
        stage = "compute" if name in graphs else name if name in STAGES else "prepare"
        stages[stage] = stages.get(stage, 0.0) + seconds
    return stages, {name: seconds for name, seconds in timings_s.items() if name in graphs}


@contextmanager
def _without_warnings(active: bool) -> Iterator[None]:
    """Hide the pipeline's warnings if ``active``: a slide needs them once, not at every query."""
    logger = logging.getLogger("triplex_deploy.pipeline")
    level = logger.level
    if active:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

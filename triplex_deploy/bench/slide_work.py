"""A whole slide as work to time: prediction and its files, split by the run's own facts."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from triplex_deploy.bench.clock import Clock
from triplex_deploy.bench.result import END_TO_END
from triplex_deploy.bench.stages import COPIES, STAGES, Seconds
from triplex_deploy.bench.work import Done, Work
from triplex_deploy.outputs.files import write_outputs
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.predict import predict_slide
from triplex_deploy.runtime.model import Model

FACTS: Final = (
    *("spots", "tiles_encoded", "tiles_without_sharing", "slide_tiles_decoded"),
    *("sharing", "peak_memory_mb"),
)
"""Facts of a run worth keeping beside its times."""
_DECODE: Final = "read"
_TOTAL: Final = "total"


class SlideWork(Work):
    """Slide in, h5ad, JSON and report out, with an opened bundle at hand."""

    def __init__(
        self, model: Model, slide_path: Path, options: PredictOptions, clock: Clock
    ) -> None:
        self.graph, self.axis, self.size, self.limit = END_TO_END, "slides", 1, 1
        self.unit = "spots"
        self.absent = {
            **dict.fromkeys(COPIES, "within each graph's call, counted as compute"),
            "gather": "the pipeline does not time it apart",
        }
        self.facts = {"slide": slide_path.name}
        self._model, self._path, self._options, self._clock = model, slide_path, options, clock
        self._graphs: dict[str, float] = {}
        self._warned = False

    def query(self) -> Done:
        with _without_warnings(self._warned), tempfile.TemporaryDirectory() as folder:
            prediction = predict_slide(self._path, self._model, self._options)
            begin = self._clock.now()
            write_outputs(prediction, Path(folder))
            write_s = self._clock.now() - begin
        self._warned = True
        run = prediction.run
        self.facts |= {name: run[name] for name in FACTS if name in run}
        stages, self._graphs = split_timings(run["timings_s"], tuple(self._model.sessions))
        return Done(prediction.n_spots, {**stages, "write": write_s})

    def batch(self, queries: int) -> Done:
        return self.query()

    def graph_seconds(self) -> Seconds:
        return self._graphs


def split_timings(
    timings_s: dict[str, Any], graphs: tuple[str, ...]
) -> tuple[dict[str, float], dict[str, float]]:
    """The pipeline's seconds as stages, and those of each graph.

    ``decode`` is what the encoders waited for pixels: decoding itself goes on beside them.
    What is neither a graph, nor reading, nor a stage by its own name, is preparation.
    """
    stages: dict[str, float] = {}
    of_graph: dict[str, float] = {}
    for name, seconds in timings_s.items():
        if name == _TOTAL:
            continue
        if name in graphs:
            of_graph[name] = float(seconds)
        stage = _stage(name, graphs)
        stages[stage] = stages.get(stage, 0.0) + float(seconds)
    return stages, of_graph


def _stage(name: str, graphs: tuple[str, ...]) -> str:
    if name in graphs:
        return "compute"
    if name == _DECODE:
        return "decode"
    return name if name in STAGES else "prepare"


@contextmanager
def _without_warnings(active: bool) -> Iterator[None]:
    """Say what is to be said of a bundle once, not at every repetition."""
    logger = logging.getLogger("triplex_deploy.pipeline")
    level = logger.level
    if active:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

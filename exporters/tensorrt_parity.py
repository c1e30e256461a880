"""Emulate the graphs for TensorRT on the CPU, to check their accuracy without a GPU.

Each graph must pass the gate of its precision. For fp16 and bf16 every result is rounded as it is
stored, as on GPUs with tensor cores. The order of sums and the rounding of TF32 are not emulated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from triplex_deploy.bundle import GraphEntry, parity_file
from triplex_deploy.contract import GraphSpec, graph_specs
from triplex_deploy.contract.precision import PRECISIONS, precision_of
from triplex_deploy.exporters.options import TensorrtOptions
from triplex_deploy.exporters.parity import ParityReport, measure_parity, session_threads
from triplex_deploy.exporters.precision import as_rounded_fp32
from triplex_deploy.exporters.reference import Reference
from triplex_deploy.runtime.ort import open_ort_session
from triplex_deploy.runtime.ort_load import Tuning
from triplex_deploy.runtime.session import Session

TENSORRT_PARITY: Final = parity_file("tensorrt")


def measure_emulated_parity(
    folder: Path,
    entries: tuple[GraphEntry, ...],
    options: TensorrtOptions,
    reference: Reference,
    slide_tiles: NDArray[np.uint8] | None = None,
) -> ParityReport:
    """Compare the emulated graphs for TensorRT with PyTorch.

    Graphs for TF32 run in fp32 here, and must pass the gate of fp32. Graphs of whole slides are
    also compared at the best size of their engine's profile.

    Args:
        folder: Folder of the bundle.
        entries: The graphs for TensorRT.
        options: Options of the export.
        reference: The model in PyTorch.
        slide_tiles: Tiles (T, 224, 224, 3) of real slides, one more input for graphs of tiles.
    """
    specs = graph_specs(reference.model.config)
    usual = usual_sizes(options, specs)
    with emulated_sessions(folder, entries, specs) as sessions:
        precisions = {entry.name: _as_run(entry.precision) for entry in entries}
        return measure_parity(
            reference, sessions, precisions, _as_run(options.precision), slide_tiles, usual
        )


def usual_sizes(options: TensorrtOptions, specs: Mapping[str, GraphSpec]) -> dict[str, int]:
    """Return the best size of the profile of each graph of whole slides, by name."""
    settings = options.settings(specs)
    per_slide = [name for name, spec in specs.items() if spec.kind == "per slide"]
    return {name: settings.profile(name).opt for name in per_slide}


def _as_run(precision: str) -> str:
    return precision_of(precision).checked_as or precision


@contextmanager
def emulated_sessions(
    folder: Path, entries: tuple[GraphEntry, ...], specs: Mapping[str, GraphSpec]
) -> Iterator[dict[str, Session]]:
    """Open the graphs on the CPU; each rounds its results to its precision."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as scratch:
        sessions: dict[str, Session] = {}
        for entry in entries:
            path, optimize = folder / entry.file, True
            if PRECISIONS[entry.precision].emulation == "rounded":
                rounded = Path(scratch) / f"{entry.name}.onnx"
                rounded.write_bytes(as_rounded_fp32(onnx.load(path)).SerializeToString())
                path, optimize = rounded, False
            elif PRECISIONS[entry.precision].emulation == "unoptimized":
                optimize = False
            session = open_ort_session(
                path, specs[entry.name], tuning=Tuning(session_threads(), optimize=optimize)
            )
            sessions[entry.name] = stack.enter_context(session)
        yield sessions

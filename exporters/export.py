"""Export a checkpoint as a bundle, which appears only after its graphs agree with PyTorch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from triplex_deploy.bundle import (
    MANIFEST,
    MODEL_CARD,
    PARITY,
    PARITY_INPUTS,
    Bundle,
    GraphEntry,
    Target,
    read_bundle,
)
from triplex_deploy.contract import (
    Config,
    GraphSpec,
    graph_specs,
)
from triplex_deploy.contract.precision import (
    CONVERTED,
    DEFAULT,
    QUANTIZED,
    precision_of,
)
from triplex_deploy.errors import ConfigError, ParityError
from triplex_deploy.exporters.bundle_manifest import graph_entry, make_manifest, onnx_properties
from triplex_deploy.exporters.int8 import (
    COSINES,
    Quantization,
    Quantizer,
    quantized_graphs,
    split_calibration,
)
from triplex_deploy.exporters.lookup import is_lookup
from triplex_deploy.exporters.model_card import model_card
from triplex_deploy.exporters.onnx_tile_encoder import open_onnx_encoder, write_onnx_encoder
from triplex_deploy.exporters.options import ExportOptions, TensorrtOptions
from triplex_deploy.exporters.parity import (
    ParityReport,
    measure_parity,
    session_threads,
    store_parity_inputs,
)
from triplex_deploy.exporters.precision import convert_precision
from triplex_deploy.exporters.reference import Reference, torch_tile_encoder
from triplex_deploy.exporters.staging import replace as replace_folder
from triplex_deploy.exporters.staging import require_free, staging
from triplex_deploy.exporters.tensorrt import fit_profiles, write_tensorrt_graphs
from triplex_deploy.exporters.tensorrt_parity import TENSORRT_PARITY, measure_emulated_parity
from triplex_deploy.exporters.to_onnx import write_onnx
from triplex_deploy.exporters.triton import require_served, write_repository
from triplex_deploy.exporters.wrappers import graph_modules
from triplex_deploy.familiarity import FAMILIARITY
from triplex_deploy.models import Checkpoint, read_checkpoint
from triplex_deploy.models.checkpoint import ONNX
from triplex_deploy.models.ensemble import join_checkpoints
from triplex_deploy.reliability import RELIABILITY
from triplex_deploy.runtime.ort import open_ort_session
from triplex_deploy.runtime.session import Session
from triplex_deploy.runtime.tensorrt.build import write_settings
from triplex_deploy.system import usable_cores

logger = logging.getLogger(__name__)

TRITON: Final = "triton"


def export_bundle(
    checkpoint_path: str | Path | Sequence[str | Path],
    out: str | Path,
    options: ExportOptions | None = None,
) -> tuple[Bundle, ParityReport]:
    """Export a checkpoint, or an ensemble of several, as a bundle.

    After an error there is no new bundle at ``out``, and an older bundle is unchanged.

    Args:
        checkpoint_path: The checkpoint; or a list of checkpoints, which become the members of one
            ensemble (docs/models.md, "Ensembles").
        out: The folder of the bundle.
        options: What to export; None for fp32 for ONNX Runtime.

    Returns:
        The bundle, and the comparison of its graphs for ONNX Runtime with PyTorch.

    Raises:
        CheckpointError: A checkpoint cannot be read, or the members differ in more than weights.
        ConfigError: The model does not have this precision or format.
        OutputError: ``out`` exists or cannot be written.
        ParityError: A graph does not pass its gate.
    """
    options = options or ExportOptions()
    target = Path(out).absolute()
    require_free(target, options.force)
    files = _named(
        [checkpoint_path] if isinstance(checkpoint_path, str | Path) else checkpoint_path
    )
    checkpoint = _read(files, options.raw)
    _require_possible(checkpoint.config, options)
    with staging(target) as stage:
        reports = _fill(stage, checkpoint, files, options)
        for runtime, report in reports.items():
            if not report.passed and not options.allow_parity_failure:
                exact = precision_of(report.precision).is_exact
                remedy = "report this" if exact else f"export with --precision {DEFAULT}"
                raise ParityError(
                    f"{', '.join(map(str, files.values()))}: the graphs for {runtime} miss the "
                    f"{report.precision} gate ({'; '.join(report.failures())}); {remedy}, or pass "
                    "--allow-parity-failure"
                )
        bundle = read_bundle(stage)
        if options.triton:
            write_repository(bundle, stage / TRITON)
        require_free(target, options.force)
        replace_folder(stage, target)
    return read_bundle(target), reports["onnxruntime"]


def _named(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Return the files by name: of members with the folder, since folds differ only there."""
    if not paths:
        raise ConfigError("no checkpoint given; name at least one")
    files = [Path(path) for path in paths]
    if len(files) == 1:
        return {files[0].name: files[0]}
    named = {f"{path.absolute().parent.name}/{path.name}": path for path in files}
    return named if len(named) == len(files) else {str(path): path for path in files}


def _read(files: Mapping[str, Path], raw: bool) -> Checkpoint:
    """Return the only checkpoint, or the ensemble of all; if ``raw``, without calibration."""
    checkpoints = [read_checkpoint(path) for path in files.values()]
    if raw:
        checkpoints = [checkpoint.without_calibration() for checkpoint in checkpoints]
    return checkpoints[0] if len(checkpoints) == 1 else join_checkpoints(checkpoints, list(files))


def _require_possible(config: Config, options: ExportOptions) -> None:
    """Raise ``ConfigError`` for options that the model does not have, before any work."""
    if options.precision in QUANTIZED:
        quantized_graphs(config)
    if options.tensorrt is not None and not config.supports_tensorrt:
        raise ConfigError(
            f"format tensorrt: {config.model} was never tried on TensorRT; export for ONNX Runtime"
        )
    if options.triton:
        require_served(config)


def _fill(
    stage: Path, checkpoint: Checkpoint, files: Mapping[str, Path], options: ExportOptions
) -> dict[Target, ParityReport]:
    """Write all files of the bundle into ``stage`` and return a report for each runtime."""
    specs = graph_specs(checkpoint.config)
    reference = _write_graphs(stage, checkpoint, specs)
    calibration, held_out = _split(options.calibration)
    engines = _add_tensorrt(stage, checkpoint.config, options.tensorrt, calibration)
    precisions = dict.fromkeys(specs, DEFAULT)
    if options.precision in CONVERTED:
        precisions |= _convert(stage, specs, options.precision)
    elif options.precision in QUANTIZED:
        precisions |= dict.fromkeys(quantized_graphs(checkpoint.config), options.precision)
    compare = _Comparison(stage, specs, reference, precisions, options.precision, held_out)
    if options.precision in QUANTIZED and calibration is not None:
        entries, report = _quantize(compare, calibration, options.int8_weights)
    else:
        entries, report = compare.run()
    reports: dict[Target, ParityReport] = {"onnxruntime": report}
    if options.tensorrt is not None:
        reports["tensorrt"] = measure_emulated_parity(
            stage, engines, options.tensorrt, reference, held_out
        )
        _write_json(stage / TENSORRT_PARITY, reports["tensorrt"].to_dict())
    _write_json(stage / PARITY, report.to_dict())
    store_parity_inputs(stage / PARITY_INPUTS, specs, reference)
    if checkpoint.training_tiles is not None and "tile_encoder" in specs:
        np.savez(stage / FAMILIARITY, **checkpoint.training_tiles.arrays())  # type: ignore[arg-type]
    if checkpoint.reliability is not None:
        np.savez(stage / RELIABILITY, **checkpoint.reliability.arrays())  # type: ignore[arg-type]
    card = model_card(checkpoint, report, precisions)
    (stage / MODEL_CARD).write_text(card, encoding="utf-8")
    passed = all(report.passed for report in reports.values())
    manifest = make_manifest(stage, checkpoint, files, (*entries, *engines), report, passed)
    (stage / MANIFEST).write_text(manifest.sealed().to_json(), encoding="utf-8")
    return reports


def _split(
    tiles: NDArray[np.uint8] | None,
) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]:
    return (None, None) if tiles is None else split_calibration(tiles)


def _add_tensorrt(
    stage: Path,
    config: Config,
    options: TensorrtOptions | None,
    calibration: NDArray[np.uint8] | None,
) -> tuple[GraphEntry, ...]:
    """Write the graphs for TensorRT and the settings of their engines, if there are options."""
    if options is None:
        return ()
    specs = graph_specs(config)
    exact = {name: stage / f"{name}.onnx" for name in specs}
    settings = options.settings(specs)
    longest = {name: settings.profile(name).max for name in specs}
    entries = write_tensorrt_graphs(stage, exact, config, options.precision, calibration, longest)
    write_settings(stage, fit_profiles(stage, entries, specs, options))
    return entries


def _convert(stage: Path, specs: Mapping[str, GraphSpec], precision: str) -> dict[str, str]:
    """Convert the graphs except those that look up, and return their precision by name."""
    converted = [name for name in specs if not is_lookup(stage / f"{name}.onnx")]
    for name in converted:
        path = stage / f"{name}.onnx"
        path.write_bytes(convert_precision(onnx.load(path), precision).SerializeToString())
    return dict.fromkeys(converted, precision)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_graphs(stage: Path, checkpoint: Checkpoint, specs: Mapping[str, GraphSpec]) -> Reference:
    """Write every graph, and return the model that they are compared with."""
    model, encoder = checkpoint.build_calibrated(), checkpoint.tile_encoder
    ours = None if encoder.kind == ONNX else encoder.build()
    encode_tiles = open_onnx_encoder(encoder).encode if ours is None else torch_tile_encoder(ours)
    modules = graph_modules(model, ours)
    for name, spec in specs.items():
        logger.info("exporting %s", name)
        path, metadata = stage / f"{name}.onnx", onnx_properties(checkpoint, spec)
        if name in modules:
            write_onnx(modules[name], spec, "onnxruntime", metadata, path)
        else:
            write_onnx_encoder(encoder, spec, metadata, path)
    return Reference(model, encode_tiles)


@dataclass(frozen=True)
class _Comparison:
    """Compares the graphs for ONNX Runtime in a folder with PyTorch.

    ``precisions`` are those of the graphs, ``precision`` is that of the bundle. ``held_out`` tiles
    are one more input for graphs of tiles.
    """

    stage: Path
    specs: Mapping[str, GraphSpec]
    reference: Reference
    precisions: Mapping[str, str]
    precision: str
    held_out: NDArray[np.uint8] | None

    def run(self) -> tuple[tuple[GraphEntry, ...], ParityReport]:
        """Return the entries of the graphs in the manifest, and the comparison."""
        entries = tuple(
            graph_entry(
                self.stage, self.stage / f"{name}.onnx", spec, self.precisions[name], "onnxruntime"
            )
            for name, spec in self.specs.items()
        )
        with _sessions(self.stage, entries, self.specs) as sessions:
            logger.info("comparing %d graphs with PyTorch", len(sessions))
            report = measure_parity(
                self.reference, sessions, self.precisions, self.precision, self.held_out
            )
        return entries, report


def _quantize(
    compare: _Comparison, calibration: NDArray[np.uint8], weight_bits: int
) -> tuple[tuple[GraphEntry, ...], ParityReport]:
    """Quantize the encoders to int8 and compare all graphs.

    More and more layers stay in float until the comparison passes or the largest number is reached.
    """
    stage = compare.stage
    names = [name for name, precision in compare.precisions.items() if precision in QUANTIZED]
    exact = {name: stage / f"{name}.fp32.onnx" for name in names}
    with ExitStack() as stack:
        quantizers = {}
        for name, path in exact.items():
            (stage / f"{name}.onnx").rename(path)
            quantizers[name] = stack.enter_context(
                Quantizer(path, calibration, weight_bits=weight_bits)
            )
        before: dict[str, Quantization] = {}
        for min_cosine in COSINES:
            logger.info("quantizing %s on %d tiles", ", ".join(names), len(calibration))
            made = {
                name: quantizer.write(stage / f"{name}.onnx", min_cosine)
                for name, quantizer in quantizers.items()
            }
            if made != before:
                entries, report = compare.run()
            if report.passed:
                break
            before = made
    for path in exact.values():
        path.unlink()
    return entries, replace(report, quantization=made)


@contextmanager
def _sessions(
    stage: Path, entries: tuple[GraphEntry, ...], specs: Mapping[str, GraphSpec]
) -> Iterator[dict[str, Session]]:
    """Open the graphs in ONNX Runtime on the CPU, side by side, as it optimizes them first."""

    def opened(entry: GraphEntry) -> Session:
        return open_ort_session(stage / entry.file, specs[entry.name], threads=session_threads())

    with ExitStack() as stack, ThreadPoolExecutor(usable_cores()) as pool:
        found = [(entry.name, pool.submit(opened, entry)) for entry in entries]
        wait([session for _, session in found])
        yield {name: stack.enter_context(session.result()) for name, session in found}

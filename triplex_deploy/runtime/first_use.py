"""Check a precision on this machine before it is used there for the first time.

An export compares its graphs with PyTorch on the exporter's machine. Other processors and other
runtimes compute bf16 and int8 in their own way, so a bundle's stored inputs are run again on each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from triplex_deploy.contract.precision import precision_of
from triplex_deploy.errors import BackendError
from triplex_deploy.files.measurements import (
    measurement_key,
    read_measurement,
    store_measurement,
)
from triplex_deploy.runtime.cpu_choice import cpu_conditions
from triplex_deploy.runtime.replay import OpenedBundle, replay_chain, replay_parity
from triplex_deploy.system import cache_folder

AUTO_MIN_PCC: Final = 0.999
"""Least correlation with fp32 per gene of a precision that ``auto`` may choose."""


class InaccurateError(BackendError):
    """A precision differs from PyTorch beyond its gate on this CPU."""

    def __init__(self, finding: str) -> None:
        super().__init__(
            f"{finding}; try another --backend, or use --precision fp32 and an fp32 bundle"
        )
        self.finding = finding
        """What differs, without the remedy."""


def require_accurate(model: OpenedBundle, is_auto: bool = False) -> None:
    """Raise ``InaccurateError`` unless the model keeps the gate of its precision on this CPU.

    fp32 in ONNX Runtime is what the export itself has compared, and is not run again. A verdict is
    kept for each bundle, backend, precision, processor and set of versions.

    Args:
        model: The opened bundle.
        is_auto: Whether the precision was chosen for speed. Then each gene of the stored small
            slide must also correlate with fp32 by ``AUTO_MIN_PCC``.
    """
    precisions = {name: model.graph_precision(name) for name in model.sessions}
    if model.backend == "onnxruntime" and not {"bf16", "int8"} & set(precisions.values()):
        return
    is_auto = is_auto and model.precision != model.bundle.manifest.precision
    conditions: dict[str, Any] = {
        "bundle": model.bundle.id,
        "parity_inputs": model.bundle.manifest.files.get("parity_inputs.npz", ""),
        "backend": model.backend,
        "precisions": precisions,
        "is_auto": is_auto,
        **cpu_conditions(),
    }
    path, key = cache_folder() / "precisions.json", measurement_key(conditions)
    verdict = read_measurement(path, key)
    if verdict is None or not isinstance(verdict.get("missed"), str):
        verdict = {"missed": _missed(model, is_auto), **conditions}
        store_measurement(path, key, verdict)
    if verdict["missed"]:
        raise InaccurateError(
            f"precision {model.precision}: {model.backend} on this CPU differs too much from "
            f"PyTorch ({verdict['missed']})"
        )


def _missed(model: OpenedBundle, is_auto: bool) -> str:
    """Return what is outside its gate, with the figures; empty if all is within."""
    missed = [
        f"{result.graph}: relative error {result.relative:.1e}, cosine {result.cosine:.5f}"
        for result in replay_parity(model)
        if not result.passed
    ]
    gate = precision_of(model.precision).gate
    if is_auto:
        gate = replace(gate, median_gene_pcc=AUTO_MIN_PCC, min_gene_pcc=AUTO_MIN_PCC)
    chain = replay_chain(model, gate)
    if chain is None and is_auto:
        missed.append("the bundle stores no slide to compare genes on; export it again")
    if chain is not None and not chain.passed:
        missed.append(
            f"expression: correlation per gene {chain.median_gene_pcc:.5f} in the median and "
            f"{chain.min_gene_pcc:.5f} at the least"
        )
    return "; ".join(missed)

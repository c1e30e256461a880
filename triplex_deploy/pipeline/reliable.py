"""Take from a bundle what is known of its predictions: calibration and reliability by gene."""

from __future__ import annotations

from typing import Any, Final

from triplex_deploy.bundle import Bundle
from triplex_deploy.errors import BundleError
from triplex_deploy.reliability import (
    NOT_MEASURED,
    RELIABILITY,
    GeneReliability,
    read_reliability,
)

EXPECTED_ERROR: Final = "expected error of the mean"
"""What the layer of standard deviations holds if held-out errors are known."""
DISAGREEMENT: Final = "disagreement of the members"
"""What it holds otherwise."""


def bundle_reliability(bundle: Bundle) -> GeneReliability | None:
    """Return how well each gene of a bundle was predicted at held-out spots; None if not measured.

    Raises:
        BundleError: The file of the bundle cannot be read, or is of other genes.
    """
    if RELIABILITY not in bundle.manifest.files:
        return None
    path = bundle.path / RELIABILITY
    found = read_reliability(path)
    if found.n_genes != len(bundle.manifest.genes):
        raise BundleError(
            f"{path}: of {found.n_genes} genes, the bundle predicts {len(bundle.manifest.genes)}; "
            "export the bundle again"
        )
    return found


def expects_error(bundle: Bundle, reliability: GeneReliability | None) -> bool:
    """Return whether the standard deviations of an ensemble are those of its error.

    A bundle without calibration keeps the disagreement of its members, as it keeps their mean.
    """
    return bool(bundle.manifest.calibrated) and reliability is not None


def reliability_metadata(bundle: Bundle, reliability: GeneReliability | None) -> dict[str, Any]:
    """Return what the metadata of a run say of calibration and reliability."""
    is_error = expects_error(bundle, reliability)
    members = bundle.config.n_members
    std = {} if members == 1 else {"std": EXPECTED_ERROR if is_error else DISAGREEMENT}
    return {
        "calibrated": bool(bundle.manifest.calibrated),
        "gene_reliability": NOT_MEASURED if reliability is None else reliability.description,
        **std,
    }

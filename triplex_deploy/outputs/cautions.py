"""Say on a page what speaks against trusting a prediction, as the run did when it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

UNLIKE: Final = "unlike the training tissue"
"""Value of ``tissue`` of a run whose slide shows other tissue, another stain or no H&E at all."""


def is_unlike(run: Mapping[str, Any]) -> bool:
    """Return True if the metadata of a run say that its slide is unlike the training tissue."""
    return run.get("tissue") == UNLIKE


def cautions(run: Mapping[str, Any]) -> list[str]:
    """Return the sentences that the page of a prediction begins with.

    Args:
        run: Metadata of the run.

    Returns:
        What the bundle warns of, and that the slide is unlike the training tissue; often none.
    """
    found = [str(run["bundle_note"])] if run.get("bundle_note") else []
    if is_unlike(run):
        share = run.get("unfamiliar_spots")
        reason = ""
        if isinstance(share, int | float) and 0 <= share <= 1:
            reason = (
                f" ({share:.0%} of the spots are further from it than 99% of the training tiles)"
            )
        found.append(
            f"This slide is unlike the tissue that the model was trained on{reason}: "
            "do not rely on this prediction."
        )
    return found

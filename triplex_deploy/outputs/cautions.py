"""Say on a page what speaks against trusting a prediction, as the run did when it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

UNLIKE: Final = "unlike the training tissue"
"""Value of ``tissue`` of a run whose slide shows other tissue, another stain or no H&E at all."""
NOT_HE: Final = "hardly_he"
"""Key of the reason why a slide is hardly H&E in brightfield; absent if nothing says so."""


def in_short(run: Mapping[str, Any]) -> str:
    """Return what speaks against trusting a prediction in a few words; empty if nothing does."""
    if run.get("tissue") == UNLIKE:
        return UNLIKE
    return "hardly H&E in brightfield" if run.get(NOT_HE) else ""


def cautions(run: Mapping[str, Any]) -> list[str]:
    """Return the sentences that the page of a prediction begins with.

    Args:
        run: Metadata of the run.

    Returns:
        What the bundle warns of, and that the slide is hardly H&E or unlike the training tissue;
        often none.
    """
    found = [str(run["bundle_note"])] if run.get("bundle_note") else []
    if run.get(NOT_HE):
        found.append(
            f"This is hardly an H&E slide in brightfield ({run[NOT_HE]}): "
            "do not rely on this prediction."
        )
    if run.get("tissue") == UNLIKE:
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

"""Let the outcomes of many slides share what is equal in their metadata."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from triplex_deploy.cohort.job import Outcome


class SharedValues:
    """Replaces values by equal ones of the last outcome, so that ten thousand stay small.

    The list of genes alone has a thousand strings, which would be read from the file of each slide.
    """

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}

    def of(self, outcome: Outcome) -> Outcome:
        """Return the outcome, equal to what it was."""
        if outcome.metadata is None:
            return outcome
        for key, value in outcome.metadata.items():
            if key not in self._last or self._last[key] != value:
                self._last[key] = value
        metadata = {key: self._last[key] for key in outcome.metadata}
        return replace(outcome, metadata=metadata)

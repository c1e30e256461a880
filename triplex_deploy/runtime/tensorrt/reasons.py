"""Collect TensorRT's own reasons, which it logs before a call returns that it failed."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

logger = logging.getLogger(__name__)

KEPT: Final = 20
"""Most errors that are kept until they are asked for; only the first ones are reported."""
MAX_LENGTH: Final = 300
"""Most characters of a reason in a message."""


def error_collector(trt: Any) -> Any:
    """Return a logger for the library ``trt`` that collects error messages in ``errors``.

    TensorRT may call it in any thread. ``take`` returns the first reason since the last call of
    ``take``, and forgets them all.
    """

    class Collector(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=KEPT)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(text)
            logger.debug("TensorRT: %s", text)

        def take(self) -> str:
            reason = first_reason(list(self.errors))
            self.errors.clear()
            return reason

    return Collector()


def first_reason(reasons: Sequence[str]) -> str:
    """Return the first of TensorRT's reasons as one short line."""
    return " ".join(reasons[0].split())[:MAX_LENGTH] if reasons else "it gave no reason"

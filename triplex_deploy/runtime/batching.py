"""Cut batches along the dynamic axis, to fit a profile or the free memory of a GPU."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from triplex_deploy.contract import GraphSpec
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.session import Arrays, DeviceMemoryError, dynamic_length

logger = logging.getLogger(__name__)


class BatchLimit:
    """Decides how many rows a graph runs with at once: the whole batch, until memory runs out.

    Then the batch is run again in halves, with a warning, and later batches are cut to that size.
    A graph that runs per slide cannot be cut, because its spots depend on each other.
    """

    def __init__(self, spec: GraphSpec, most: int | None = None) -> None:
        """Start with at most ``most`` rows at once; None sets no limit."""
        self.spec = spec
        self.most = most if spec.kind != "per slide" else None
        self._sequential = False
        self._changing = threading.Lock()

    def needs_cut(self, inputs: Tensors) -> bool:
        """Return whether a batch has more rows than may run at once."""
        return self.most is not None and dynamic_length(self.spec, inputs) > self.most

    def run(self, inputs: Tensors, run: Callable[[list[Tensors]], list[Arrays]]) -> Arrays:
        """Run the pieces of ``inputs`` and return their joined outputs.

        Raises ``BackendError`` if half the batch does not fit either, or cannot be cut.
        """
        if self._sequential:
            return self._run_in_turn(inputs, run)
        return self._run_or_halve(lambda: join(run(self._cut(inputs))), inputs, run)

    def run_kept(
        self,
        inputs: Tensors,
        keep: Callable[[Tensors], dict[str, Any]],
        run: Callable[[list[Tensors]], list[Arrays]],
    ) -> dict[str, Any]:
        """Return what ``keep`` returns for the whole batch.

        If the batch must be cut, return the joined outputs that ``run`` returns for its pieces.
        """
        if self.needs_cut(inputs):
            return dict(self.run(inputs, run))
        return self._run_or_halve(lambda: keep(inputs), inputs, run)

    def _run_or_halve(
        self,
        whole: Callable[[], dict[str, Any]],
        inputs: Tensors,
        run: Callable[[list[Tensors]], list[Arrays]],
    ) -> dict[str, Any]:
        length, most = dynamic_length(self.spec, inputs), self.most
        try:
            return whole()
        except DeviceMemoryError as error:
            self._halve(min(length, most or length), error)
        return self._run_in_turn(inputs, run)

    def _run_in_turn(self, inputs: Tensors, run: Callable[[list[Tensors]], list[Arrays]]) -> Arrays:
        """Run piece after piece: two pieces at once need as much memory as the whole batch."""
        try:
            return join([run([piece])[0] for piece in self._cut(inputs)])
        except DeviceMemoryError as error:
            length = self.most or dynamic_length(self.spec, inputs)
            raise BackendError(self._too_large(length, error)) from error

    def _cut(self, inputs: Tensors) -> list[Tensors]:
        length = dynamic_length(self.spec, inputs)
        if self.most is None or length <= self.most:
            return [inputs]
        return list(cut(inputs, length, self.most))

    def _halve(self, failed: int, error: DeviceMemoryError) -> None:
        """Limit later batches to half of the ``failed`` rows, unless another thread has done so."""
        if self.spec.kind == "per slide" or failed < 2:
            raise BackendError(self._too_large(failed, error)) from error
        with self._changing:
            if self.most is not None and self.most <= failed // 2:
                return
            self.most = failed // 2
            self._sequential = True
        remedy = f"pass --batch-size {self.most}" if self._takes_tiles else "free its memory"
        logger.warning(
            "%s: the GPU has no memory for a batch of %d, going on with %d; "
            "%s to avoid the attempt",
            self.spec.name,
            failed,
            self.most,
            remedy,
        )

    def _too_large(self, length: int, error: DeviceMemoryError) -> str:
        reason = str(error).partition("; ")[0]
        remedy = "free the GPU's memory"
        if self._takes_tiles:
            remedy = f"lower --batch-size below {length}, or {remedy}"
        elif self.spec.kind == "per slide":
            remedy = f"predict the slide in parts with --region-mm, or {remedy}"
        return f"{reason}, at {length} {self.spec.batch_axis}; {remedy}"

    @property
    def _takes_tiles(self) -> bool:
        """Return whether ``--batch-size`` sets the rows; batches of spots have a fixed size."""
        return self.spec.kind == "per tile"


def cut(inputs: Tensors, length: int, most: int) -> Iterator[Tensors]:
    """Yield pieces of at most ``most`` rows, in order; ``inputs`` have ``length`` rows."""
    for begin in range(0, length, most):
        yield {name: array[begin : begin + most] for name, array in inputs.items()}


def join(parts: list[Arrays]) -> Arrays:
    """Return the outputs of consecutive pieces as the outputs of one batch."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

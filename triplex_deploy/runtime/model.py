"""Open a bundle: load every graph on one device, to be run by name."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from triplex_deploy.bundle import Bundle, GraphEntry, Target, read_bundle
from triplex_deploy.errors import BackendError, ContractError
from triplex_deploy.runtime.backends import AUTO, BACKENDS, Backend, OpenOptions, choose
from triplex_deploy.runtime.concurrent_sessions import share_gpu
from triplex_deploy.runtime.cpu_choice import RunChoice, choose_on_cpu, other_backends
from triplex_deploy.runtime.device import CPU, Device, parse_device
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.first_use import InaccurateError, require_accurate
from triplex_deploy.runtime.session import Arrays, Session

logger = logging.getLogger(__name__)


class RunnableBundle(Bundle):
    """A verified bundle that can be opened on a device."""

    def open(
        self,
        device: str = AUTO,
        backend: str = AUTO,
        threads: int | None = None,
        spinning: bool = True,
        precision: str | None = None,
        gpu_memory_gb: float | None = None,
    ) -> Model:
        """Load every graph; use the result as a context manager.

        Args:
            device: ``auto``, ``cpu`` or ``cuda:N``. ``auto`` is the first GPU if the backend can
                use one, otherwise the CPU.
            backend: ``auto``, ``onnxruntime``, ``openvino`` or ``tensorrt``. ``auto`` on a GPU is
                TensorRT if the bundle has graphs for it and its packages are installed, otherwise
                ONNX Runtime; on a CPU it is the faster of ONNX Runtime and OpenVINO, measured
                once. TensorRT engines that are missing are built first.
            threads: Maximum number of CPU threads of one operator; None leaves it to the runtime.
            spinning: Whether idle threads poll for work between operators, or sleep.
            precision: On a CPU ``fp32``, ``bf16``, ``int8`` or ``auto``, see ``choose_on_cpu``;
                None is the precision of the bundle.
            gpu_memory_gb: Most memory of a GPU for tensors, beside the weights; None sets no
                limit. Batches that do not fit are divided.

        Returns:
            The opened model.

        Raises:
            BackendError: If the device, backend or precision cannot be used; it is never replaced
                by another.
        """
        if gpu_memory_gb is not None and not 0 < gpu_memory_gb < math.inf:
            raise BackendError(f"gpu_memory_gb={gpu_memory_gb}: must be a positive number")
        named, place = choose(self, backend, parse_device(device))
        _warn(self)
        options = OpenOptions(threads, spinning, gpu_memory_gb=gpu_memory_gb)
        try:
            model = self._open_accurate(named, place, precision, options)
        except InaccurateError as error:
            if precision != AUTO:
                raise
            logger.warning("%s; using the precision of the bundle", error.finding)
            model = self._open_accurate(named, place, None, options)
        if AUTO in (device, backend, precision):
            logger.info("using %s on %s in %s", model.backend, place, model.precision)
        return model

    def _open_accurate(
        self, named: Backend | None, place: Device, precision: str | None, options: OpenOptions
    ) -> Model:
        """Open the bundle; if no backend is named, with the fastest that keeps the gate."""
        choice = self._choose(named, place, precision)
        try:
            return self._open(place, choice, options, precision == AUTO)
        except InaccurateError as error:
            others = other_backends(self, choice)
            if named is not None or precision == AUTO or not others:
                raise
            logger.warning("%s; using %s", error.finding, others[0].name)
            return self._open_accurate(others[0], place, precision, options)

    def _open(self, place: Device, choice: RunChoice, options: OpenOptions, is_auto: bool) -> Model:
        options = replace(options, float_type=choice.float_type)
        chosen = choice.backend
        with ExitStack() as stack:
            model = Model(
                self,
                chosen.open(self, place, options, stack),
                place,
                chosen.name,
                stack,
                target=chosen.target,
                choice=choice,
                options=options,
            )
            if place == CPU:
                require_accurate(model, is_auto)
            model._open = stack.pop_all()
            return model

    def _choose(self, named: Backend | None, place: Device, precision: str | None) -> RunChoice:
        if place == CPU:
            return choose_on_cpu(self, named, precision)
        assert named is not None  # ``choose`` leaves it open for a CPU alone
        own = self.manifest.precision
        if precision not in (None, AUTO, own):
            raise BackendError(
                f"precision {precision}: on {place} graphs run as they were exported, in {own}; "
                "leave --precision out, or export another bundle"
            )
        return RunChoice(named, own, "fp32", f"{named.name} runs the bundle on {place}")


def _warn(bundle: Bundle) -> None:
    """Log the note of the bundle's maker, such as untrained weights, and a missed parity gate."""
    note = bundle.manifest.provenance.get("note")
    if note:
        logger.warning("%s: %s", bundle.path, note)
    if not bundle.manifest.parity_passed:
        logger.warning("%s: differs from PyTorch beyond its gate, see parity.json", bundle.path)


@dataclass
class Model:
    """The loaded graphs of one bundle; ``run`` takes and returns dictionaries of arrays."""

    bundle: Bundle
    """The bundle that was opened."""
    sessions: Mapping[str, Session]
    """A session for each graph, by the graph's name."""
    device: Device
    """The device that the graphs run on."""
    backend: str
    """Name of the runtime that runs the graphs."""
    _open: ExitStack
    target: Target = "onnxruntime"
    """Which graph files of the bundle the sessions run."""
    choice: RunChoice | None = None
    """Why this backend and precision; None if nothing was to choose."""
    options: OpenOptions = field(default_factory=OpenOptions)
    """How the sessions use the CPU."""
    _opening: threading.Lock = field(default_factory=threading.Lock, init=False)
    _concurrent: Mapping[str, Session] | None = field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<Model {self.bundle.path} in {self.precision} on {self.device}, {self.backend}>"

    @property
    def precision(self) -> str:
        """Precision of the run."""
        return self.choice.precision if self.choice else self.bundle.manifest.precision

    def run(self, graph: str, inputs: Tensors) -> Arrays:
        """Run one graph.

        Args:
            graph: The graph's name.
            inputs: Its input tensors by name.

        Returns:
            Its output arrays by name.

        Raises:
            ContractError: If the bundle has no such graph, or the inputs do not fit it.
        """
        return self.session(graph).run(inputs)

    def session(self, graph: str) -> Session:
        """Return the session of a graph, for example to keep its outputs on the device.

        Args:
            graph: The graph's name.

        Returns:
            The session, which stays open as long as the model.

        Raises:
            ContractError: If the bundle has no such graph.
        """
        session = self.sessions.get(graph)
        if session is None:
            raise ContractError(
                f"graph {graph!r}: not in this bundle; it has {', '.join(self.sessions)}"
            )
        return session

    def entry(self, graph: str) -> GraphEntry:
        """Return the manifest's entry of the file that runs ``graph`` here."""
        return self.bundle.entry(graph, self.target)

    def graph_precision(self, graph: str) -> str:
        """Return the precision in which ``graph`` runs: that of its file, or of float layers."""
        own = self.entry(graph).precision
        return self.options.float_type if own == "fp32" else own

    def concurrent_sessions(self) -> Mapping[str, Session]:
        """Return sessions that several threads may call at once.

        They are opened at the first call, and closed with the model.
        """
        with self._opening:
            if self._concurrent is None:
                self._concurrent = self._make_concurrent()
            return self._concurrent

    def _make_concurrent(self) -> Mapping[str, Session]:
        if self.device != CPU:
            return share_gpu(self.sessions)
        backend = BACKENDS.get(self.backend)
        if backend is None or backend.open_for_threads is None:
            return self.sessions
        return backend.open_for_threads(self.bundle, self.sessions, self.options, self._open)

    def close(self) -> None:
        """Close every session; running a graph afterwards raises ``BackendError``."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_bundle(path: str | Path) -> RunnableBundle:
    """Read and verify a bundle.

    Args:
        path: The bundle's folder.

    Returns:
        The bundle; its method ``open`` loads the graphs.

    Raises:
        BundleError: If the bundle is missing, incomplete or altered.
    """
    bundle = read_bundle(path)
    return RunnableBundle(bundle.path, bundle.manifest, bundle.config)

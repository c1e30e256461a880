"""A model on the stand-in GPU whose engines compute the few lines of NumPy of the fake model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.gpu.stand_in import StandInGpu
from tests.gpu.stand_in_tensorrt import StandInEngine, StandInTensorrt
from tests.pipeline.fake_model import FakeSession, fake_config, fake_model
from triplex_deploy.contract import GraphSpec, TensorSpec
from triplex_deploy.runtime.device import Device
from triplex_deploy.runtime.model import Model
from triplex_deploy.runtime.session import Session
from triplex_deploy.runtime.tensorrt.memory import MemoryBudget
from triplex_deploy.runtime.tensorrt.profiles import ProfileRange
from triplex_deploy.runtime.tensorrt.reasons import error_collector
from triplex_deploy.runtime.tensorrt.session import open_trt_session

MOST = 20_000
"""Largest batch and most spots of the engines."""


class _Computed:
    """Looks like a session of ONNX Runtime and computes a graph of the fake model."""

    def __init__(self, spec: GraphSpec) -> None:
        self._fake = FakeSession(spec, 0.0)
        self._spec = spec

    def get_inputs(self) -> list[Any]:
        return [_described(tensor) for tensor in self._spec.inputs]

    def get_outputs(self) -> list[Any]:
        return [_described(tensor) for tensor in self._spec.outputs]

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = self._fake.run(inputs)
        return [found[name] for name in names]


def _described(tensor: TensorSpec) -> SimpleNamespace:
    return SimpleNamespace(
        name=tensor.name, shape=list(tensor.axes), type=f"tensor({tensor.dtype})"
    )


class ComputedEngine(StandInEngine):
    """An engine of the stand-in for TensorRT that needs no ONNX file."""

    def __init__(self, trt: StandInTensorrt, spec: GraphSpec) -> None:
        self.trt = trt
        self.session: Any = _Computed(spec)
        tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.num_io_tensors = len(self.tensors)
        self.profile = {
            tensor.name: [
                [size if isinstance(axis, str) else axis for axis in tensor.axes]
                for size in (1, 1, MOST)
            ]
            for tensor in spec.inputs
        }


def computed_model(gpu: StandInGpu, trt: StandInTensorrt, budget: MemoryBudget) -> Model:
    """Return the fake model on the GPU; close it as any model."""
    model, cuda = fake_model(fake_config()), gpu.cuda()
    reasons = error_collector(trt)
    sessions: dict[str, Session] = {}
    with ExitStack() as stack:
        for name, spec in model.bundle.specs.items():
            engine = ComputedEngine(trt, spec)
            runtime = SimpleNamespace(deserialize_cuda_engine=lambda _, engine=engine: engine)
            profile = ProfileRange(1, 1, MOST)
            sessions[name] = stack.enter_context(
                open_trt_session(trt, runtime, b"", spec, profile, cuda, reasons, budget)
            )
        opened = stack.pop_all()
    return replace(
        model, sessions=sessions, device=Device("cuda"), backend="tensorrt", _open=opened
    )

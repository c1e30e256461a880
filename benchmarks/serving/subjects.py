"""What is compared: a backend with a precision, opened; PyTorch eager is one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from triplex_deploy.bundle import Bundle
from triplex_deploy.contract import GraphSpec
from triplex_deploy.errors import BackendError
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.options import ExportOptions, TensorrtOptions
from triplex_deploy.exporters.wrappers import graph_modules
from triplex_deploy.models import Checkpoint
from triplex_deploy.runtime.device import Device
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.model import Model, load_bundle
from triplex_deploy.runtime.session import Arrays, Session

EAGER: Final = "torch eager fp32"
TENSORRT: Final = ("fp32", "tf32", "fp16", "bf16")
ONNXRUNTIME: Final = ("fp32", "fp16")


@dataclass(frozen=True)
class Subject:
    """A name for the table, the precision of its graphs, and what runs them."""

    name: str
    precision: str
    model: Model


class TorchSession(Session):
    """An export wrapper run by PyTorch eager on a device."""

    def __init__(self, spec: GraphSpec, module: torch.nn.Module, device: Device) -> None:
        super().__init__(spec)
        self._module = module.to(str(device))
        self._device = str(device)

    def _run(self, inputs: Tensors) -> Arrays:
        with torch.inference_mode():
            given = {
                name: torch.from_numpy(array).to(self._device) for name, array in inputs.items()
            }
            output = self._module(**given)
            return {self.spec.outputs[0].name: output.cpu().numpy()}

    def close(self) -> None:
        self._module.to("cpu")


def export_bundles(
    checkpoint_path: Path, folder: Path, on_gpu: bool, profile: tuple[str, ...]
) -> dict[tuple[str, str], Path]:
    """A bundle for each backend and precision to be measured, by (backend, precision)."""
    wanted: dict[tuple[str, str], ExportOptions] = {("onnxruntime", "fp32"): ExportOptions()}
    if on_gpu:
        wanted["onnxruntime", "fp16"] = ExportOptions("fp16")
        for precision in TENSORRT:
            engines = TensorrtOptions(precision, profile)
            wanted["tensorrt", precision] = ExportOptions(tensorrt=engines)
    for (backend, precision), options in wanted.items():
        export_bundle(checkpoint_path, folder / f"{backend}-{precision}", options)
    return {key: folder / "-".join(key) for key in wanted}


@contextmanager
def open_subjects(
    bundles: Mapping[tuple[str, str], Path],
    checkpoint: Checkpoint,
    device: Device,
    skipped: dict[str, str],
) -> Iterator[list[Subject]]:
    """Every subject that this machine can open; why others are not goes to ``skipped``."""
    with ExitStack() as stack:
        exact = load_bundle(bundles["onnxruntime", "fp32"])
        eager = eager_model(exact, checkpoint, device, stack)
        subjects = [Subject(EAGER, "fp32", eager)]
        for (backend, precision), path in bundles.items():
            name = f"{backend} {precision}"
            try:
                opened = load_bundle(path).open(device=str(device), backend=backend)
            except BackendError as error:
                skipped[name] = str(error)
                continue
            subjects.append(Subject(name, precision, stack.enter_context(opened)))
        yield subjects


def eager_model(bundle: Bundle, checkpoint: Checkpoint, device: Device, stack: ExitStack) -> Model:
    """The checkpoint as a ``Model`` whose graphs are PyTorch modules, TF32 off."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    modules = graph_modules(checkpoint.build_model(), checkpoint.tile_encoder.build())
    sessions: dict[str, Any] = {
        name: stack.enter_context(TorchSession(spec, modules[name], device))
        for name, spec in bundle.specs.items()
    }
    return Model(bundle, sessions, device, "torch", ExitStack())

"""Open what is compared: backends with their precisions, and PyTorch eager."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.serving.roofline import FLOAT_PRECISIONS
from triplex_deploy.bundle import Bundle
from triplex_deploy.contract import GraphSpec
from triplex_deploy.contract.precision import DEFAULT, offered_by
from triplex_deploy.errors import BackendError
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.options import ExportOptions, TensorrtOptions
from triplex_deploy.exporters.wrappers import graph_modules
from triplex_deploy.models import Checkpoint
from triplex_deploy.runtime.backends import OPENVINO
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.device_array import Tensors
from triplex_deploy.runtime.model import Model, load_bundle
from triplex_deploy.runtime.session import Arrays, Session

EAGER: Final = f"torch eager {DEFAULT}"


@dataclass(frozen=True)
class Subject:
    """A backend with a precision, opened."""

    name: str
    """Name in the table."""
    precision: str
    """Precision of its graphs."""
    model: Model
    """Runs the graphs."""


class TorchSession(Session):
    """Runs an export wrapper in PyTorch eager on a device."""

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
    """Export a bundle for each backend and precision, and return their folders."""
    wanted: dict[tuple[str, str], ExportOptions] = {("onnxruntime", DEFAULT): ExportOptions()}
    if on_gpu:
        for precision in FLOAT_PRECISIONS:
            if precision in offered_by("onnxruntime"):
                wanted["onnxruntime", precision] = ExportOptions(precision)
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
    """Open every subject that this machine can open, and write to ``skipped`` why not others.

    On a CPU the fp32 bundle is opened in OpenVINO as well, in each of its precisions.
    """
    with ExitStack() as stack:
        exact = load_bundle(bundles["onnxruntime", DEFAULT])
        eager = eager_model(exact, checkpoint, device, stack)
        subjects = [Subject(EAGER, DEFAULT, eager)]
        choices: list[tuple[str, str, Path, str | None]]
        choices = [(backend, name, path, None) for (backend, name), path in bundles.items()]
        if device == CPU:
            choices += [(OPENVINO.name, name, exact.path, name) for name in OPENVINO.float_types]
        for backend, precision, path, asked in choices:
            name = f"{backend} {precision}"
            try:
                opened = load_bundle(path).open(str(device), backend, precision=asked)
            except BackendError as error:
                skipped[name] = str(error)
                continue
            subjects.append(Subject(name, precision, stack.enter_context(opened)))
        yield subjects


def eager_model(bundle: Bundle, checkpoint: Checkpoint, device: Device, stack: ExitStack) -> Model:
    """Return the checkpoint as a ``Model`` that runs PyTorch modules, without TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    modules = graph_modules(checkpoint.build_model(), checkpoint.tile_encoder.build())
    sessions: dict[str, Any] = {
        name: stack.enter_context(TorchSession(spec, modules[name], device))
        for name, spec in bundle.specs.items()
    }
    return Model(bundle, sessions, device, "torch", ExitStack())

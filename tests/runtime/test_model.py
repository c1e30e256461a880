"""Open a bundle and run its graphs; devices and inputs that do not fit are refused."""

from typing import Any

import numpy as np
import pytest

from triplex_deploy.errors import BackendError, ContractError
from triplex_deploy.runtime.device import CPU, Device, parse_device
from triplex_deploy.runtime.model import Model, RunnableBundle
from triplex_deploy.runtime.ort import open_ort_session


def _neighbors(batch: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "features": rng.standard_normal((batch, 25, 512), dtype=np.float32),
        "mask": np.ones((batch, 25), dtype=bool),
    }


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_graph_takes_any_batch(model: Model, batch: int) -> None:
    output = model.run("neighbor_encoder", _neighbors(batch))
    assert output["neighbor_tokens"].shape == (batch, 25, 512)
    assert output["neighbor_tokens"].dtype == np.float32


def test_unknown_graph_is_refused(model: Model) -> None:
    with pytest.raises(ContractError, match="'encoder': not in this bundle"):
        model.run("encoder", {})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda i: i.pop("mask"), "it takes"),
        (lambda i: i.update(extra=i["mask"]), "it takes"),
        (lambda i: i.update(features=i["features"].astype(np.float64)), "float64"),
        (lambda i: i.update(mask=i["mask"].astype(np.uint8)), "uint8"),
        (lambda i: i.update(features=i["features"][0]), r"\(25, 512\)"),
        (lambda i: i.update(features=i["features"][:, :24]), r"\(3, 24, 512\)"),
        (lambda i: i.update(mask=i["mask"][:2]), r"\(2, 25\)"),
        (lambda i: i.update({k: v[:0] for k, v in i.items()}), "at least 1 long"),
    ],
)
def test_input_that_breaks_the_contract_is_named(model: Model, change: Any, named: str) -> None:
    inputs = _neighbors(3)
    change(inputs)
    with pytest.raises(ContractError, match=named):
        model.run("neighbor_encoder", inputs)


@pytest.mark.parametrize(
    ("text", "device"),
    [("auto", None), ("cpu", CPU), ("cuda", Device("cuda", 0)), ("cuda:3", Device("cuda", 3))],
)
def test_device_names(text: str, device: Device | None) -> None:
    assert parse_device(text) == device


@pytest.mark.parametrize("text", ["gpu", "cuda:x", "cpu:0", ""])
def test_unknown_device_is_refused(text: str) -> None:
    with pytest.raises(BackendError, match="use auto, cpu or cuda:N"):
        parse_device(text)


def test_absent_gpu_is_an_error_and_never_the_cpu(bundle: RunnableBundle) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BackendError, match="pass --device cpu"):
        bundle.open(device="cuda:0")


def test_provider_that_did_not_take_the_graph_is_an_error(
    bundle: RunnableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-gpu without CUDA libraries lists CUDA, then silently builds a CPU session."""
    import onnxruntime

    real = onnxruntime.InferenceSession

    def cpu_whatever_was_asked(
        path: str, options: Any, providers: Any, enable_fallback: int
    ) -> Any:
        assert enable_fallback == 0
        return real(path, providers=["CPUExecutionProvider"])

    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "InferenceSession", cpu_whatever_was_asked)
    spec = bundle.specs["fusion_head"]
    with pytest.raises(BackendError, match="offered CPUExecutionProvider instead"):
        open_ort_session(bundle.path / "fusion_head.onnx", spec, Device("cuda"))


def test_missing_onnxruntime_names_the_install_command(
    bundle: RunnableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"pip install .*\[cpu\]"):
        bundle.open(device="cpu", backend="onnxruntime")


def test_failure_inside_the_runtime_is_typed_and_never_the_cpu(bundle: RunnableBundle) -> None:
    with bundle.open(device="cpu") as opened:
        session = opened.sessions["neighbor_encoder"]

        class Broken:
            def run(self, *_: object) -> None:
                raise RuntimeError("out of memory\nstack")

        session._session = Broken()  # type: ignore[attr-defined]
        with pytest.raises(BackendError, match=r"neighbor_encoder: .*out of memory.*--batch-size"):
            opened.run("neighbor_encoder", _neighbors(1))


def test_unknown_backend_is_refused(bundle: RunnableBundle) -> None:
    with pytest.raises(BackendError, match="'torchscript'"):
        bundle.open(device="cpu", backend="torchscript")


def test_closed_model_does_not_run(bundle: RunnableBundle) -> None:
    with bundle.open(device="cpu") as opened:
        pass
    with pytest.raises(BackendError, match="closed"):
        opened.run("neighbor_encoder", _neighbors(1))

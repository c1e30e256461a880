"""What ``export``'s formats and precisions ask of the exporter; the export itself is a stand-in."""

from pathlib import Path
from typing import Any

import pytest

from triplex_deploy.exporters import export as export_module
from triplex_deploy.exporters.options import ExportOptions
from triplex_deploy.exporters.parity import ParityReport
from triplex_deploy.runtime.gates import EndToEndParity, GraphParity
from triplex_deploy.runtime.model import RunnableBundle


@pytest.fixture
def asked(bundle: RunnableBundle, monkeypatch: pytest.MonkeyPatch) -> list[ExportOptions]:
    """The options of each export that the command line asked for."""
    options: list[ExportOptions] = []
    graph = GraphParity("fusion_head", 1, 1e-6, 1.0, 1e-6, 1.0, True, True)
    report = ParityReport("fp32", (graph,), EndToEndParity(25, 1e-6, 1.0, 1.0, True))

    def record(checkpoint: Path, out: Path, chosen: ExportOptions) -> Any:
        options.append(chosen)
        return RunnableBundle(out, bundle.manifest, bundle.config), report

    monkeypatch.setattr(export_module, "export_bundle", record)
    return options


def export(invoke: Any, tmp_path: Path, *arguments: str) -> Any:
    return invoke("export", "model.ckpt", "--out", tmp_path / "bundle", *arguments)


def test_default_is_fp32_for_onnxruntime(invoke: Any, asked: Any, tmp_path: Path) -> None:
    assert export(invoke, tmp_path).status == 0
    assert (asked[0].precision, asked[0].tensorrt) == ("fp32", None)


@pytest.mark.parametrize(
    ("arguments", "onnx", "tensorrt"),
    [
        (("--format", "tensorrt"), "fp32", "fp32"),
        (("--format", "tensorrt", "--precision", "tf32"), "fp32", "tf32"),
        (("--format", "tensorrt", "--no-tf32"), "fp32", "fp32"),
        (("--format", "tensorrt", "--precision", "fp16"), "fp32", "fp16"),
        (("--format", "tensorrt", "--precision", "bf16"), "fp32", "bf16"),
        (("--format", "onnx", "--format", "tensorrt", "--precision", "fp16"), "fp16", "fp16"),
    ],
)
def test_precision_is_that_of_the_formats_asked_for(
    arguments: tuple[str, ...], onnx: str, tensorrt: str, invoke: Any, asked: Any, tmp_path: Path
) -> None:
    assert export(invoke, tmp_path, *arguments).status == 0
    assert (asked[0].precision, asked[0].tensorrt.precision) == (onnx, tensorrt)


def test_engine_options_reach_the_exporter(invoke: Any, asked: Any, tmp_path: Path) -> None:
    arguments = (
        "--format",
        "tensorrt",
        "--profile",
        "batch=1:8:16",
        "--profile",
        "spots=1:9:99",
        "--version-compatible",
        "--hardware-compatible",
        "ampere_plus",
        "--refit",
        "--workspace-gb",
        "4",
    )
    assert export(invoke, tmp_path, *arguments).status == 0
    engines = asked[0].tensorrt
    assert engines.profiles == ("batch=1:8:16", "spots=1:9:99")
    assert (engines.version_compatible, engines.hardware, engines.refit, engines.workspace_gb) == (
        True,
        "ampere_plus",
        True,
        4.0,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--precision", "bf16"), "use --format tensorrt alone"),
        (("--precision", "fp8"), "use --format tensorrt alone"),
        (("--profile", "batch=1:8:16"), "add --format tensorrt"),
        (("--no-tf32",), "add --format tensorrt"),
        (("--precision", "tf32"), "use --format tensorrt alone"),
        (("--format", "tensorrt", "--precision", "tf32", "--no-tf32"), "drop one of them"),
        (("--format", "tensorrt", "--precision", "int8"), "int8 and fp8 need slides"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: tuple[str, ...], message: str, invoke: Any, asked: Any, tmp_path: Path
) -> None:
    finished = export(invoke, tmp_path, *arguments)
    assert finished.status == 1
    assert message in finished.err
    assert asked == []


def test_triton_repository_is_of_fp32_graphs(invoke: Any, asked: Any, tmp_path: Path) -> None:
    assert export(invoke, tmp_path, "--format", "triton").status == 0
    assert (asked[0].triton, asked[0].precision, asked[0].tensorrt) == (True, "fp32", None)

"""The settings that reach the builder, on a stand-in that records them, and failed builds."""

import logging
from typing import Any

import onnx
import pytest

from tests.gpu.stand_in_tensorrt import StandInTensorrt
from triplex_deploy.contract import GraphSpec, TensorSpec
from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.tensorrt.build import EngineSettings, Plan, build_plan
from triplex_deploy.runtime.tensorrt.cuda import Cuda
from triplex_deploy.runtime.tensorrt.profiles import ProfileRange

SPEC = GraphSpec(
    "doubler",
    (TensorSpec("features", "float32", ("batch", 4)),),
    (TensorSpec("doubled", "float32", ("batch", 4)),),
    "batch",
)
GIB = 1 << 30


def doubler(name: str = "features") -> bytes:
    graph = onnx.parser.parse_graph(
        f"doubler (float[batch, 4] {name}) => (float[batch, 4] doubled)"
        f"{{ doubled = Add ({name}, {name}) }}"
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 10
    return bytes(model.SerializeToString())


@pytest.fixture
def built(cuda: Cuda, trt: StandInTensorrt) -> Any:
    def build(timing_cache: bytes = b"", onnx_bytes: bytes = b"", **settings: Any) -> Plan:
        wanted = EngineSettings(
            **{"precision": "fp16", "profiles": {"doubler": (1, 4, 8)}, **settings}
        )
        with cuda.current():
            return build_plan(
                trt, onnx_bytes or doubler(), SPEC, ProfileRange(1, 4, 8), wanted, timing_cache
            )

    return build


def test_profile_reaches_the_builder(built: Any, trt: StandInTensorrt) -> None:
    built()
    assert trt.builds[0]["profile"] == {"features": [[1, 4], [4, 4], [8, 4]]}


@pytest.mark.parametrize(
    ("settings", "flags", "hardware"),
    [
        ({"precision": "fp32"}, set(), "NONE"),
        ({"precision": "tf32"}, {"TF32"}, "NONE"),
        ({"version_compatible": True}, {"VERSION_COMPATIBLE"}, "NONE"),
        ({"refit": True}, {"REFIT"}, "NONE"),
        ({"hardware": "ampere_plus"}, set(), "AMPERE_PLUS"),
        ({"hardware": "same_compute_capability"}, set(), "SAME_COMPUTE_CAPABILITY"),
    ],
)
def test_settings_become_flags(
    settings: dict[str, Any], flags: set[str], hardware: str, built: Any, trt: StandInTensorrt
) -> None:
    built(**settings)
    assert (trt.builds[0]["flags"], trt.builds[0]["hardware"]) == (flags, hardware)


def test_timing_cache_is_used_and_handed_on(built: Any, trt: StandInTensorrt) -> None:
    assert built(b"known").timing_cache == b"knownt"
    assert trt.builds[0]["timing_cache"] == b"known"


def test_timing_cache_of_another_gpu_is_replaced(built: Any, trt: StandInTensorrt) -> None:
    assert built(b"mismatched").timing_cache == b"t"
    assert trt.builds[0]["timing_cache"] == b""


def test_workspace_is_halved_while_memory_runs_out(
    built: Any, trt: StandInTensorrt, caplog: pytest.LogCaptureFixture
) -> None:
    trt.build_errors = ["OutOfMemory (no tactic)", "[E] CUDA out of memory"]
    with caplog.at_level(logging.WARNING):
        built(workspace_gb=4.0)
    assert [build["workspace"] for build in trt.builds] == [4 * GIB, 2 * GIB, GIB]
    assert (
        caplog.messages
        == ["doubler: memory ran out while building, trying a smaller workspace"] * 2
    )


def test_first_try_leaves_the_workspace_to_the_library(built: Any, trt: StandInTensorrt) -> None:
    trt.build_errors = ["out of memory"]
    built()
    assert [build["workspace"] for build in trt.builds] == [None, 4 * GIB]


def test_memory_that_never_suffices_is_an_error(built: Any, trt: StandInTensorrt) -> None:
    trt.build_errors = ["out of memory"] * 9
    with pytest.raises(BackendError, match=r"doubler: .*out of memory.*free GPU memory"):
        built()
    assert len(trt.builds) == 4


def test_other_failures_are_not_tried_again(built: Any, trt: StandInTensorrt) -> None:
    trt.build_errors = ["Error Code 10: no implementation for node"]
    with pytest.raises(BackendError, match=r"no implementation for node.*another --precision"):
        built()
    assert len(trt.builds) == 1


def test_file_that_does_not_parse_is_named(built: Any) -> None:
    with pytest.raises(BackendError, match=r"doubler: TensorRT cannot read the graph \(INVALID"):
        built(onnx_bytes=b"no onnx")


def test_graph_with_other_inputs_is_refused(built: Any) -> None:
    with pytest.raises(BackendError, match=r"takes \['tiles'\], not the inputs of the contract"):
        built(onnx_bytes=doubler("tiles"))


def test_progress_is_that_of_the_outermost_phase(cuda: Cuda, trt: StandInTensorrt) -> None:
    steps: list[tuple[str, int, int]] = []
    settings = EngineSettings(precision="fp32", profiles={"doubler": (1, 4, 8)})
    with cuda.current():
        build_plan(
            trt,
            doubler(),
            SPEC,
            ProfileRange(1, 4, 8),
            settings,
            on_phase=lambda *step: steps.append(step),
        )
    assert steps == [("Building", 0, 2), ("Building", 1, 2)]

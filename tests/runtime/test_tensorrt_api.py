"""The real Python bindings of TensorRT 11 have every name and argument that this package uses.

The bindings load three shared libraries, which do nothing until a builder is made. The test
compiles empty ones with a C compiler, so that it needs no GPU and no library of NVIDIA.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

USED = {
    "": [
        "__version__",
        "nptype",
        "ILogger",
        "IProgressMonitor",
        "Builder",
        "OnnxParser",
        "Runtime",
    ],
    "Builder": [
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
    ],
    "OnnxParser": ["parse", "num_errors", "get_error"],
    "INetworkDefinition": ["num_inputs", "get_input"],
    "IBuilderConfig": [
        "set_flag",
        "clear_flag",
        "set_memory_pool_limit",
        "add_optimization_profile",
        "create_timing_cache",
        "set_timing_cache",
        "profiling_verbosity",
        "progress_monitor",
        "hardware_compatibility_level",
    ],
    "IOptimizationProfile": ["set_shape"],
    "ITimingCache": ["serialize"],
    "Runtime": ["deserialize_cuda_engine", "engine_host_code_allowed"],
    "ICudaEngine": [
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_shape",
        "get_tensor_dtype",
        "create_execution_context",
    ],
    "IExecutionContext": [
        "set_input_shape",
        "infer_shapes",
        "get_tensor_shape",
        "set_tensor_address",
        "update_device_memory_size_for_shapes",
        "set_device_memory",
        "execute_async_v3",
    ],
    "IProgressMonitor": ["phase_start", "step_complete", "phase_finish"],
    "BuilderFlag": ["TF32", "VERSION_COMPATIBLE", "REFIT"],
    "HardwareCompatibilityLevel": ["AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"],
    "MemoryPoolType": ["WORKSPACE"],
    "ProfilingVerbosity": ["DETAILED"],
    "ExecutionContextAllocationStrategy": ["USER_MANAGED"],
}
GONE = {"BuilderFlag": ["FP16", "BF16", "INT8", "FP8"], "ICudaEngine": ["device_memory_size"]}
SIGNATURES = {
    "Builder.create_network": "flags: typing.SupportsInt = 0",
    "IBuilderConfig.set_timing_cache": "ignore_mismatch: bool",
    "IExecutionContext.set_device_memory": "memory: typing.SupportsInt, size: typing.SupportsInt",
    "IExecutionContext.execute_async_v3": "stream_handle: typing.SupportsInt) -> bool",
    "IExecutionContext.infer_shapes": "-> list[str]",
    "IExecutionContext.update_device_memory_size_for_shapes": "-> int",
    "ICudaEngine.create_execution_context": "strategy: ",
    "OnnxParser.parse": "typing_extensions.Buffer",
    "IProgressMonitor.phase_start": "phase_name: str, parent_phase: str, num_steps",
}
ENTRY_POINTS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getPluginRegistry",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "initLibNvInferPlugins",
)
LOOK = """
import json, sys
import tensorrt_bindings as trt
used, signatures = json.loads(sys.argv[1]), json.loads(sys.argv[2])
of = lambda owner: getattr(trt, owner) if owner else trt
print(json.dumps({
    "version": trt.__version__,
    "missing": [f"{o}.{n}" for o, names in used.items() for n in names if not hasattr(of(o), n)],
    "docs": {key: (getattr(of(key.split(".")[0]), key.split(".")[1]).__doc__ or "")
             for key in signatures},
    "uint8": str(trt.nptype(trt.DataType.UINT8).__name__),
}))
"""


def look(folder: Path, used: dict[str, list[str]]) -> dict[str, object]:
    """Return what the bindings have of ``used``; they are loaded in a process of their own."""
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("tensorrt-cu13-bindings is not installed")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make stand-ins for TensorRT's libraries")
    source = folder / "empty.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in ENTRY_POINTS))
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        file = f"lib{library}.so.11"
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", file, source.name],
            cwd=folder,
            check=True,
        )
    arguments = [json.dumps(used), json.dumps(list(SIGNATURES))]
    finished = subprocess.run(
        [sys.executable, "-c", LOOK, *arguments],
        env={"LD_LIBRARY_PATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    found: dict[str, object] = json.loads(finished.stdout)
    return found


def test_all_that_we_use_of_tensorrt_11_exists(tmp_path: Path) -> None:
    found = look(tmp_path, USED)
    assert str(found["version"]).startswith("11.")
    assert found["missing"] == []
    assert found["uint8"] == "uint8"
    docs = found["docs"]
    assert isinstance(docs, dict)
    for key, signature in SIGNATURES.items():
        assert signature in docs[key], docs[key][:200]


def test_names_that_tensorrt_11_removed_are_absent(tmp_path: Path) -> None:
    missing = look(tmp_path, GONE)["missing"]
    assert missing == [f"{owner}.{name}" for owner, names in GONE.items() for name in names]

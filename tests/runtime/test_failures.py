"""What a runtime says is sorted by the remedy: less memory, another process, other software."""

import pytest

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.failures import failed_call, reason_of
from triplex_deploy.runtime.session import DeviceMemoryError, LostDeviceError


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (DeviceMemoryError, "CUDA failure 2: out of memory ; GPU=0 ; hostname=a ; line=1"),
        (DeviceMemoryError, "CUDA error 2"),
        (DeviceMemoryError, "BFCArena: Failed to allocate memory for requested buffer of size 9"),
        (DeviceMemoryError, "Available memory of 100 is smaller than requested bytes of 200"),
        (DeviceMemoryError, "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0"),
        (DeviceMemoryError, "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ; GPU=0"),
        (DeviceMemoryError, "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        (DeviceMemoryError, "[defaultAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)"),
        (DeviceMemoryError, "Requested amount of GPU memory (9 bytes) could not be allocated."),
        (DeviceMemoryError, "std::bad_alloc"),
        (LostDeviceError, "CUDA failure 700: an illegal memory access was encountered ; GPU=0"),
        (LostDeviceError, "CUDA failure 719: unspecified launch failure ; GPU=0"),
        (LostDeviceError, "CUDA error 719"),
        (LostDeviceError, "cuStreamSynchronize failed: an illegal memory access was encountered"),
        (LostDeviceError, "cuEventSynchronize failed: unspecified launch failure"),
        (LostDeviceError, "the launch timed out and was terminated"),
        (LostDeviceError, "uncorrectable ECC error encountered"),
        (LostDeviceError, "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."),
        (
            BackendError,
            "CUDA failure 209: no kernel image is available for execution on the device",
        ),
        (BackendError, "CUDA error 209"),
        (BackendError, "CUDA failure 701: too many resources requested for launch"),
        (BackendError, "Non-zero status code returned while running Conv node"),
    ],
)
def test_error_is_of_the_kind_that_its_text_says(kind: type[BackendError], text: str) -> None:
    error = failed_call("tile_encoder", "ONNX Runtime", RuntimeError(f"{text}\nmore lines"))
    assert type(error) is kind
    assert f"tile_encoder: ONNX Runtime failed ({text}); " in str(error)
    assert "more lines" not in str(error)


def test_remedy_is_for_the_reason() -> None:
    remedies = {
        "no kernel image is available for execution on the device": "no code for this GPU",
        "an illegal memory access was encountered": "run the command again",
        "out of memory": "lower --batch-size",
    }
    for text, remedy in remedies.items():
        assert remedy in str(failed_call("graph", "CUDA", RuntimeError(text)))


OPENVINO = "Exception from src/inference/src/cpp/infer_request.cpp:224:\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("one line", "one line"),
        ("", ""),
        (f"{OPENVINO}Cannot load library\n", "Cannot load library"),
        (
            f"{OPENVINO}Check 'shape' failed at src/plugins/a.h:99:\nParameterMismatch: no\n\n",
            "ParameterMismatch: no",
        ),
        (OPENVINO, OPENVINO.strip()),
    ],
)
def test_reason_is_not_a_place_in_the_sources(text: str, reason: str) -> None:
    assert reason_of(RuntimeError(text)) == reason


def test_openvino_without_memory_is_about_memory() -> None:
    text = f"{OPENVINO}[CPU] MatMul node Check 'ptr' failed at src/m.cpp:257:\nFailed to allocate 4"
    assert isinstance(failed_call("g", "OpenVINO", RuntimeError(text)), DeviceMemoryError)

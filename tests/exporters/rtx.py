"""TensorRT-RTX as a stand-in for TensorRT: same parser and builder, and no GPU needed."""

from typing import Any

import pytest

BUILD_FOR = "SM89"


def tensorrt_rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")

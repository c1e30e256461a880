"""Use TensorRT-RTX instead of TensorRT: it has the same parser and builder, and needs no GPU."""

from typing import Any

import pytest

BUILD_FOR = "SM89"


def tensorrt_rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")

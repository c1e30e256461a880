"""The GPUs that each precision needs."""

import pytest

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.tensorrt.engines import require_capability
from triplex_deploy.runtime.tensorrt.manifest import Platform


@pytest.mark.parametrize(
    ("precision", "capability"),
    [("fp8", (8, 9)), ("fp8", (9, 0)), ("bf16", (8, 0)), ("fp16", (7, 5))],
)
def test_gpu_with_the_instructions_is_accepted(precision: str, capability: tuple[int, int]) -> None:
    require_capability(precision, Platform("NVIDIA L4", capability, "11.4.0.106"))


@pytest.mark.parametrize(
    ("precision", "capability", "message"),
    [
        ("fp8", (8, 6), "precision fp8: NVIDIA A10 has compute capability 8.6, and it needs 8.9"),
        ("bf16", (7, 5), "precision bf16: NVIDIA A10 has compute capability 7.5, and it needs 8.0"),
    ],
)
def test_gpu_without_them_is_named_with_the_way_out(
    precision: str, capability: tuple[int, int], message: str
) -> None:
    with pytest.raises(BackendError, match=f"{message}; export with --precision fp16"):
        require_capability(precision, Platform("NVIDIA A10", capability, "11.4.0.106"))

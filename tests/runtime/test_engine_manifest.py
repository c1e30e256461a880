"""An engine that was built for another GPU, library or graph is refused, with the reason."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime.tensorrt.manifest import EngineManifest, Platform, read_plan

PLAN = b"machine code"
H100 = Platform("NVIDIA H100 80GB HBM3", (9, 0), "11.4.0.106")


def manifest(**changes: Any) -> EngineManifest:
    values: dict[str, Any] = {
        "schema_version": 1,
        "graph": "fusion_head",
        "gpu": H100.gpu,
        "compute_capability": H100.compute_capability,
        "tensorrt": H100.tensorrt,
        "onnx_sha256": "a" * 64,
        "precision": "fp16",
        "profile": (1, 64, 512),
        "version_compatible": False,
        "hardware": "none",
        "refit": False,
        "plan_sha256": sha256(PLAN).hexdigest(),
    }
    return EngineManifest(**{**values, **changes})


def store(folder: Path, written: EngineManifest, plan: bytes = PLAN) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "fusion_head.json").write_text(written.to_json())
    (folder / "fusion_head.plan").write_bytes(plan)
    return folder


def test_engine_of_this_machine_is_read(tmp_path: Path) -> None:
    assert read_plan(store(tmp_path / "e", manifest()), manifest(plan_sha256="")) == PLAN


def test_folder_names_all_a_plan_depends_on() -> None:
    assert H100.folder("fp16") == "nvidia-h100-80gb-hbm3-sm90-trt11.4.0.106-fp16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gpu": "NVIDIA L4"}, r"built for NVIDIA L4 \(compute capability 9.0\), this is NVIDIA H"),
        ({"compute_capability": (8, 9)}, r"capability 8.9\), this is NVIDIA H100 .* \(9.0\)"),
        ({"tensorrt": "11.3.0.1"}, "built by TensorRT 11.3.0.1, this is 11.4.0.106"),
        ({"onnx_sha256": "b" * 64}, "built from another ONNX file"),
        ({"precision": "fp32"}, "precision is fp32, the bundle asks fp16"),
        ({"profile": (1, 8, 16)}, r"profile is \(1, 8, 16\), the bundle asks \(1, 64, 512\)"),
        ({"graph": "tile_encoder"}, "graph is tile_encoder"),
        ({"schema_version": 2}, "schema_version is 2"),
    ],
)
def test_engine_of_something_else_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = store(tmp_path / "engines", manifest(**change))
    with pytest.raises(BackendError, match=rf"{message}.*; delete {folder} to have it built"):
        read_plan(folder, manifest())


@pytest.mark.parametrize("plan", [PLAN[:-1], PLAN + b"x", b""])
def test_truncated_or_altered_plan_is_refused(plan: bytes, tmp_path: Path) -> None:
    folder = store(tmp_path / "engines", manifest(), plan)
    with pytest.raises(BackendError, match=r"truncated or altered .*; delete .* built again"):
        read_plan(folder, manifest())


def test_plan_without_its_file_or_manifest_is_refused(tmp_path: Path) -> None:
    folder = store(tmp_path / "engines", manifest())
    (folder / "fusion_head.plan").unlink()
    with pytest.raises(BackendError, match=r"No such file"):
        read_plan(folder, manifest())
    (folder / "fusion_head.json").write_text('{"graph": "fusion_head", "extra": 1}')
    with pytest.raises(BackendError, match=r"fusion_head\.json: cannot be read"):
        read_plan(folder, manifest())


def test_compatible_engines_load_where_they_promise_to(tmp_path: Path) -> None:
    later = manifest(tensorrt="11.9.1.2")
    older = store(tmp_path / "a", manifest(version_compatible=True))
    assert read_plan(older, later) == PLAN
    with pytest.raises(BackendError, match=r"built by TensorRT 11.4"):
        read_plan(older, manifest(tensorrt="12.0.0.1"))
    with pytest.raises(BackendError, match=r"built by TensorRT 11.4"):
        read_plan(older, manifest(tensorrt="11.2.0.1"))
    ampere = store(tmp_path / "b", manifest(hardware="ampere_plus"))
    assert read_plan(ampere, manifest(gpu="NVIDIA L4", compute_capability=(8, 9))) == PLAN
    with pytest.raises(BackendError, match=r"built for"):
        read_plan(ampere, manifest(gpu="Tesla T4", compute_capability=(7, 5)))
    same = store(tmp_path / "c", manifest(hardware="same_compute_capability"))
    assert read_plan(same, manifest(gpu="NVIDIA H200")) == PLAN
    with pytest.raises(BackendError, match=r"built for"):
        read_plan(same, manifest(gpu="NVIDIA L4", compute_capability=(8, 9)))

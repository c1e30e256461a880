"""OpenVINO sessions: threads, new outputs, memory, telemetry and errors."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.errors import BackendError
from triplex_deploy.runtime import openvino
from triplex_deploy.runtime.cpu_choice import has_fast_bf16
from triplex_deploy.runtime.model import RunnableBundle
from triplex_deploy.runtime.openvino import open_session
from triplex_deploy.system import processor_flags


def random_tiles(n_tiles: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n_tiles, 224, 224, 3), dtype=np.uint8)


def test_outputs_are_new_arrays_and_do_not_depend_on_the_batch(bundle: RunnableBundle) -> None:
    tiles = random_tiles(5)
    with bundle.open(device="cpu", backend="openvino") as model:
        session = model.session("tile_encoder")
        whole = session.run({"tiles": tiles})["features"]
        before = whole.copy()
        rows = [session.run({"tiles": tiles[i : i + 1]})["features"] for i in range(5)]
    np.testing.assert_array_equal(np.concatenate(rows), before)
    np.testing.assert_array_equal(whole, before)


def test_several_threads_get_their_own_results(bundle: RunnableBundle) -> None:
    batches = [random_tiles(2, seed) for seed in range(8)]
    with bundle.open(device="cpu", backend="openvino") as model:
        session = model.concurrent_sessions()["tile_encoder"]
        alone = [session.run({"tiles": batch})["features"] for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda batch: session.run({"tiles": batch}), batches))
    for found, wanted in zip(together, alone, strict=True):
        np.testing.assert_array_equal(found["features"], wanted)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed in /proc")
def test_cpu_time_of_each_graph_is_that_of_its_own_threads(bundle: RunnableBundle) -> None:
    with bundle.open(device="cpu", backend="openvino") as model:
        sessions = model.concurrent_sessions()
        for session in sessions.values():
            session.prepare()
        used, other = sessions["tile_encoder"], sessions["target_encoder"]
        process_s = -time.process_time()
        used_s, other_s = -used.own_cpu_s(), -other.own_cpu_s()
        for seed in range(3):
            used.run({"tiles": random_tiles(4, seed)})
        used_s += used.own_cpu_s()
        other_s += other.own_cpu_s()
        process_s += time.process_time()
    assert process_s / 2 < used_s <= process_s
    assert other_s < used_s / 10


def test_bf16_stays_near_fp32_and_differs(bundle: RunnableBundle) -> None:
    if not has_fast_bf16():
        pytest.skip("this CPU does not multiply bf16 in hardware")
    tiles = random_tiles(3)
    outputs = []
    for precision in ("fp32", "bf16"):
        with bundle.open(device="cpu", backend="openvino", precision=precision) as model:
            assert model.precision == precision
            outputs.append(model.run("tile_encoder", {"tiles": tiles})["features"].ravel())
    exact, rounded = outputs
    cosine = exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded)
    assert cosine > 0.995
    assert not np.array_equal(exact, rounded)


def test_closed_session_and_damaged_file_are_named(bundle: RunnableBundle, tmp_path: Path) -> None:
    spec = bundle.specs["tile_encoder"]
    with bundle.open(device="cpu", backend="openvino") as model:
        session = model.session("tile_encoder")
    with pytest.raises(BackendError, match="the session is closed"):
        session.run({"tiles": random_tiles(1)})
    damaged = tmp_path / "tile_encoder.onnx"
    damaged.write_bytes((bundle.path / damaged.name).read_bytes()[:5000])
    with pytest.raises(BackendError, match=r"tile_encoder\.onnx: OpenVINO cannot load it"):
        open_session(damaged, spec).run({"tiles": random_tiles(1)})


def test_little_address_space_is_an_error_before_openvino_crashes(
    bundle: RunnableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "free_address_space", lambda: 900 << 20)
    session = open_session(bundle.path / "tile_encoder.onnx", bundle.specs["tile_encoder"])
    with pytest.raises(BackendError, match=r"may map 900 MB more; .*--backend onnxruntime"):
        session.prepare()


def test_missing_openvino_names_the_install_command(
    bundle: RunnableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"pip install .*\[cpu\]"):
        bundle.open(device="cpu", backend="openvino")


ISA_FLAGS = {
    "AVX2": "avx2",
    "AVX2_VNNI": "avx_vnni",
    "AVX512_CORE": "avx512f",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_AMX": "amx_bf16",
}
"""The processor flag that each instruction set needs."""


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISA_FLAGS)
def test_contract_holds_for_each_instruction_set(isa: str) -> None:
    if ISA_FLAGS[isa] not in processor_flags():
        pytest.skip(f"this CPU has no {ISA_FLAGS[isa]}")
    tests = ["tests/runtime/test_backends.py", "tests/runtime/test_openvino.py"]
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "openvino", "-m", "not slow", *tests],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout[-3000:]


def test_bf16_is_refused_if_the_instructions_are_limited(
    bundle: RunnableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    with pytest.raises(BackendError, match="does not multiply it in hardware"):
        bundle.open(device="cpu", backend="openvino", precision="bf16")


def test_telemetry_is_not_even_imported() -> None:
    code = (
        "import sys; from triplex_deploy.runtime.openvino import import_openvino;"
        "import_openvino(); assert 'openvino_telemetry' not in sys.modules"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr

"""A slide is predicted by sessions that keep tensors on the device: equal numbers, few copies."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.gpu.stand_in import StandInGpu
from tests.gpu.stand_in_tensorrt import StandInTensorrt
from triplex_deploy import predict_slide
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.runtime import ort_rows
from triplex_deploy.runtime.concurrent_sessions import share_gpu
from triplex_deploy.runtime.device import CPU
from triplex_deploy.runtime.model import Model, RunnableBundle
from triplex_deploy.runtime.ort import OrtSession
from triplex_deploy.runtime.ort_load import load_session
from triplex_deploy.spots import Spots

BATCH = 8
TILE_BYTES = 224 * 224 * 3


@pytest.fixture(scope="module")
def slide_path(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    synthesize_slide(path, 1120, 896, model.bundle.manifest.tile_mpp, seed=3)
    return path


@pytest.fixture(scope="module")
def options() -> PredictOptions:
    """Three spots share tiles, and one shares none: some tiles are only neighbors."""
    level0_xy = np.array([(336, 448), (560, 448), (784, 448), (600, 500)], np.float64)
    grid_rc = np.array([(2, 1), (2, 2), (2, 3), (3, 2)], np.int64)
    spots = Spots(level0_xy, grid_rc, "file", 100.0)
    return PredictOptions(spots=spots, batch_size=BATCH)


@pytest.mark.usefixtures("installed")
def test_tiles_are_copied_once_and_tokens_stay(
    engine_bundle: RunnableBundle,
    model: Model,
    gpu: StandInGpu,
    trt: StandInTensorrt,
    slide_path: Path,
    options: PredictOptions,
) -> None:
    wanted = predict_slide(slide_path, model, options)
    with engine_bundle.open(device="cuda:0", backend="tensorrt") as engines:
        gpu.clear()
        found = predict_slide(slide_path, engines, options)
        queued = [record for record in gpu.records if record.phase == "queue"]
    np.testing.assert_allclose(found.expression, wanted.expression, atol=1e-5)
    assert np.ptp(wanted.expression, axis=0).min() > 1e-3
    n_tiles = found.run["tiles_encoded"]
    assert n_tiles > 3 * BATCH
    for graph in ("tile_encoder", "target_encoder", "neighbor_encoder", "fusion_head"):
        sizes = trt.lengths_of(engine_bundle.specs[graph])
        assert sizes <= {BATCH // 4, BATCH}, f"{graph}: two sizes at most"
    copied_in = [record.n_bytes for record in queued if record.kind == "htod"]
    batches = -(-n_tiles // BATCH) + 1  # each once for both encoders, and the masked tile
    assert len([n_bytes for n_bytes in copied_in if n_bytes >= TILE_BYTES]) == batches
    rest = [n_bytes for n_bytes in copied_in if n_bytes < TILE_BYTES]
    assert max(rest) <= 4096, "numbers of rows, masks and tables alone"
    tokens = 4 * 49 * 512
    copied_out = [record.n_bytes for record in queued if record.kind == "dtoh"]
    assert max(copied_out) < tokens
    assert gpu.pageable_copies == 0


@pytest.mark.parametrize("free_bytes", [None, 1 << 30])
def test_bound_sessions_predict_the_same(
    bundle: RunnableBundle,
    model: Model,
    slide_path: Path,
    options: PredictOptions,
    free_bytes: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run ONNX Runtime as on a GPU with and without room for rows; the device is the CPU."""
    monkeypatch.setattr(ort_rows, "free_gpu_bytes", lambda _: free_bytes)
    with ExitStack() as stack:
        sessions = {}
        for name, spec in bundle.specs.items():
            loaded = load_session(bundle.path / bundle.entry(name, "onnxruntime").file, threads=1)
            sessions[name] = stack.enter_context(OrtSession(spec, loaded, CPU, bound=True))
        bound = Model(bundle, share_gpu(sessions), CPU, "bound", stack)
        found = predict_slide(slide_path, bound, options)
    wanted = predict_slide(slide_path, model, options)
    np.testing.assert_allclose(found.expression, wanted.expression, atol=1e-5)
    places = set(found.run["kept_in"].values())
    assert any("GPU" in place for place in places) == (free_bytes is not None), places

"""What crosses the bus while a slide is predicted, and what runs at once; on the stand-ins.

The engines compute the fake model. What overlaps is shown by the order of events: streams are
paused until what must not wait for them is queued.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.gpu.computed_model import computed_model
from tests.gpu.stand_in import StandInGpu
from tests.gpu.stand_in_tensorrt import StandInTensorrt
from tests.pipeline.fake_model import TILE_MPP, fake_config, fake_model
from tests.runtime.test_gpu_scheduling import run_in_thread
from triplex_deploy import predict_slide
from triplex_deploy.outputs import Prediction
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.progress import Silent
from triplex_deploy.runtime.tensorrt import session as trt_session
from triplex_deploy.runtime.tensorrt.memory import MemoryBudget
from triplex_deploy.runtime.tensorrt.upload import UploadLane

TILE = 224
BATCH = 8
TILE_BYTES = 3 * TILE * TILE
OPTIONS = PredictOptions(mpp=TILE_MPP, all_tiles=True, batch_size=BATCH, unfamiliar="ignore")


def write_slide(path: Path, side: int) -> Path:
    """Write a slide of ``side`` x ``side`` tiles of different brightness."""
    rows, columns = np.divmod(np.arange(side * side), side)
    shades = (60 + (rows * 31 + columns * 17) % 150).astype(np.uint8)
    tiles = (np.full((TILE, TILE, 3), shade, np.uint8) for shade in shades)
    shape = (side * TILE, side * TILE, 3)
    tifffile.imwrite(
        path, tiles, shape=shape, dtype=np.uint8, tile=(TILE, TILE), compression="deflate"
    )
    return path


def on_gpu(
    slide: Path, gpu: StandInGpu, trt: StandInTensorrt, most_bytes: int | None = None
) -> tuple[Prediction, list[Any]]:
    """Predict a slide; return the prediction and the records of the driver."""
    with computed_model(gpu, trt, MemoryBudget(most_bytes)) as model:
        gpu.clear()
        found = predict_slide(slide, model, OPTIONS)
        records = gpu.records
    assert (gpu.used_bytes, gpu.live_streams, gpu.live_locked) == (0, 0, 0)
    return found, records


def bus_bytes(records: list[Any]) -> Counter[str]:
    """Return the bytes that were copied, by direction."""
    copied: Counter[str] = Counter()
    for record in records:
        if record.phase == "queue" and record.kind in ("htod", "dtoh"):
            copied[record.kind] += record.n_bytes
    return copied


def check(found: Prediction, records: list[Any], slide: Path, trt: StandInTensorrt) -> None:
    """Compare with the CPU; require that no token came back, and two sizes of batches at most."""
    config = fake_config()
    wanted = predict_slide(slide, fake_model(config), OPTIONS)
    np.testing.assert_allclose(found.expression, wanted.expression, atol=1e-5)
    assert found.run["kept_in"] == {
        "features": "GPU, and a copy in memory",
        "target_tokens": "GPU",
    }
    n_tiles, n_spots = found.run["tiles_encoded"], found.n_spots
    results = 4 * (n_tiles * config.feature_dim + n_spots * config.n_genes)
    batches = n_spots // 128 + n_tiles // BATCH + 2
    padding = 4 * (128 * config.n_genes + BATCH * config.feature_dim) + 16 * batches
    back = sum(r.n_bytes for r in records if r.phase == "queue" and r.kind == "dtoh")
    assert results <= back <= results + padding, "features, expression and row numbers alone"
    specs = fake_model(config).bundle.specs
    for spec in specs.values():
        if spec.kind != "per slide":
            assert len(trt.lengths_of(spec)) <= 2, spec.name


def test_no_token_crosses_to_the_host(
    gpu: StandInGpu, trt: StandInTensorrt, tmp_path: Path
) -> None:
    slide = write_slide(tmp_path / "slide.tif", 6)
    found, records = on_gpu(slide, gpu, trt)
    check(found, records, slide, trt)


def test_copies_run_on_streams_of_their_own(
    gpu: StandInGpu, trt: StandInTensorrt, tmp_path: Path
) -> None:
    slide = write_slide(tmp_path / "slide.tif", 6)
    _, records = on_gpu(slide, gpu, trt)
    streams: dict[str, set[int]] = {}
    for record in records:
        kind = record.kind
        if kind == "htod" and record.n_bytes >= TILE_BYTES:
            streams.setdefault("tiles", set()).add(record.stream)
        elif kind == "dtoh" and record.n_bytes == 4 * BATCH * fake_config().feature_dim:
            streams.setdefault("features", set()).add(record.stream)
    assert streams["tiles"]
    assert streams["features"]
    assert not streams["tiles"] & streams["features"]
    assert gpu.pageable_copies == 0


def test_the_second_batch_is_queued_before_the_first_is_computed(
    gpu: StandInGpu, trt: StandInTensorrt, tmp_path: Path
) -> None:
    slide = write_slide(tmp_path / "slide.tif", 6)

    class PausesEncoding(Silent):
        def start(self, stage: str, total: int) -> None:
            if stage == "encoding tiles":
                gpu.pause()
                gpu.clear()

    with computed_model(gpu, trt, MemoryBudget()) as model:
        call = partial(predict_slide, slide, model, OPTIONS, PausesEncoding())
        thread, results = run_in_thread(call)
        gpu.await_log("queue compute", 4)  # of each worker: the encoder, and the look for NaN
        records = gpu.records
        gpu.resume()
        thread.join()
    assert len(results) == 1
    uploads = [r for r in records if r.kind == "htod" and r.n_bytes >= TILE_BYTES]
    assert len(uploads) == 2
    assert "begin" not in {record.phase for record in records}


def test_short_memory_falls_back_to_the_host_and_says_so(
    gpu: StandInGpu, trt: StandInTensorrt, tmp_path: Path
) -> None:
    slide = write_slide(tmp_path / "slide.tif", 6)
    found, _ = on_gpu(slide, gpu, trt, most_bytes=8 << 20)
    wanted = predict_slide(slide, fake_model(fake_config()), OPTIONS)
    np.testing.assert_allclose(found.expression, wanted.expression, atol=1e-5)


def test_tiles_are_cut_into_the_memory_that_the_gpu_copies(
    gpu: StandInGpu, trt: StandInTensorrt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = write_slide(tmp_path / "slide.tif", 6)
    copied: list[int] = []
    in_place: list[int] = []
    uploaded = UploadLane._from_where_it_is

    def free_buffer(lane: UploadLane, n_bytes: int) -> Any:
        copied.append(n_bytes)
        return made(lane, n_bytes)

    def where_it_is(lane: UploadLane, array: np.ndarray) -> Any:
        in_place.append(array.nbytes)
        return uploaded(lane, array)

    made = UploadLane._free_buffer
    monkeypatch.setattr(UploadLane, "_free_buffer", free_buffer)
    monkeypatch.setattr(UploadLane, "_from_where_it_is", where_it_is)
    found, _ = on_gpu(slide, gpu, trt)
    n_full = found.run["tiles_encoded"] // BATCH
    assert in_place == [BATCH * TILE_BYTES] * n_full
    padded = [n_bytes for n_bytes in copied if n_bytes >= TILE_BYTES]
    assert len(padded) <= 1, "the last batch alone, which is filled up"


@pytest.mark.slow
def test_trace_of_two_thousand_spots(
    gpu: StandInGpu,
    trt: StandInTensorrt,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    slide = write_slide(tmp_path / "slide.tif", 45)
    found, records = on_gpu(slide, gpu, trt)
    assert found.n_spots == 2025
    check(found, records, slide, trt)
    after = bus_bytes(records)
    monkeypatch.setattr(trt_session, "open_row_table", lambda *_: None)
    again, records = on_gpu(slide, gpu, trt)
    np.testing.assert_array_equal(again.expression, found.expression)
    assert again.run["kept_in"] == {"features": "memory", "target_tokens": "memory"}
    before = bus_bytes(records)
    assert before["dtoh"] > 10 * after["dtoh"]
    with capsys.disabled():
        for name, copied in (("host", before), ("GPU", after)):
            per_spot = {kind: round(n / found.n_spots) for kind, n in copied.items()}
            print(f"\nrows kept on the {name}: bytes per spot {per_spot}")  # noqa: T201

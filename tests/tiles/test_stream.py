import threading

import numpy as np
import pytest

from triplex_deploy.errors import SlideError, TilingError
from triplex_deploy.slides import open_slide
from triplex_deploy.tiles import SlideView, plan_tiles, stream_tiles
from triplex_deploy.tiles.stream import StreamStats, step_length


def stream_threads():
    return [t for t in threading.enumerate() if t.name.startswith("stream-tiles")]


def collect(view, plan, **options):
    """Return all tiles in the plan's order; every tile must come exactly once."""
    tiles = np.zeros((len(plan.origins_xy), 224, 224, 3), np.uint8)
    seen = np.zeros(len(tiles), np.int64)
    for batch in stream_tiles(view, plan, **options):
        tiles[batch.tile_index] = batch.tiles
        np.add.at(seen, batch.tile_index, 1)
    assert (seen == 1).all()
    return tiles


def grid_plan(view, pitch=224):
    width, height = view.size_wh
    x, y = np.meshgrid(np.arange(112, width, pitch), np.arange(112, height, pitch))
    return plan_tiles(np.stack([x.ravel(), y.ravel()], axis=1), view.size_wh)


@pytest.mark.parametrize(("slide_mpp", "mpp"), [(0.5, 0.5), (0.4, 0.5), (0.7, 0.5)])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_tile_comes_once_with_the_pixels_of_the_view(memory_slide, slide_mpp, mpp, threads):
    view = SlideView.open(memory_slide((1100, 900)), slide_mpp, mpp)
    centers = np.random.default_rng(1).integers(0, view.size_wh, (6, 2))
    plan = plan_tiles(centers, view.size_wh)
    tiles = collect(view, plan, batch_size=7, threads=threads)
    for tile, (x, y) in zip(tiles, plan.origins_xy.tolist(), strict=True):
        np.testing.assert_array_equal(tile, view.read(x, y, 224, 224))


def test_batches_are_full_but_for_the_last(memory_slide):
    view = SlideView.open(memory_slide((224 * 5, 224 * 3)), 0.5, 0.5)
    sizes = [len(batch.tiles) for batch in stream_tiles(view, grid_plan(view), 4)]
    assert sizes == [4, 4, 4, 3]


def test_every_segment_is_decoded_once(memory_slide):
    slide = memory_slide((224 * 7, 224 * 5))
    view = SlideView.open(slide, 0.5, 0.5)
    stats = StreamStats()
    collect(view, grid_plan(view), batch_size=8, stats=stats)
    assert (slide.reads == 1).all()
    assert stats.segments_decoded == stats.segments_planned == len(slide.windows)


@pytest.mark.parametrize("mpp", [0.5, 0.8])
def test_dense_irregular_neighborhoods_decode_no_segment_twice(memory_slide, mpp):
    slide = memory_slide((3000, 2600))
    view = SlideView.open(slide, 0.5, mpp)
    centers = np.random.default_rng(5).integers(0, view.size_wh, (40, 2))
    collect(view, plan_tiles(centers, view.size_wh), batch_size=16, threads=3)
    assert slide.reads.max() == 1


def test_segments_under_no_tile_are_not_decoded(memory_slide):
    slide = memory_slide((4096, 4096))
    view = SlideView.open(slide, 0.5, 0.5)
    plan = plan_tiles(np.array([[600, 600], [3200, 3200]]), view.size_wh)
    collect(view, plan, batch_size=16)
    assert len(slide.windows) == 2 * 3 * 3  # 1120 pixels from 40 and from 2640, in cells of 512


@pytest.mark.parametrize("mpp", [0.5, 0.8])
def test_a_small_budget_is_kept_by_reading_in_stripes(memory_slide, mpp, monkeypatch):
    monkeypatch.setattr("triplex_deploy.tiles.stream.MIN_STEP_TILES", 4)
    slide = memory_slide((9000, 2400))
    view = SlideView.open(slide, 0.5, mpp)
    plan = grid_plan(view)
    free, tight = StreamStats(), StreamStats()
    whole = collect(view, plan, batch_size=4, stats=free)
    budget = 3 * 4 * 224 * 224 * 3 + free.buffer_bytes * 2 // 3
    striped = collect(view, plan, batch_size=4, memory_bytes=budget, stats=tight)
    np.testing.assert_array_equal(striped, whole)
    assert tight.buffer_bytes <= free.buffer_bytes * 2 // 3
    assert tight.segments_planned < 1.5 * free.segments_planned


def test_a_budget_too_small_for_anything_is_refused_at_once(memory_slide):
    view = SlideView.open(memory_slide((1000, 1000)), 0.5, 0.5)
    with pytest.raises(TilingError, match="raise --memory-gb"):
        stream_tiles(view, grid_plan(view), 4, memory_bytes=1000)


def test_memory_does_not_grow_with_the_height_of_the_slide(memory_slide, monkeypatch):
    monkeypatch.setattr("triplex_deploy.tiles.stream.MIN_STEP_TILES", 4)
    needed = []
    for height in (4000, 12000):
        view = SlideView.open(memory_slide((1000, height)), 0.5, 0.5)
        stats = StreamStats()
        collect(view, grid_plan(view), batch_size=4, stats=stats)
        needed.append(stats.buffer_bytes)
    assert needed[0] == needed[1]


def test_tiles_outside_the_slide_are_padded_without_reading_there(memory_slide):
    slide = memory_slide((300, 300))
    view = SlideView.open(slide, 0.5, 0.5)
    tiles = collect(view, plan_tiles(np.array([[0, 0]]), view.size_wh), batch_size=1)
    np.testing.assert_array_equal(tiles[0, 112:, 112:], slide.levels[0][:112, :112])
    assert not tiles[0, :112].any()


def test_batches_belong_to_the_consumer(memory_slide):
    view = SlideView.open(memory_slide((224 * 4, 224)), 0.5, 0.5)
    batches = list(stream_tiles(view, grid_plan(view), 2))
    assert not np.shares_memory(batches[0].tiles, batches[1].tiles)
    assert not np.array_equal(batches[0].tiles, batches[1].tiles)


def test_an_empty_plan_yields_nothing(memory_slide):
    view = SlideView.open(memory_slide((300, 300)), 0.5, 0.5)
    assert list(stream_tiles(view, plan_tiles(np.zeros((0, 2), np.int64), (300, 300)), 4)) == []


def test_reading_ahead_is_bounded(memory_slide, monkeypatch):
    monkeypatch.setattr("triplex_deploy.tiles.stream.MIN_STEP_TILES", 1)
    slide = memory_slide((512 * 30, 512))
    view = SlideView.open(slide, 0.5, 0.5)
    stream = stream_tiles(view, grid_plan(view, pitch=512), 1, threads=2)
    next(stream)
    stream.close()
    assert len(slide.windows) <= 5


def test_closing_early_ends_the_threads(memory_slide):
    view = SlideView.open(memory_slide((224 * 60, 224)), 0.5, 0.5)
    stream = stream_tiles(view, grid_plan(view), 2)
    next(stream)
    assert stream_threads()
    stream.close()
    assert not stream_threads()


def test_an_unused_stream_starts_no_threads(memory_slide):
    view = SlideView.open(memory_slide((300, 300)), 0.5, 0.5)
    stream = stream_tiles(view, grid_plan(view), 2)
    assert not stream_threads()
    stream.close()


def test_an_error_of_the_slide_reaches_the_consumer_and_ends_the_threads(memory_slide):
    slide = memory_slide((1000, 1000))
    view = SlideView.open(slide, 0.5, 0.5)
    slide.fail = SlideError("memory.tif: broken tile")
    with pytest.raises(SlideError, match="broken tile"):
        list(stream_tiles(view, grid_plan(view), 2))
    assert not stream_threads()


@pytest.mark.parametrize(("batch_size", "threads"), [(0, 1), (1, 0)])
def test_counts_below_one_are_refused_at_once(memory_slide, batch_size, threads):
    view = SlideView.open(memory_slide((300, 300)), 0.5, 0.5)
    with pytest.raises(TilingError, match="use at least 1 of each"):
        stream_tiles(view, grid_plan(view), batch_size, threads)


def test_an_unknown_way_with_bad_tiles_is_refused(memory_slide):
    view = SlideView.open(memory_slide((300, 300)), 0.5, 0.5)
    with pytest.raises(TilingError, match="use 'raise' or 'skip'"):
        stream_tiles(view, grid_plan(view), 1, on_bad_tile="ignore")  # type: ignore[arg-type]


def test_bad_segments_are_zero_and_listed_when_skipped(memory_slide):
    slide = memory_slide((1024, 1024))
    slide.fail_at = (512, 0)
    view = SlideView.open(slide, 0.5, 0.5)
    plan, stats = grid_plan(view), StreamStats()
    with pytest.raises(SlideError, match="broken cell"):
        collect(view, plan, batch_size=4)
    tiles = collect(view, plan, batch_size=4, on_bad_tile="skip", stats=stats)
    slide.levels[0][:512, 512:], slide.fail_at = 0, None
    for tile, (x, y) in zip(tiles, plan.origins_xy.tolist(), strict=True):
        np.testing.assert_array_equal(tile, view.read(x, y, 224, 224))
    assert [(bad.level, bad.column, bad.row) for bad in stats.bad_tiles] == [(0, 1, 0)]
    assert "broken cell" in stats.bad_tiles[0].error


def test_tiles_of_a_real_slide_equal_its_level(shared_data):
    with open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs") as slide:
        view = SlideView.open(slide, 0.499, 0.5)
        plan = grid_plan(view)
        tiles = collect(view, plan, batch_size=32)
        for tile, (x, y) in zip(tiles, plan.origins_xy.tolist(), strict=True):
            np.testing.assert_array_equal(tile, slide.read(0, x, y, 224, 224))
        assert tiles.mean() > 100


@pytest.mark.parametrize("memory_bytes", [1 << 30, 45_000_000])
def test_tiles_of_a_batch_come_group_by_group(memory_slide, memory_bytes):
    """With little memory the slide is read in stripes."""
    view = SlideView.open(memory_slide((224 * 12, 224 * 4)), 0.5, 0.5)
    plan = grid_plan(view)
    group = np.random.default_rng(2).integers(-1, 2, len(plan.origins_xy)).astype(np.int8)
    options = {"batch_size": 8, "memory_bytes": memory_bytes, "group": group}
    tiles = collect(view, plan, **options)
    for tile, (x, y) in zip(tiles, plan.origins_xy.tolist(), strict=True):
        np.testing.assert_array_equal(tile, view.read(x, y, 224, 224))
    in_order = [
        bool((np.diff(group[batch.tile_index]) >= 0).all())
        for batch in stream_tiles(view, plan, **options)
    ]
    assert sum(in_order) >= (6 if memory_bytes == 1 << 30 else 4)  # but for borders of stripes


def test_tiles_are_cut_into_lent_memory(memory_slide):
    view = SlideView.open(memory_slide((224 * 5, 224 * 3)), 0.5, 0.5)
    plan, lent = grid_plan(view), []

    class Buffers:
        def take(self, length):
            lent.append(np.empty((step_length(4), 224, 224, 3), np.uint8))
            return lent[-1][:length]

    for batch in stream_tiles(view, plan, 4, buffers=Buffers()):
        assert any(np.shares_memory(batch.tiles, memory) for memory in lent)

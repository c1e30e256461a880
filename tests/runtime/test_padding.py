"""Batches are padded to two sizes; the rows that fill them up change nothing."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from triplex_deploy.exporters.inputs import graph_inputs
from triplex_deploy.runtime.device import CPU
from triplex_deploy.runtime.device_array import DeviceArray
from triplex_deploy.runtime.model import Model, RunnableBundle
from triplex_deploy.runtime.ort import OrtSession
from triplex_deploy.runtime.ort_load import load_session
from triplex_deploy.runtime.padding import pad_batches
from triplex_deploy.runtime.session import Session

ROWS = {"per tile": 8, "per batch": 8}


class Recorded:
    """An ONNX Runtime session with tensors bound on the device, and the sizes of its calls."""

    def __init__(self, bundle: RunnableBundle, graph: str) -> None:
        path = bundle.path / bundle.entry(graph, "onnxruntime").file
        self.inner = OrtSession(bundle.specs[graph], load_session(path, threads=1), CPU, bound=True)
        self.sizes: list[int] = []
        run = self.inner._bound_outputs

        def noted(inputs: Any) -> Any:
            self.sizes.append(len(next(iter(inputs.values()))))
            return run(inputs)

        self.inner._bound_outputs = noted  # type: ignore[method-assign]
        self.padded: Session = pad_batches({graph: self.inner}, ROWS)[graph]


@pytest.fixture
def recorded(bundle: RunnableBundle) -> Iterator[Any]:
    opened: list[Recorded] = []

    def open_one(graph: str) -> Recorded:
        opened.append(Recorded(bundle, graph))
        return opened[-1]

    yield open_one
    for one in opened:
        one.inner.close()


@pytest.mark.parametrize("graph", ["neighbor_encoder", "fusion_head"])
def test_padded_batches_give_the_rows_of_plain_ones(
    graph: str, recorded: Any, model: Model
) -> None:
    session = recorded(graph)
    for size in (1, 2, 3, 7, 8, 9, 19):
        inputs = graph_inputs(model.bundle.specs[graph], size, seed=size)
        wanted = model.run(graph, inputs)
        for found in (session.padded.run(inputs), session.padded.submit(inputs)()):
            for name, array in wanted.items():
                assert found[name].shape == array.shape
                np.testing.assert_allclose(found[name], array, atol=1e-6)
    assert set(session.sizes) == {2, 8}


def test_kept_rows_feed_a_padded_graph_without_leaving_the_device(
    recorded: Any, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = graph_inputs(model.bundle.specs["neighbor_encoder"], 5)
    views: dict[str, Any] = graph_inputs(model.bundle.specs["fusion_head"], 5)
    first, second = recorded("neighbor_encoder"), recorded("fusion_head")
    kept = first.padded.run_kept(around)["neighbor_tokens"]
    assert isinstance(kept, DeviceArray)
    assert kept.shape[0] == 5
    tokens = kept.numpy()
    wanted = model.run("fusion_head", {**views, "neighbor_tokens": tokens})["expression"]
    rest = {name: array[3:] for name, array in views.items()}
    with monkeypatch.context() as patch:
        patch.setattr(type(kept), "numpy", lambda _: pytest.fail("copied back"))
        whole = second.padded.submit({**views, "neighbor_tokens": kept})
        part = second.padded.submit({**rest, "neighbor_tokens": kept[3:]})
    np.testing.assert_allclose(whole()["expression"], wanted, atol=1e-6)
    np.testing.assert_allclose(part()["expression"], wanted[3:], atol=1e-6)
    assert second.sizes == [8, 2]


def test_arrays_whose_memory_has_no_room_are_copied(recorded: Any, model: Model) -> None:
    """Two arrays on the device that begin at different rows of theirs cannot both be filled up."""
    views: dict[str, Any] = graph_inputs(model.bundle.specs["fusion_head"], 9)
    wanted = model.run("fusion_head", views)["expression"]
    session = recorded("fusion_head")
    names = [name for name in views if name.endswith("tokens")][:2]
    uploaded = {name: session.inner.upload(views[name]) for name in names}
    inputs = {name: array[4:9] for name, array in views.items()}
    inputs[names[0]] = uploaded[names[0]][4:9]
    inputs[names[1]] = session.inner.upload(views[names[1]][4:9])
    found = session.padded.run(inputs)["expression"]
    np.testing.assert_allclose(found, wanted[4:9], atol=1e-6)


def test_uploaded_tiles_are_filled_up_once_for_both_encoders(recorded: Any, model: Model) -> None:
    tiles = graph_inputs(model.bundle.specs["tile_encoder"], 5)["tiles"]
    first, second = recorded("tile_encoder"), recorded("target_encoder")
    uploaded = first.padded.upload(tiles)
    assert uploaded.shape == tiles.shape
    features = first.padded.run({"tiles": uploaded[:4]})["features"]
    wanted = model.run("tile_encoder", {"tiles": tiles[:4]})["features"]
    np.testing.assert_allclose(features, wanted, atol=1e-5)
    tokens = second.padded.run({"tiles": uploaded[4:]})["target_tokens"]
    wanted = model.run("target_encoder", {"tiles": tiles[4:]})["target_tokens"]
    np.testing.assert_allclose(tokens, wanted, atol=1e-5)
    assert (first.sizes, second.sizes) == ([8], [2])


def test_graph_of_a_whole_slide_is_not_padded(bundle: RunnableBundle) -> None:
    session = Recorded(bundle, "global_encoder")
    assert session.padded is session.inner
    session.inner.close()


def test_window_stays_within_its_memory(recorded: Any, model: Model) -> None:
    session = recorded("tile_encoder")
    tiles = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(224, 1).repeat(224, 2)
    whole = session.inner.upload(tiles.repeat(3, 3))
    for begin, end, size, ahead in ((0, 2, 4, 0), (3, 5, 4, 1), (5, 6, 6, 5), (2, 4, 2, 0)):
        view, first = whole[begin:end].window(size)
        assert first == ahead
        assert view.numpy()[first : first + end - begin, 0, 0, 0].tolist() == [*range(begin, end)]
    assert whole[2:4].window(7) is None
    assert whole[2:4].window(1) is None

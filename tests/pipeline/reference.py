"""Predict one spot at a time as published: slow and simple, with no code of the package.

Every spot reads its own 1120 x 1120 window and encodes its own 25 tiles; the global features are
the target tile encoded once more. Only the graphs are the ones under test; those that a model
does not have are left out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.runtime.model import Model

Pixels = NDArray[np.uint8]
Table = NDArray[np.int64]

MEAN_COLOR = (124, 116, 104)
"""255 times the ImageNet means, rounded: the color of masked tiles (docs/models.md)."""


def predict_one_by_one(
    pixels: Pixels,
    center_xy: NDArray[np.int64],
    grid_rc: NDArray[np.int64],
    model: Model,
    tables: Mapping[str, Table] | None = None,
) -> NDArray[np.float32]:
    """Return the expression (N, G) of spots centered at ``center_xy`` in ``pixels`` (H, W, 3).

    ``tables`` (N, ...) hold the positions of the spots; by default the table of APEG, kernel 3.
    """
    tables = {"apeg_index": _table(grid_rc)} if tables is None else tables
    tokens = _global_tokens(pixels, center_xy, tables, model)
    rows = []
    for spot, (x, y) in enumerate(center_xy):
        window = _window(pixels, x - 560, y - 560, 1120)
        tiles = window.reshape(5, 224, 5, 224, 3).swapaxes(1, 2).reshape(25, 224, 224, 3).copy()
        mask = _mask(x, y, pixels.shape[1], pixels.shape[0])
        tiles[~mask] = MEAN_COLOR
        inputs: dict[str, NDArray[Any]] = {"mask": mask[None]}
        if "global_encoder" in model.sessions:
            inputs["global_tokens"] = tokens[spot : spot + 1]
        if "target_encoder" in model.sessions:
            inputs["target_tokens"] = _run(model, "target_encoder", tiles=tiles[12:13])
        if "neighbor_encoder" in model.sessions:
            features = _run(model, "tile_encoder", tiles=tiles)
            inputs["neighbor_tokens"] = _run(
                model, "neighbor_encoder", features=features[None], mask=mask[None]
            )
        if "retrieval" in model.sessions:
            inputs["features"] = _run(model, "tile_encoder", tiles=tiles[12:13])
            inputs["exemplars"] = _run(model, "retrieval", features=inputs["features"])
        taken = [tensor.name for tensor in model.bundle.specs["fusion_head"].inputs]
        rows.append(_run(model, "fusion_head", **{name: inputs[name] for name in taken}))
    return np.vstack(rows)


def _global_tokens(
    pixels: Pixels, center_xy: NDArray[np.int64], tables: Mapping[str, Table], model: Model
) -> NDArray[np.float32]:
    if "global_encoder" not in model.sessions:
        return np.zeros((len(center_xy), 0), np.float32)
    of_tiles = model.bundle.specs["global_encoder"].inputs[0].name
    encoder = {"features": "tile_encoder", "target_tokens": "target_encoder"}[of_tiles]
    encoded = [
        _run(model, encoder, tiles=_window(pixels, x - 112, y - 112, 224)[None])
        for x, y in center_xy
    ]
    return _run(model, "global_encoder", **{of_tiles: np.concatenate(encoded)}, **tables)


def _run(model: Model, graph: str, **inputs: NDArray[Any]) -> NDArray[Any]:
    (output,) = model.run(graph, inputs).values()
    return output


def _window(pixels: Pixels, x: int, y: int, side: int) -> Pixels:
    height, width = pixels.shape[:2]
    window = np.zeros((side, side, 3), np.uint8)
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    window[y0 - y : y1 - y, x0 - x : x1 - x] = pixels[y0:y1, x0:x1]
    return window


def _mask(x: int, y: int, width: int, height: int) -> NDArray[np.bool_]:
    """Return the mask by docs/models.md, "Masked neighbors", with rings of 560 and 336 px.

    A row or column that leaves the slide is masked.
    """
    mask = np.ones((5, 5), bool)
    for ring, reach in enumerate((560, 336)):
        if y - reach < 0:
            mask[ring] = False
        if y + reach > height:
            mask[4 - ring] = False
        if x - reach < 0:
            mask[:, ring] = False
        if x + reach > width:
            mask[:, 4 - ring] = False
    return mask.ravel()


def _table(grid_rc: NDArray[np.int64]) -> Table:
    spot_at = {tuple(cell): i for i, cell in enumerate(grid_rc.tolist())}
    offsets = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1)]
    return np.array(
        [[spot_at.get((row + r, col + c), -1) for r, c in offsets] for row, col in grid_rc.tolist()]
    )

"""Predict a slide through a Triton server: tiles are cut here, the graphs run on the server.

    python client.py SLIDE --bundle BUNDLE --url localhost:8001 --out SLIDE.npy

Needs ``pip install triplex-deploy tritonclient[grpc]``.
"""

import argparse
from pathlib import Path

import numpy as np

from triplex_deploy import load_bundle
from triplex_deploy.contract import ModelConfig
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.placing import place_spots
from triplex_deploy.slides import open_slide, resolve_mpp
from triplex_deploy.tiles import SlideView, plan_tiles, stream_tiles
from triplex_deploy.tiles.apeg import position_index

LARGEST_MESSAGE = 2**31 - 1
"""Most bytes of a gRPC message, which hold about 14,000 tiles."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--url", default="localhost:8001")
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.out.exists():
        raise SystemExit(f"error: {options.out}: exists already; choose another --out")
    inputs = slide_inputs(options.slide, options.bundle, options.mpp)
    expression = ask(options.url, inputs)
    wrong = np.flatnonzero(~np.isfinite(expression).all(axis=1))
    if len(wrong):
        raise SystemExit(
            f"error: {len(wrong)} of {len(expression)} spots have NaN or infinity, the first is "
            f"spot {wrong[0]}, counted from 0; nothing is written, look at the server's graphs"
        )
    with atomic_path(options.out) as temporary, temporary.open("wb") as file:
        np.save(file, expression)


def slide_inputs(slide_path: Path, bundle_path: Path, mpp: float | None) -> dict[str, np.ndarray]:
    """Return the inputs of the model ``triplex`` for a slide with N spots and T tiles.

    They are ``tiles`` (T, 224, 224, 3), ``neighbor_tile`` (N, 25) and ``apeg_index`` (N, k*k).
    """
    bundle = load_bundle(bundle_path)
    with open_slide(slide_path) as slide:
        slide_mpp = resolve_mpp(slide, mpp)
        view = SlideView.open(slide, slide_mpp, bundle.manifest.tile_mpp)
        spots, _ = place_spots(slide, slide_mpp, view, PredictOptions(mpp=mpp))
        plan = plan_tiles(view.centers(spots.level0_xy), view.size_wh, bundle.config.neighbors)
        tiles = np.empty((len(plan.origins_xy), 224, 224, 3), np.uint8)
        for batch in stream_tiles(view, plan, 64):
            tiles[batch.tile_index] = batch.tiles
    config = bundle.config.base
    if not isinstance(config, ModelConfig):
        raise SystemExit(f"error: {bundle_path}: {config.model} is not served; use predict")
    table = position_index(spots.grid_rc, config.position, config.apeg_kernel)
    return {"tiles": tiles, "neighbor_tile": plan.neighbor_tile, "apeg_index": table}


def ask(url: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the expression (N, G) that the model ``triplex`` of the server predicts."""
    import tritonclient.grpc as triton

    size = sum(array.nbytes for array in inputs.values())
    if size > LARGEST_MESSAGE:
        raise SystemExit(
            f"error: {size / 1e9:.1f} GB of tiles are more than a gRPC message holds; "
            "use `triplex-deploy predict`"
        )
    given = []
    for name, array in inputs.items():
        kind = {"uint8": "UINT8", "int64": "INT64"}[array.dtype.name]
        tensor = triton.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array)
        given.append(tensor)
    client = triton.InferenceServerClient(url)
    response = client.infer("triplex", given)
    expression: np.ndarray = response.as_numpy("expression")
    return expression


if __name__ == "__main__":
    main()

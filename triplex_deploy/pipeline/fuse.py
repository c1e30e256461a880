"""Second half of a prediction: the slide-wide context, then fusion in batches of spots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.pipeline.encode import OwnTiles
from triplex_deploy.pipeline.run import Run
from triplex_deploy.pipeline.token_store import TokenStore
from triplex_deploy.runtime.session import Arrays
from triplex_deploy.tiles.apeg import apeg_index
from triplex_deploy.tiles.plan import TilePlan

SPOTS_PER_BATCH = 128


def encode_slide(
    run: Run, plan: TilePlan, features: NDArray[np.float32], grid_rc: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Run the global encoder once over all spots; returns global tokens (N, D)."""
    run.progress.start("relating spots", len(grid_rc))
    table = apeg_index(grid_rc, run.model.bundle.config.apeg_kernel)
    inputs: Arrays = {"features": features[plan.spot_tile], "apeg_index": table}
    tokens = run.graph("global_encoder", inputs)
    run.progress.advance(len(grid_rc))
    return tokens


def fuse_spots(
    run: Run,
    plan: TilePlan,
    features: NDArray[np.float32],
    global_tokens: NDArray[np.float32],
    own: OwnTiles,
    store: TokenStore,
) -> NDArray[np.float32]:
    """Fuse the three views of every spot; returns expression (N, G)."""
    n_spots = len(plan.spot_tile)
    expression = np.empty((n_spots, run.model.bundle.config.n_genes), dtype=np.float32)
    run.progress.start("predicting spots", n_spots)
    for begin in range(0, n_spots, SPOTS_PER_BATCH):
        rows = slice(begin, begin + SPOTS_PER_BATCH)
        mask = plan.neighbor_mask[rows]
        around: Arrays = {
            "features": features[plan.neighbor_tile[rows]],
            "mask": mask,
        }
        views: Arrays = {
            "global_tokens": global_tokens[rows],
            "target_tokens": store.take(own.slot_of_spot[rows]),
            "neighbor_tokens": run.graph("neighbor_encoder", around),
            "mask": mask,
        }
        expression[rows] = run.graph("fusion_head", views)
        run.progress.advance(len(mask))
    return expression

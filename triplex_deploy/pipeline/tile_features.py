"""Give the tile encoder's features of each spot, for analyses of the reader's own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.bundle import Bundle
from triplex_deploy.errors import ConfigError
from triplex_deploy.pipeline.encode import Encoded
from triplex_deploy.pipeline.needed import FEATURES
from triplex_deploy.tiles.plan import TilePlan


def require_features(bundle: Bundle) -> None:
    """Raise ``ConfigError`` if the model has no frozen tile encoder, before any work."""
    outputs = {spec.outputs[0].name for spec in bundle.specs.values() if spec.kind == "per tile"}
    if FEATURES not in outputs:
        raise ConfigError(
            f"save_features: {bundle.config.display_name} has no features of tiles; leave it out"
        )


def features_of_spots(plan: TilePlan, encoded: Encoded) -> NDArray[np.float32]:
    """Return the features of the target tile of each spot, (N, F)."""
    store = encoded.outputs[FEATURES].store
    return np.ascontiguousarray(store.on_host(plan.spot_tile), np.float32)

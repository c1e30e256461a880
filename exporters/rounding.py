"""Round the weights of 1 x 1 convolutions so that the errors of a channel cancel (GPTQ).

Rounding to the nearest step ignores that the inputs of a layer are correlated. Here the weights are
rounded one after another, and the weights that are not rounded yet compensate the error (Frantar
et al. 2023, arXiv:2210.17323).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_DAMPING: Final = 0.01
"""Share of the mean square of the inputs that is added to each square, so that none is zero."""
Floats = NDArray[np.float64]


def round_weights(weights: NDArray[np.float32], inputs: Floats, levels: int) -> NDArray[np.float32]:
    """Return weights (O, I) rounded to a symmetric quantization for each output channel.

    Args:
        weights: Weights (O, I) of a layer.
        inputs: Mean products (I, I) of the inputs of the layer.
        levels: Number of steps on each side of zero, 127 for 8 bits.

    Returns:
        Weights with the same largest value in each channel, so that the steps stay the same.
    """
    rest = weights.astype(np.float64)
    largest = np.abs(rest).argmax(axis=1)
    rows = np.arange(len(rest))
    scale = np.maximum(np.abs(rest[rows, largest]), 1e-30) / levels
    upper = _inverse_root(inputs)
    rounded = np.empty_like(rest)
    for column in range(rest.shape[1]):
        steps = np.clip(np.rint(rest[:, column] / scale), -levels, levels)
        steps = np.where(largest == column, levels * np.sign(weights[:, column]), steps)
        rounded[:, column] = steps * scale
        error = (rest[:, column] - rounded[:, column]) / upper[column, column]
        rest[:, column + 1 :] -= np.outer(error, upper[column, column + 1 :])
    return rounded.astype(np.float32)


def _inverse_root(inputs: Floats) -> Floats:
    """Return the upper Cholesky factor of the inverse of the damped ``inputs``."""
    damping = max(_DAMPING * float(np.diag(inputs).mean()), 1e-12)
    inverse = np.linalg.inv(inputs + damping * np.eye(len(inputs)))
    factor: NDArray[Any] = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return factor.astype(np.float64)


def mean_products(values: NDArray[np.float32], most: int = 20_000) -> Floats:
    """Return the mean products (I, I) of the channels of feature maps (B, I, H, W).

    If the maps have more than ``most`` positions, an even selection of them is used.
    """
    places = values.transpose(0, 2, 3, 1).reshape(-1, values.shape[1])
    some = places[:: max(1, len(places) // most)].astype(np.float64)
    products: Floats = some.T @ some / len(some)
    return products


def rounded_layers(
    weights: Mapping[str, NDArray[np.float32]],
    inputs: Mapping[str, NDArray[np.float32]],
    levels: int,
) -> dict[str, NDArray[np.float32]]:
    """Return the rounded form of weights (O, I, 1, 1), from feature maps of the same names."""
    return {
        name: round_weights(values[:, :, 0, 0], mean_products(inputs[name]), levels)[
            :, :, None, None
        ]
        for name, values in weights.items()
    }

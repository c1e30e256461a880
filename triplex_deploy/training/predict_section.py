"""Predict prepared sections in PyTorch with the graphs that a bundle runs over a slide."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triplex_deploy.contract import N_NEIGHBORS, GraphSpec, TensorSpec, graph_specs
from triplex_deploy.expression import FoldMetrics, measure_fold, measure_slide
from triplex_deploy.models import SpotModel, Triplex, assert_eval
from triplex_deploy.runtime.finite import require_finite
from triplex_deploy.tiles.spot_tables import spot_tables
from triplex_deploy.training.frozen_backbone import BackboneMaps, image_backbone
from triplex_deploy.training.images import CPU_TILES, normalize_tiles
from triplex_deploy.training.prepared import PreparedSection

EXPRESSION: Final = "expression"
"""Name of what the last graph gives."""
SPOTS_PER_BATCH = 128
"""Spots that a graph gets at a time."""
Rows = NDArray[np.int64]
"""Numbers (B,) of spots in their section."""


class SectionGraphs:
    """Computes the contract's tensors at the spots of a section when they are needed.

    Sets no mode: the model must be in evaluation mode. Features come from the prepared section.
    With ``maps`` of a frozen backbone, tiles are not encoded again. Raises ``SpotsError`` for
    coordinates outside the range that the model has positions for.
    """

    def __init__(
        self, model: SpotModel, section: PreparedSection, maps: BackboneMaps | None = None
    ) -> None:
        self._model = model
        self._section = section
        self._maps = maps
        self._device = next(model.parameters()).device
        self._tables = spot_tables(model.config, section.measured.grid_rc)
        specs = graph_specs(model.config).values()
        self._maker = {spec.outputs[0].name: spec for spec in specs}
        self._whole: dict[str, Tensor] = {}

    @cached_property
    def all_rows(self) -> Rows:
        """Return the rows of all spots of the section."""
        return np.arange(self._section.measured.n_spots)

    def output(self, name: str, rows: Rows) -> Tensor:
        """Return a graph's output (B, ...) for the spots of ``rows``, on the model's device."""
        spec = self._maker[name]
        if spec.kind == "per tile":
            return self._of_tiles(spec, rows)
        if spec.kind == "per slide":
            return self._of_slide(spec)[torch.from_numpy(rows).to(self._device)]
        return self._run(spec, rows)

    def expression(self, rows: Rows) -> NDArray[np.float32]:
        """Return the expression (B, G) of the spots of ``rows``.

        Raises:
            BackendError: A value is NaN or infinite.
        """
        values: NDArray[np.float32] = self.output(EXPRESSION, rows).float().cpu().numpy()
        require_finite(
            self._maker[EXPRESSION],
            {EXPRESSION: values},
            f"PyTorch on {self._device}",
            rows,
            remedy="train again with a lower learning_rate",
        )
        return values

    def _run(self, spec: GraphSpec, rows: Rows) -> Tensor:
        inputs = {tensor.name: self._input(tensor, rows) for tensor in spec.inputs}
        return self._model.run_graph(spec.name, **inputs)

    def _of_slide(self, spec: GraphSpec) -> Tensor:
        """Return the output (N, ...) of a graph that runs per slide, computed once."""
        if spec.name not in self._whole:
            self._whole[spec.name] = self._run(spec, self.all_rows)
        return self._whole[spec.name]

    def _input(self, tensor: TensorSpec, rows: Rows) -> Tensor:
        section, name = self._section, tensor.name
        if name == "features":
            is_around = tensor.axes[1:-1] == (N_NEIGHBORS,)
            values = section.neighbor_features(rows) if is_around else section.spot_features()[rows]
            return torch.from_numpy(values).to(self._device)
        if name == "mask":
            return torch.from_numpy(section.neighbor_mask[rows]).to(self._device)
        if name in self._tables:
            return torch.from_numpy(self._tables[name][rows]).to(self._device)
        return self.output(name, rows)

    def _of_tiles(self, spec: GraphSpec, rows: Rows) -> Tensor:
        """Return the output of an image graph for target tiles, a few at a time on a CPU."""
        if self._maps is not None:
            return self._of_maps(spec, rows)
        is_small = self._device.type == "cpu" and image_backbone(self._model) is not None
        at_once = CPU_TILES if is_small else SPOTS_PER_BATCH
        parts = []
        for begin in range(0, len(rows), at_once):
            tiles = torch.from_numpy(np.asarray(self._section.tiles[rows[begin : begin + at_once]]))
            images = normalize_tiles(tiles.to(self._device))
            parts.append(self._model.run_graph(spec.name, images=images))
        return torch.cat(parts)

    def _of_maps(self, spec: GraphSpec, rows: Rows) -> Tensor:
        assert self._maps is not None
        assert isinstance(self._model, Triplex)
        assert self._model.target_encoder is not None
        maps = self._maps.of(self._section)[torch.from_numpy(rows)].to(self._device, torch.float32)
        tokens: Tensor = self._model.target_encoder.projection(maps)
        return tokens.mean(1, keepdim=True) if spec.outputs[0].axes[1] == 1 else tokens


@torch.inference_mode()
def predict_section(
    model: SpotModel, section: PreparedSection, maps: BackboneMaps | None = None
) -> NDArray[np.float32]:
    """Return the predicted expression (N, G) of a prepared section.

    Args:
        model: A model in evaluation mode; its bank is filled, if it has a bank.
        section: The prepared section.
        maps: Maps of a frozen backbone, which replace encoding the tiles; None without.

    Raises:
        SpotsError: The model has no position for an array coordinate.
        ContractError: The model is in training mode.
        BackendError: A value is NaN or infinite.
    """
    assert_eval(model)
    graphs = SectionGraphs(model, section, maps)
    parts = []
    for begin in range(0, section.measured.n_spots, SPOTS_PER_BATCH):
        rows = graphs.all_rows[begin : begin + SPOTS_PER_BATCH]
        parts.append(graphs.expression(rows))
    return np.concatenate(parts)


def measure_model(
    model: SpotModel,
    sections: Sequence[PreparedSection],
    labels: Sequence[NDArray[np.float32]],
    maps: BackboneMaps | None = None,
) -> FoldMetrics:
    """Return the metrics of the model's predictions of sections."""
    return measure_predictions([predict_section(model, s, maps) for s in sections], labels)


def measure_predictions(
    predicted: Sequence[NDArray[np.floating]], labels: Sequence[NDArray[np.float32]]
) -> FoldMetrics:
    """Return the metrics of predictions (N, G) of sections."""
    pairs = zip(labels, predicted, strict=True)
    return measure_fold([measure_slide(truth, guess) for truth, guess in pairs])


def measure_constant(
    constant: NDArray[np.float64], labels: Sequence[NDArray[np.float32]]
) -> FoldMetrics:
    """Return the metrics of predicting one value (G,) per gene for every spot."""
    return measure_fold([measure_slide(y, np.broadcast_to(constant, y.shape)) for y in labels])

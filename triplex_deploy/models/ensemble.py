"""Run several trained models of one family as one model (docs/models.md, "Ensembles")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from triplex_deploy.calibration import Calibration
from triplex_deploy.contract import EnsembleConfig, graph_specs
from triplex_deploy.errors import CheckpointError
from triplex_deploy.models.build import network_class
from triplex_deploy.models.checkpoint import Checkpoint
from triplex_deploy.models.spot_model import SlideTensors, SpotModel
from triplex_deploy.reliability import GeneReliability


class Ensemble(SpotModel):
    """Holds its members side by side: every output has the members' outputs along axis 1."""

    config: EnsembleConfig

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__(config)
        network = network_class(config.base)
        self.members = nn.ModuleList(network(config.base) for _ in range(config.members))
        specs = graph_specs(config).values()
        self._per_member = frozenset(
            spec.outputs[0].name for spec in specs if spec.name != "tile_encoder"
        )

    def run_graph(self, graph: str, **inputs: Tensor) -> Tensor:
        """Return the outputs of a graph of every member, one member after the other on axis 1."""
        shared = {name: tensor for name, tensor in inputs.items() if name not in self._per_member}
        parts = {
            name: tensor.chunk(len(self.members), dim=1)
            for name, tensor in inputs.items()
            if name in self._per_member
        }
        outputs = [
            member.run_graph(graph, **shared, **{name: part[i] for name, part in parts.items()})
            for i, member in enumerate(self._networks())
        ]
        return torch.cat(outputs, dim=1)

    def predict_slide(self, slide: SlideTensors) -> Tensor:
        """Return the expression (N, members * G) of all spots of a slide."""
        return torch.cat([member.predict_slide(slide) for member in self._networks()], dim=1)

    def rescale(self, slope: Tensor, offset: Tensor) -> None:
        """Rescale every member, each with its part (G,) of ``slope`` and ``offset``."""
        parts = zip(slope.chunk(len(self.members)), offset.chunk(len(self.members)), strict=True)
        for member, part in zip(self._networks(), parts, strict=True):
            member.rescale(*part)

    def _networks(self) -> list[SpotModel]:
        return [member for member in self.members if isinstance(member, SpotModel)]


def join_checkpoints(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> Checkpoint:
    """Return one checkpoint of an ensemble of all ``checkpoints``.

    Args:
        checkpoints: The members: models of one configuration, trained on one panel of genes with
            one frozen tile encoder.
        names: A name of each member, for messages and the provenance.

    Raises:
        CheckpointError: Two members differ in more than their weights.
        ConfigError: The family cannot form an ensemble.
    """
    first = checkpoints[0]
    for name, other in zip(names[1:], checkpoints[1:], strict=True):
        _require_alike(names[0], first, name, other)
    state = {
        f"members.{i}.{key}": tensor
        for i, member in enumerate(checkpoints)
        for key, tensor in member.state_dict.items()
    }
    members = [
        {"name": name, **member.provenance} for name, member in zip(names, checkpoints, strict=True)
    ]
    note = first.provenance.get("note")
    return Checkpoint(
        config=EnsembleConfig.of(first.config, len(checkpoints)),
        genes=first.genes,
        label_transform=first.label_transform,
        tile_mpp=first.tile_mpp,
        state_dict=state,
        tile_encoder=first.tile_encoder,
        training_tiles=first.training_tiles,
        calibration=_joined_calibration(checkpoints, names),
        reliability=_joined_reliability(checkpoints),
        provenance={**({"note": note} if note else {}), "members": members},
    )


def _joined_calibration(
    checkpoints: Sequence[Checkpoint], names: Sequence[str]
) -> Calibration | None:
    """Return the calibrations of all members, one after the other; None if no member has one."""
    found = [member.calibration for member in checkpoints]
    given = [calibration for calibration in found if calibration is not None]
    if not given:
        return None
    if len(given) < len(found):
        raise CheckpointError(
            f"{names[found.index(None)]}: has no calibration, other members have one; "
            "train it with --selection validation, or export with --raw"
        )
    return Calibration(
        np.concatenate([calibration.slope for calibration in given]),
        np.concatenate([calibration.offset for calibration in given]),
    )


def _joined_reliability(checkpoints: Sequence[Checkpoint]) -> GeneReliability | None:
    """Return the mean over the members; None if one was not measured."""
    given = [member.reliability for member in checkpoints if member.reliability is not None]
    return GeneReliability.of_members(given) if len(given) == len(checkpoints) else None


def _require_alike(name: str, first: Checkpoint, other_name: str, other: Checkpoint) -> None:
    """Raise ``CheckpointError`` if two checkpoints differ in more than the model's weights."""
    pairs = {
        "configuration": (first.config.to_dict(), other.config.to_dict()),
        "genes": (first.genes, other.genes),
        "label transform": (first.label_transform, other.label_transform),
        "tile scale": (first.tile_mpp, other.tile_mpp),
        "tile encoder": (first.tile_encoder.metadata(), other.tile_encoder.metadata()),
    }
    differing = [what for what, (ours, theirs) in pairs.items() if ours != theirs]
    if not differing and not _same_weights(first, other):
        differing = ["weights of the tile encoder"]
    if differing:
        raise CheckpointError(
            f"{other_name}: not the {differing[0]} of {name}; "
            "give folds, seeds or runs of one model on one prepared data set"
        )


def _same_weights(first: Checkpoint, other: Checkpoint) -> bool:
    """Return True if the frozen tile encoders are equal to the bit."""
    ours, theirs = first.tile_encoder, other.tile_encoder
    return (
        ours.onnx == theirs.onnx
        and ours.state_dict.keys() == theirs.state_dict.keys()
        and all(
            torch.equal(ours.state_dict[key], theirs.state_dict[key]) for key in ours.state_dict
        )
    )

"""Read and write ``.ckpt`` files: weights, the frozen tile encoder, and their metadata."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn

from triplex_deploy.calibration import Calibration
from triplex_deploy.contract import (
    BACKBONE_WIDTH,
    IMAGE_MEAN,
    IMAGE_STD,
    TILE_PX,
    Config,
    config_from_dict,
)
from triplex_deploy.errors import CheckpointError, ConfigError, ContractError
from triplex_deploy.familiarity import TrainingTiles
from triplex_deploy.files.escape import control_in, short_repr
from triplex_deploy.files.onnx_external import content_reaches_outside
from triplex_deploy.models.build import build_model, shapes_only
from triplex_deploy.models.image_encoders import TileEncoder, make_backbone
from triplex_deploy.models.spot_model import SpotModel
from triplex_deploy.models.torch_files import (
    check_state,
    current_state_keys,
    load_strictly,
    load_tensors,
    save_tensors,
)
from triplex_deploy.reliability import GeneReliability

FORMAT: Final = "triplex-checkpoint"
"""Value of ``format`` in every file."""
VERSION: Final = 1
"""Version of the file format."""

_KEYS: Final = frozenset(
    {
        "format",
        "version",
        "config",
        "genes",
        "label_transform",
        "tile",
        "state_dict",
        "tile_encoder",
        "provenance",
    }
)


_DESCRIPTIONS: Final[Mapping[str, type[Any]]] = MappingProxyType(
    {
        "training_tiles": TrainingTiles,
        "calibration": Calibration,
        "reliability": GeneReliability,
    }
)
"""Fields that are stored as arrays, and that a file may lack."""


@dataclass(frozen=True)
class Checkpoint:
    """Holds a model, its frozen tile encoder and their metadata.

    Raises:
        CheckpointError: The parts do not fit each other.
    """

    config: Config
    """Configuration of the model."""
    genes: tuple[str, ...]
    """Predicted genes, in the order of the outputs."""
    label_transform: dict[str, Any]
    """How counts became labels, as plain values: strings, numbers, lists, dicts."""
    tile_mpp: float
    """Microns per pixel of the tiles."""
    state_dict: dict[str, Tensor]
    """Weights of the model."""
    tile_encoder: TileEncoderWeights
    """The frozen tile encoder."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """How the model was trained, as plain values."""
    training_tiles: TrainingTiles | None = None
    """What the training tiles looked like to the tile encoder; None if nobody described them."""
    calibration: Calibration | None = None
    """What makes the predictions calibrated, for the genes of every member of an ensemble, member
    by member; None if no spots were held out."""
    reliability: GeneReliability | None = None
    """How well each gene was predicted at held-out spots; None if no spots were held out."""

    def __post_init__(self) -> None:
        _check_genes(self.genes, self.config.n_genes)
        if not (math.isfinite(self.tile_mpp) and self.tile_mpp > 0):
            raise CheckpointError(f"tile mpp {self.tile_mpp}: use positive microns per pixel")
        _require_plain(self.label_transform, "label_transform")
        _require_plain(self.provenance, "provenance")
        if self.tile_encoder.feature_dim != self.config.feature_dim:
            raise CheckpointError(
                f"tile_encoder: gives {self.tile_encoder.feature_dim} features, the model takes "
                f"{self.config.feature_dim}; use the encoder it was trained on"
            )
        self._check_descriptions()
        with shapes_only():
            model = build_model(self.config)
        check_state(model, self.state_dict, "state_dict")

    def build_model(self) -> SpotModel:
        """Return the trained model, in evaluation mode, without its calibration."""
        model = build_model(self.config)
        load_strictly(model, self.state_dict, "state_dict")
        return model.eval()

    def build_calibrated(self) -> SpotModel:
        """Return the trained model in evaluation mode, calibrated if it has a calibration."""
        model = self.build_model()
        if self.calibration is not None:
            slope, offset = self.calibration.slope, self.calibration.offset
            model.rescale(torch.from_numpy(slope), torch.from_numpy(offset))
        return model

    def without_calibration(self) -> Checkpoint:
        """Return the same checkpoint without its calibration, and with the errors without it."""
        measured = self.reliability and self.reliability.without_calibration()
        return replace(self, calibration=None, reliability=measured)

    def _check_descriptions(self) -> None:
        """Raise ``CheckpointError`` if a description is of another number of features or genes."""
        n_genes, members = self.config.n_genes, self.config.n_members
        tiles, calibration, genes = self.training_tiles, self.calibration, self.reliability
        for key, given, wanted, what in (
            ("training_tiles", tiles and len(tiles.mean), self.config.feature_dim, "features"),
            ("calibration", calibration and calibration.n_genes, members * n_genes, "genes"),
            ("reliability", genes and genes.n_genes, n_genes, "genes"),
        ):
            if given is not None and given != wanted:
                verb = "takes" if what == "features" else "predicts"
                raise CheckpointError(
                    f"{key}: {given} {what}, the model {verb} {wanted}; train again"
                )


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read and check a ``.ckpt`` file of this version or an earlier version.

    Raises:
        CheckpointError: The file is damaged or inconsistent; the message names the keys.
    """
    content = load_tensors(path)
    try:
        return _parse(content)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def write_checkpoint(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write a ``.ckpt`` file atomically.

    Raises:
        OutputError: The file cannot be written; an older file at ``path`` stays as it was.
    """
    path = Path(path)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": checkpoint.config.to_dict(),
        "genes": list(checkpoint.genes),
        "label_transform": checkpoint.label_transform,
        "tile": {"px": TILE_PX, "mpp": float(checkpoint.tile_mpp)},
        "state_dict": _storable(checkpoint.state_dict),
        "tile_encoder": checkpoint.tile_encoder.to_content(),
        "provenance": checkpoint.provenance,
    }
    for key in _DESCRIPTIONS:
        described = getattr(checkpoint, key)
        if described is not None:
            arrays = described.arrays()
            content[key] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_tensors(content, path)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a module as detached CPU tensors."""
    return _storable(module.state_dict())


def _storable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous CPU copies; torch would save the whole storage of a view."""
    return {key: value.detach().cpu().clone() for key, value in state.items()}


def _parse(content: object) -> Checkpoint:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"not a {FORMAT}; for published TRIPLEX weights use import-checkpoint first"
        )
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"version {content.get('version')}: this release reads {VERSION}; "
            "update triplex-deploy or write the checkpoint again"
        )
    _check_keys("checkpoint", content, _KEYS | (content.keys() & _DESCRIPTIONS.keys()))
    tile = _section(content, "tile", {"px", "mpp"})
    if tile["px"] != TILE_PX:
        raise CheckpointError(f"tile px {tile['px']}: the model takes tiles of {TILE_PX} px")
    return Checkpoint(
        config=config_from_dict(_typed(content, "config", dict)),
        genes=tuple(_typed(content, "genes", list)),
        label_transform=_typed(content, "label_transform", dict),
        tile_mpp=float(_typed(tile, "mpp", float | int)),
        state_dict=current_state_keys(_typed(content, "state_dict", dict)),
        tile_encoder=TileEncoderWeights.from_content(_typed(content, "tile_encoder", dict)),
        provenance=_typed(content, "provenance", dict),
        **{key: _described(content, key) for key in _DESCRIPTIONS},
    )


def _described(content: Mapping[str, Any], key: str) -> Any:
    """Return a description; None if the file lacks it, as those of version 0.1 do."""
    if key not in content:
        return None
    tensors = _typed(content, key, dict)
    try:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return _DESCRIPTIONS[key].from_arrays(arrays)
    except (AttributeError, TypeError, RuntimeError, ContractError) as error:
        raise CheckpointError(f"{key}: {error}; train again") from error


def _section(content: Mapping[str, Any], key: str, keys: set[str]) -> dict[str, Any]:
    section: dict[str, Any] = _typed(content, key, dict)
    _check_keys(key, section, keys)
    return section


def _typed(content: Mapping[str, Any], key: str, kind: Any) -> Any:
    value = content[key]
    if not isinstance(value, kind):
        raise CheckpointError(
            f"{key}: expected {getattr(kind, '__name__', kind)}, found {type(value).__name__}; "
            "write the checkpoint again"
        )
    return value


def _check_keys(where: str, content: Mapping[str, Any], keys: set[str] | frozenset[str]) -> None:
    misfits = sorted(str(key) for key in keys ^ set(content))
    if misfits:
        raise CheckpointError(
            f"{where}: missing or unknown keys: {', '.join(misfits)}; write the checkpoint again"
        )


def _check_genes(genes: tuple[str, ...], n_genes: int) -> None:
    if not all(isinstance(gene, str) and gene for gene in genes):
        raise CheckpointError("genes: every gene must be a non-empty string; correct the gene list")
    for gene in genes:
        if control_in(gene):
            raise CheckpointError(
                f"genes: {short_repr(gene)} holds control characters; correct the gene list"
            )
    if len(genes) != n_genes:
        raise CheckpointError(
            f"genes: {len(genes)} listed but the model predicts {n_genes}; list a gene per output"
        )
    repeated = sorted(gene for gene, count in Counter(genes).items() if count > 1)
    if repeated:
        raise CheckpointError(f"genes: listed twice: {', '.join(repeated[:5])}; list each once")


def _require_plain(value: object, where: str) -> None:
    """Refuse values that cannot be read back without unpickling objects."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise CheckpointError(f"{where}: key {key!r} is not text; use text keys")
            _require_plain(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            _require_plain(item, where)
    elif not (value is None or type(value) in (str, int, float, bool)):
        raise CheckpointError(
            f"{where}: {type(value).__name__} cannot be stored; use strings, numbers, lists, dicts"
        )


ONNX: Final = "onnx"
"""Kind of a tile encoder that is an ONNX file."""
KEYS: Final = frozenset({"name", "kind", "feature_dim", "mean", "std", "state_dict", "onnx"})
"""Keys of the section ``tile_encoder`` of a checkpoint."""


@dataclass(frozen=True)
class TileEncoderWeights:
    """Holds the frozen tile encoder: the weights of one of our backbones, or an ONNX file.

    Raises:
        CheckpointError: The weights do not fit their kind.
    """

    name: str
    """Name of the encoder, for people."""
    kind: str = "resnet18"
    """A backbone of ``contract.BACKBONE_WIDTH``, or ``"onnx"``."""
    state_dict: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights of the backbone; empty for an ONNX file."""
    onnx: bytes = b""
    """Content of the ONNX file; empty for a backbone."""
    feature_dim: int = 512
    """Features per tile."""
    mean: tuple[float, ...] = IMAGE_MEAN
    """Mean of each channel of RGB in [0, 1], for an ONNX file that takes float images."""
    std: tuple[float, ...] = IMAGE_STD
    """Standard deviation of each channel of RGB in [0, 1], for such an ONNX file."""

    def __post_init__(self) -> None:
        if self.kind == ONNX:
            if not self.onnx:
                raise CheckpointError("tile_encoder: the ONNX file is empty; prepare again")
            if content_reaches_outside(self.onnx):
                raise CheckpointError(
                    "tile_encoder: the ONNX file takes values from another file; prepare again"
                )
            return
        if self.kind not in BACKBONE_WIDTH:
            raise CheckpointError(
                f"tile_encoder: kind {self.kind!r}; known: {', '.join((*BACKBONE_WIDTH, ONNX))}"
            )
        if self.feature_dim != BACKBONE_WIDTH[self.kind]:
            raise CheckpointError(
                f"tile_encoder: {self.kind} gives {BACKBONE_WIDTH[self.kind]} features, "
                f"not {self.feature_dim}; write the checkpoint again"
            )
        with shapes_only():
            backbone = make_backbone(self.kind)
        check_state(backbone, self.state_dict, "tile_encoder")

    def build(self) -> TileEncoder:
        """Return the backbone with its weights, in evaluation mode and without gradients.

        Raises:
            CheckpointError: The encoder is an ONNX file.
        """
        if self.kind == ONNX:
            raise CheckpointError(f"tile_encoder {self.name}: is an ONNX file, not a backbone")
        encoder = TileEncoder(self.kind)
        load_strictly(encoder.backbone, self.state_dict, "tile_encoder")
        return encoder.eval().requires_grad_(False)

    def metadata(self) -> dict[str, Any]:
        """Return plain values that describe the encoder, without its weights."""
        return {
            "name": self.name,
            "kind": self.kind,
            "feature_dim": self.feature_dim,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def to_content(self) -> dict[str, Any]:
        """Return the section of a checkpoint: plain values and tensors."""
        stored = torch.frombuffer(bytearray(self.onnx), dtype=torch.uint8) if self.onnx else None
        return {**self.metadata(), "state_dict": dict(self.state_dict), "onnx": stored}

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> TileEncoderWeights:
        """Return the weights of a section that ``to_content`` made.

        Raises:
            CheckpointError: The section has another form.
        """
        _check_keys("tile_encoder", content, KEYS)
        try:
            onnx = content["onnx"]
            return cls(
                name=str(content["name"]),
                kind=str(content["kind"]),
                state_dict=dict(content["state_dict"]),
                onnx=b"" if onnx is None else onnx.numpy().tobytes(),
                feature_dim=int(content["feature_dim"]),
                mean=tuple(map(float, content["mean"])),
                std=tuple(map(float, content["std"])),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"tile_encoder: {error}; write the checkpoint again") from error

"""Any model from its configuration."""

from collections.abc import Callable
from typing import Any, Final

import torch

from triplex_deploy.contract import (
    BleepConfig,
    Config,
    EgnConfig,
    Hist2StConfig,
    HisToGeneConfig,
    ModelConfig,
    StNetConfig,
)
from triplex_deploy.models.bleep import Bleep
from triplex_deploy.models.egn import Egn
from triplex_deploy.models.his_to_gene import HisToGene
from triplex_deploy.models.hist2st import Hist2St
from triplex_deploy.models.spot_model import SpotModel
from triplex_deploy.models.st_net import StNet
from triplex_deploy.models.triplex import Triplex


def build_model(config: Config, seed: int | None = None) -> SpotModel:
    """A randomly initialised model in training mode; a seed leaves the global generator alone."""
    if seed is None:
        return _build(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(config)


def _build(config: Config) -> SpotModel:
    model = _BUILDERS[type(config)](config)
    model.config = config
    return model


def _st_net(config: StNetConfig) -> StNet:
    return StNet(config.n_genes, symmetries=config.symmetries)


def _his_to_gene(config: HisToGeneConfig) -> HisToGene:
    return HisToGene(
        config.n_genes,
        dim=config.embedding_dim,
        depth=config.depth,
        heads=config.heads,
        mlp_dim=config.mlp_dim,
        dropout=config.dropout,
        n_pos=config.n_positions,
    )


def _hist2st(config: Hist2StConfig) -> Hist2St:
    return Hist2St(
        config.n_genes,
        channels=config.channels,
        mixer_depth=config.mixer_depth,
        depth=config.depth,
        graph_depth=config.graph_depth,
        heads=config.heads,
        dropout=config.dropout,
        n_pos=config.n_positions,
    )


def _egn(config: EgnConfig) -> Egn:
    return Egn(
        config.n_genes,
        config.feature_dim,
        dim=config.embedding_dim,
        depth=config.depth,
        heads=config.heads,
        mlp_dim=config.mlp_dim,
        bridge_heads=config.bridge_heads,
        bridge_head_dim=config.bridge_head_dim,
        bridge_query=config.bridge_query,
        gate_input=config.gate_input,
        n_exemplars=config.n_exemplars,
        n_references=config.bank_size,
    )


def _bleep(config: BleepConfig) -> Bleep:
    return Bleep(
        config.n_genes,
        n_references=config.bank_size,
        n_neighbors=config.n_retrieved,
        projection_dim=config.embedding_dim,
        dropout=config.dropout,
        trunk=config.target_trunk,
    )


_BUILDERS: Final[dict[type[Config], Callable[[Any], SpotModel]]] = {
    ModelConfig: Triplex,
    StNetConfig: _st_net,
    HisToGeneConfig: _his_to_gene,
    Hist2StConfig: _hist2st,
    EgnConfig: _egn,
    BleepConfig: _bleep,
}

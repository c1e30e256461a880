"""Make the networks of the compared models in small sizes, by keywords."""

from typing import Any

from triplex_deploy.contract import (
    BleepConfig,
    EgnConfig,
    Hist2StConfig,
    HisToGeneConfig,
    StNetConfig,
)
from triplex_deploy.models.bleep import Bleep
from triplex_deploy.models.egn import Egn
from triplex_deploy.models.his_to_gene import HisToGene
from triplex_deploy.models.hist2st import Hist2St
from triplex_deploy.models.st_net import StNet

NAMES = {
    "dim": "embedding_dim",
    "n_pos": "n_positions",
    "n_references": "bank_size",
    "projection_dim": "embedding_dim",
    "n_neighbors": "n_retrieved",
}


def settings(options: dict[str, Any]) -> dict[str, Any]:
    return {NAMES.get(key, key): value for key, value in options.items()}


def st_net(n_genes: int = 250, *, symmetries: int = 1, **shape: Any) -> StNet:
    return StNet(StNetConfig(n_genes=n_genes, symmetries=symmetries), **shape)


def his_to_gene(n_genes: int = 250, *, patch_px: int = 112, **options: Any) -> HisToGene:
    return HisToGene(HisToGeneConfig(n_genes=n_genes, **settings(options)), patch_px=patch_px)


def hist2st(n_genes: int = 250, *, patch_px: int = 112, kernel: int = 5, **options: Any) -> Hist2St:
    """Return a model with tokens as wide as the map of the patch, whatever its configuration."""
    width = 32 * options.get("channels", 32)
    sizes = {"embedding_dim": width, "mlp_dim": width, **settings(options)}
    return Hist2St(Hist2StConfig(n_genes=n_genes, **sizes), patch_px=patch_px, kernel=kernel)


def egn(n_genes: int = 250, *, dropout: float = 0.0, **options: Any) -> Egn:
    return Egn(EgnConfig(n_genes=n_genes, **settings(options)), dropout=dropout)


def bleep(n_genes: int = 250, **options: Any) -> Bleep:
    return Bleep(BleepConfig(n_genes=n_genes, **settings(options)))

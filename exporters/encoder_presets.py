"""Published pathology encoders: how each is built, what it takes and gives, and who says so.

No weights come with this package. Each owner has terms of use, and most weights are handed out on
request. ``encoder export --preset NAME`` reads a file that the user has downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, TILE_PX
from triplex_deploy.errors import ConfigError

Pooling = Literal["own", "cls", "mean", "cls+mean", "attention"]
"""How tokens become one vector: ``own`` as timm's network does it, ``cls`` the class token,
``mean`` the mean of the patch tokens, ``cls+mean`` both, ``attention`` CONCH's pool."""
Layout = Literal["timm", "dinov2", "conch"]
"""Names in the file of weights: timm's, those of DINOv2 (of Meta or of transformers), CONCH's."""
Kernel = Literal["bicubic", "bilinear"]
"""How tiles are resized if the network takes another size than ours."""


@dataclass(frozen=True)
class EncoderDesign:
    """Everything about an encoder but its weights."""

    name: str
    """Name in options, files and reports."""
    network: str
    """Name of timm's network."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``timm.create_model``; ``mlp_layer`` is the name of a class of timm.layers."""
    pooling: Pooling = "own"
    """How tokens become one vector."""
    feature_dim: int | None = None
    """Width of the features; None if only the network knows it."""
    mean: tuple[float, ...] = IMAGE_MEAN
    """Mean of red, green and blue in [0, 1], subtracted from the pixels."""
    std: tuple[float, ...] = IMAGE_STD
    """Standard deviation of red, green and blue, by which pixels are divided."""
    input_px: int = TILE_PX
    """Side of the image that the network takes; tiles of another size are resized in the graph."""
    kernel: Kernel = "bicubic"
    """How they are resized."""
    layout: Layout = "timm"
    """Names in the file of weights."""
    mpp: float | None = None
    """Microns per pixel at which a tile of ours shows as much tissue as the images that it was
    trained on; None if unknown."""
    millions: float | None = None
    """Published number of parameters in millions; None if there is none."""
    license: str = ""
    """Terms of the weights, in a few words."""
    home: str = ""
    """Where the weights are handed out."""
    sources: tuple[str, ...] = ()
    """Where the facts above are written."""


_TRIDENT: Final = (
    "github.com/mahmoodlab/TRIDENT, commit a91fa84, trident/patch_encoder_models/load.py"
)
"""Loads each of these files strictly, with the arguments given here."""
_FIELD: Final = "github.com/mahmoodlab/TRIDENT, commit a91fa84, README.md"
"""Lists the side of each encoder's patches at 20x (0.5 um per pixel) before they are resized."""
_LAZYSLIDE: Final = "github.com/rendeirolab/LazySlide, src/lazyslide/models/vision"
"""Lists licenses and numbers of parameters."""
_MPP_OF_256: Final = 0.5 * 256 / TILE_PX
"""A patch of 256 px at 20x, seen with our tile size."""
_NON_COMMERCIAL: Final = "CC-BY-NC-ND-4.0: research only, no derivatives; on request"
_SWIGLU: Final[Mapping[str, Any]] = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
_BIOPTIMUS: Final[Mapping[str, Any]] = {
    "network": "vit_giant_patch14_reg4_dinov2",
    "arguments": {"img_size": 224, "init_values": 1e-5, "global_pool": "token"},
    "pooling": "cls",
    "feature_dim": 1536,
    "mean": (0.707223, 0.578729, 0.703617),
    "std": (0.211883, 0.230117, 0.177517),
    "mpp": 0.5,
    "millions": 1130,
}
"""What H-optimus-0 and H-optimus-1 have in common."""
_HIBOU: Final[Mapping[str, Any]] = {
    "pooling": "cls",
    "mean": (0.7068, 0.5755, 0.7220),
    "std": (0.1950, 0.2316, 0.1816),
    "layout": "dinov2",
    "mpp": 0.5,
    "license": "Apache-2.0",
    "sources": (
        "github.com/HistAI/hibou, commit c453bbe: hibou/models/__init__.py, vision_transformer.py "
        "and layers/swiglu_ffn.py (architecture, names of weights), example.ipynb (mean, std, "
        "size; pooler_output of the transformers model equals the class token), README.md "
        "(license)",
        f"{_FIELD} (224 px)",
        f"{_LAZYSLIDE}/hibou.py (parameters, feature size)",
    ),
}
"""What Hibou-B and Hibou-L have in common."""

PRESETS: Final[dict[str, EncoderDesign]] = {
    preset.name: preset
    for preset in (
        EncoderDesign(
            name="uni",
            network="vit_large_patch16_224",
            arguments={"img_size": 224, "init_values": 1e-5, "global_pool": "token"},
            pooling="cls",
            feature_dim=1024,
            mpp=_MPP_OF_256,
            millions=303.4,
            license=_NON_COMMERCIAL,
            home="huggingface.co/MahmoodLab/UNI",
            sources=(
                "github.com/mahmoodlab/UNI, commit 42715ef: uni/get_encoder/get_encoder.py "
                "(architecture, mean, std, size), README.md (license)",
                f"{_TRIDENT}, UNIInferenceEncoder",
                f"{_FIELD} (256 px)",
                f"{_LAZYSLIDE}/uni.py (parameters, feature size)",
            ),
        ),
        EncoderDesign(
            name="uni2-h",
            network="vit_giant_patch14_224",
            arguments={
                "img_size": 224,
                "patch_size": 14,
                "depth": 24,
                "num_heads": 24,
                "init_values": 1e-5,
                "embed_dim": 1536,
                "mlp_ratio": 2.66667 * 2,
                "no_embed_class": True,
                "reg_tokens": 8,
                "global_pool": "token",
                **_SWIGLU,
            },
            pooling="cls",
            feature_dim=1536,
            mpp=_MPP_OF_256,
            millions=681.4,
            license=_NON_COMMERCIAL,
            home="huggingface.co/MahmoodLab/UNI2-h",
            sources=(
                "github.com/mahmoodlab/UNI, commit 42715ef: uni/get_encoder/get_encoder.py "
                "(architecture, mean, std, size), README.md (license)",
                f"{_TRIDENT}, UNIv2InferenceEncoder",
                f"{_FIELD} (256 px)",
                f"{_LAZYSLIDE}/uni.py (parameters, feature size)",
            ),
        ),
        EncoderDesign(
            name="virchow2",
            network="vit_huge_patch14_224",
            arguments={
                "img_size": 224,
                "init_values": 1e-5,
                "reg_tokens": 4,
                "mlp_ratio": 5.3375,
                "global_pool": "",
                **_SWIGLU,
            },
            pooling="cls+mean",
            feature_dim=2560,
            mpp=0.5,
            millions=632,
            license=_NON_COMMERCIAL,
            home="huggingface.co/paige-ai/Virchow2",
            sources=(
                f"{_TRIDENT}, Virchow2InferenceEncoder (architecture, mean, std, size; class token "
                "and mean of tokens[5:], after 4 registers)",
                "arxiv.org/abs/2408.00738 (632 million parameters; trained at 5x, 10x, 20x and "
                "40x)",
                f"{_FIELD} (224 px at 20x)",
            ),
        ),
        EncoderDesign(
            name="h-optimus-0",
            license="Apache-2.0",
            home="huggingface.co/bioptimus/H-optimus-0",
            sources=(
                "github.com/bioptimus/releases, commit 218eb7e: models/h-optimus/v0/README.md "
                "(ViT-g/14, 4 registers, 40 blocks, 24 heads, width 1536; license)",
                f"{_TRIDENT}, HOptimus0InferenceEncoder (arguments, mean, std, size)",
                f"{_FIELD} (224 px)",
                f"{_LAZYSLIDE}/h_optimus.py (parameters, license)",
            ),
            **_BIOPTIMUS,
        ),
        EncoderDesign(
            name="h-optimus-1",
            license=_NON_COMMERCIAL,
            home="huggingface.co/bioptimus/H-optimus-1",
            sources=(
                f"{_TRIDENT}, HOptimus1InferenceEncoder (arguments, mean, std, size)",
                f"{_FIELD} (224 px)",
                f"{_LAZYSLIDE}/h_optimus.py (parameters, license)",
            ),
            **_BIOPTIMUS,
        ),
        EncoderDesign(
            name="prov-gigapath",
            network="vit_giant_patch14_dinov2",
            arguments={
                "img_size": 224,
                "patch_size": 16,
                "embed_dim": 1536,
                "depth": 40,
                "num_heads": 24,
                "init_values": 1e-5,
                "mlp_ratio": 5.33334,
                "global_pool": "token",
            },
            pooling="cls",
            feature_dim=1536,
            mpp=0.5,
            millions=1130,
            license="Apache-2.0; for research, no deployed use; on request",
            home="huggingface.co/prov-gigapath/prov-gigapath",
            sources=(
                "github.com/prov-gigapath/prov-gigapath, commit 09d8e87: README.md (license, "
                "terms), gigapath/pipeline.py (mean, std; the middle 224 of 256 px at 0.5 um)",
                f"{_TRIDENT}, GigaPathInferenceEncoder (arguments)",
                f"{_LAZYSLIDE}/gigapath.py (parameters, feature size)",
            ),
        ),
        EncoderDesign(
            name="phikon-v2",
            network="vit_large_patch16_224",
            arguments={"img_size": 224, "init_values": 1.0, "global_pool": "token"},
            pooling="cls",
            feature_dim=1024,
            layout="dinov2",
            mpp=0.5,
            millions=303.4,
            license="Owkin non-commercial license",
            home="huggingface.co/owkin/phikon-v2",
            sources=(
                "arxiv.org/abs/2409.09173 (ViT-L/16 of DINOv2 without registers, 224 px at 20x)",
                f"{_TRIDENT}, Phikonv2InferenceEncoder (mean, std, size, class token)",
                f"{_LAZYSLIDE}/phikon.py (parameters, license, feature size)",
                "github.com/huggingface/transformers, models/dinov2/modeling_dinov2.py (names of "
                "the weights)",
            ),
        ),
        EncoderDesign(
            name="hibou-b",
            network="vit_base_patch14_reg4_dinov2",
            arguments={
                "img_size": 224,
                "mlp_ratio": 5.33334,
                "global_pool": "token",
                **_SWIGLU,
            },
            feature_dim=768,
            millions=85.7,
            home="huggingface.co/histai/hibou-b",
            **_HIBOU,
        ),
        EncoderDesign(
            name="hibou-l",
            network="vit_large_patch14_reg4_dinov2",
            arguments={
                "img_size": 224,
                "mlp_ratio": 5.34375,
                "global_pool": "token",
                **_SWIGLU,
            },
            feature_dim=1024,
            millions=303.7,
            home="huggingface.co/histai/hibou-L",
            **_HIBOU,
        ),
        EncoderDesign(
            name="conch",
            network="vit_base_patch16_224",
            arguments={"img_size": 448, "global_pool": "token"},
            pooling="attention",
            feature_dim=512,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
            input_px=448,
            layout="conch",
            mpp=0.5 * 512 / TILE_PX,
            license=_NON_COMMERCIAL,
            home="huggingface.co/MahmoodLab/CONCH",
            sources=(
                "github.com/mahmoodlab/CONCH, commit 141cc09: conch/open_clip_custom/ "
                "model_configs/conch_ViT-B-16.json, coca_model.py, vision_tower.py and "
                "transformer.py (architecture, pool, names of weights), factory.py and "
                "constants.py (mean, std), transform.py (bicubic, 448 px), README.md (license; "
                "features before the projection, not normalized)",
                f"{_FIELD} (512 px)",
            ),
        ),
    )
}
"""Every preset by its name."""


def preset_of(name: str) -> EncoderDesign:
    """Return the preset.

    Raises:
        ConfigError: If the name is unknown.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r}: use {', '.join(PRESETS)}")
    return PRESETS[name]

"""Names and shapes in the published files of pathology encoders, written out from their sources.

Nothing here is taken from the program or from timm. The sources stand beside each preset.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Published:
    """The sizes of one published vision transformer."""

    dim: int
    depth: int
    patch: int
    positions: int
    """Rows of the position embedding."""
    expanded: int
    """Outputs of the MLP's first layer: twice the hidden width, where the MLP has a gate."""
    hidden: int
    """Inputs of the MLP's last layer."""
    registers: int = 0
    scaled: bool = True
    """Whether each branch of a block has a learned scale."""


PUBLISHED = {
    "uni": Published(1024, 24, 16, 197, 4096, 4096),
    "uni2-h": Published(1536, 24, 14, 256, 8192, 4096, registers=8),
    "virchow2": Published(1280, 32, 14, 261, 6832, 3416, registers=4),
    "h-optimus-0": Published(1536, 40, 14, 256, 8192, 4096, registers=4),
    "h-optimus-1": Published(1536, 40, 14, 256, 8192, 4096, registers=4),
    "prov-gigapath": Published(1536, 40, 16, 197, 8192, 4096),
    "phikon-v2": Published(1024, 24, 16, 197, 4096, 4096),
    "hibou-b": Published(768, 12, 14, 257, 4096, 2048, registers=4),
    "hibou-l": Published(1024, 24, 14, 257, 5472, 2736, registers=4),
    "conch": Published(768, 12, 16, 785, 3072, 3072, scaled=False),
}
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def timm_shapes(size: Published, depth: int) -> Shapes:
    """Names of timm: UNI, UNI2-h, Virchow2, H-optimus and Prov-GigaPath."""
    dim = size.dim
    yield "cls_token", (1, 1, dim)
    if size.registers:
        yield "reg_token", (1, size.registers, dim)
    yield "pos_embed", (1, size.positions, dim)
    yield from _linear("patch_embed.proj", (dim, 3, size.patch, size.patch))
    for i in range(depth):
        yield from _block(f"blocks.{i}", size, "mlp.fc1", "mlp.fc2")
    yield from _linear("norm", (dim,))


def meta_shapes(size: Published, depth: int) -> Shapes:
    """Names of DINOv2's own code, as in the file that the Hibou repository links to."""
    dim = size.dim
    gated = size.expanded != size.hidden
    yield "cls_token", (1, 1, dim)
    yield "pos_embed", (1, size.positions, dim)
    yield "mask_token", (1, dim)
    if size.registers:
        yield "register_tokens", (1, size.registers, dim)
    yield from _linear("patch_embed.proj", (dim, 3, size.patch, size.patch))
    first, last = ("mlp.w12", "mlp.w3") if gated else ("mlp.fc1", "mlp.fc2")
    for i in range(depth):
        yield from _block(f"blocks.{i}", size, first, last)
    yield from _linear("norm", (dim,))


def transformers_shapes(size: Published, depth: int) -> Shapes:
    """Names of DINOv2 in transformers, as in Phikon-v2's and Hibou's files."""
    dim = size.dim
    gated = size.expanded != size.hidden
    yield "embeddings.cls_token", (1, 1, dim)
    yield "embeddings.mask_token", (1, dim)
    yield "embeddings.position_embeddings", (1, size.positions, dim)
    if size.registers:
        yield "embeddings.register_tokens", (1, size.registers, dim)
    yield from _linear("embeddings.patch_embeddings.projection", (dim, 3, size.patch, size.patch))
    first, last = ("weights_in", "weights_out") if gated else ("fc1", "fc2")
    for i in range(depth):
        at = f"encoder.layer.{i}"
        yield from _linear(f"{at}.norm1", (dim,))
        for part in ("query", "key", "value"):
            yield from _linear(f"{at}.attention.attention.{part}", (dim, dim))
        yield from _linear(f"{at}.attention.output.dense", (dim, dim))
        yield f"{at}.layer_scale1.lambda1", (dim,)
        yield from _linear(f"{at}.norm2", (dim,))
        yield from _linear(f"{at}.mlp.{first}", (size.expanded, dim))
        yield from _linear(f"{at}.mlp.{last}", (dim, size.hidden))
        yield f"{at}.layer_scale2.lambda1", (dim,)
    yield from _linear("layernorm", (dim,))


def conch_shapes(size: Published, depth: int) -> Shapes:
    """Names of CONCH: the image tower, and some of what an encoder does not need."""
    for name, shape in timm_shapes(size, depth):
        yield f"visual.trunk.{name}", shape
    for pool, width, queries in (("contrast", 512, 1), ("caption", 768, 256)):
        at = f"visual.attn_pool_{pool}"
        yield f"{at}.query", (queries, width)
        if pool == "contrast":
            yield f"{at}.attn.q_proj_weight", (width, width)
            yield f"{at}.attn.k_proj_weight", (width, size.dim)
            yield f"{at}.attn.v_proj_weight", (width, size.dim)
        else:
            yield f"{at}.attn.in_proj_weight", (3 * width, width)
        yield f"{at}.attn.in_proj_bias", (3 * width,)
        yield from _linear(f"{at}.attn.out_proj", (width, width))
        yield from _linear(f"{at}.ln_q", (width,))
        yield from _linear(f"{at}.ln_k", (size.dim,))
        yield from _linear(f"visual.ln_{pool}", (width,))
    yield "visual.proj_contrast", (512, 512)
    yield "text.positional_embedding", (129, 768)
    yield "logit_scale", ()


SHAPES = {
    **dict.fromkeys(PUBLISHED, timm_shapes),
    "phikon-v2": transformers_shapes,
    "hibou-b": transformers_shapes,
    "hibou-l": transformers_shapes,
    "conch": conch_shapes,
}
"""The names in the published file of each encoder."""


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Random weights that keep every layer's output near 1."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(name, shape, generator) for name, shape in shapes}


def empty_state(shapes: Shapes) -> dict[str, Tensor]:
    """Weights without values: names and shapes alone."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes}


def _block(at: str, size: Published, first: str, last: str) -> Shapes:
    dim = size.dim
    yield from _linear(f"{at}.norm1", (dim,))
    yield from _linear(f"{at}.attn.qkv", (3 * dim, dim))
    yield from _linear(f"{at}.attn.proj", (dim, dim))
    yield from _linear(f"{at}.norm2", (dim,))
    yield from _linear(f"{at}.{first}", (size.expanded, dim))
    yield from _linear(f"{at}.{last}", (dim, size.hidden))
    if size.scaled:
        yield f"{at}.ls1.gamma", (dim,)
        yield f"{at}.ls2.gamma", (dim,)


def _linear(name: str, shape: tuple[int, ...]) -> Shapes:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if len(shape) > 1 and "token" not in name and "pos" not in name and "query" not in name:
        return values / torch.tensor(shape[1:]).prod().sqrt()
    if name.endswith((".weight", ".gamma", ".lambda1")):
        return 1 + 0.1 * values
    return 0.1 * values

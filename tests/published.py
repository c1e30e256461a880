"""The published forward pass, written out on a published state dict with functions alone.

Independent of our modules and of how our import renames and reorders: both are checked against it,
and it against the reference numbers of the published code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def published_keys(shared_data: Path, layout: str) -> dict[str, Tensor]:
    """The keys, shapes and dtypes of a whole state dict, on the meta device, without values."""
    lines = (shared_data / "goldens" / f"official_{layout}_keys.txt").read_text().splitlines()
    state = {}
    for line in lines:
        key, shape, dtype = line.split("\t")
        size = [int(axis) for axis in shape.strip("()").split(",") if axis.strip()]
        state[key] = torch.empty(size, dtype=getattr(torch, dtype), device="meta")
    return state


@dataclass(frozen=True)
class Heads:
    """What a state dict does not tell."""

    fusion: int
    global_: int
    neighbor: int


def under(state: State, prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {key.removeprefix(start): v for key, v in state.items() if key.startswith(start)}


def norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias=None, mask=None) -> Tensor:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    logits = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = torch.where(mask[:, None, None, :], logits, torch.tensor(-65504.0))
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


def offset_bias(table: Tensor) -> Tensor:
    cell = [(i // 5, i % 5) for i in range(25)]
    index = [[abs(r - s) * 5 + abs(c - d) for s, d in cell] for r, c in cell]
    return table[:, torch.tensor(index)]


def feed_forward(state: State, x: Tensor) -> Tensor:
    hidden = F.gelu(
        F.linear(norm(state, "1.norm", x), state["1.fn.net.0.weight"], state["1.fn.net.0.bias"])
    )
    return x + F.linear(hidden, state["1.fn.net.3.weight"], state["1.fn.net.3.bias"])


def out(state: State, x: Tensor) -> Tensor:
    return F.linear(x, state["0.fn.to_out.0.weight"], state["0.fn.to_out.0.bias"])


def self_block(state: State, x: Tensor, heads: int, interleaved=False, mask=None) -> Tensor:
    qkv = F.linear(norm(state, "0.norm", x), state["0.fn.to_qkv.weight"])
    q, k, v = (qkv[..., i::3] for i in range(3)) if interleaved else qkv.chunk(3, -1)
    table = state.get("0.fn.attention_biases")
    bias = None if table is None else offset_bias(table)
    return feed_forward(state, x + out(state, attend(q, k, v, heads, bias, mask)))


def cross_block(state: State, q: Tensor, context: Tensor, heads: int, mask=None) -> Tensor:
    query = F.linear(norm(state, "0.norm", q), state["0.fn.to_q.weight"])
    kv = F.linear(norm(state, "0.norm", context), state["0.fn.to_kv.weight"])
    key, value = kv.chunk(2, -1)
    attended = attend(query, key, value, heads, mask=mask)
    return feed_forward(state, q + out(state, attended))


def layers(state: State, prefix: str) -> list[dict[str, Tensor]]:
    own = under(state, f"{prefix}.layers")
    numbers = sorted({int(key.split(".")[0]) for key in own})
    return [under(own, str(number)) for number in numbers]


def neighbor_encoder(state: State, x: Tensor, mask: Tensor, heads: int) -> Tensor:
    for layer in layers(state, "layer"):
        x = self_block(layer, x, heads, mask=mask)
    return norm(state, "norm", x)


def position(state: State, x: Tensor, grid_rc: Tensor, layout: str) -> Tensor:
    """Dense depthwise convolution; the kernel's last axis runs along rows in 2024."""
    place = grid_rc - grid_rc.min(0).values
    if layout == "2024":
        place = place.flip(1)
    name = "proj1" if layout == "2024" else "proj"
    weight = state[f"{name}.weight"]
    dense = torch.zeros(1, x.shape[1], *(place.max(0).values + 1))
    dense[0, :, place[:, 0], place[:, 1]] = x.T
    reach = weight.shape[-1] // 2
    conv = F.conv2d(dense, weight, state[f"{name}.bias"], padding=reach, groups=x.shape[1])
    values = conv[0, :, place[:, 0], place[:, 1]].T
    return x + values if layout == "2024" else values


def global_encoder(state: State, x: Tensor, grid_rc: Tensor, heads: int, layout: str) -> Tensor:
    x, interleaved = x[None], layout == "2025"
    (first,) = layers(state, "layer1")
    x = self_block(first, x, heads, interleaved)
    x = position(under(state, "pos_layer"), x[0], grid_rc, layout)[None]
    for layer in layers(state, "layer2"):
        x = self_block(layer, x, heads, interleaved)
    return norm(state, "norm", x)[0]


def fusion_encoder(
    state: State, g: Tensor, t: Tensor, n: Tensor, mask: Tensor, heads: int
) -> Tensor:
    total = torch.zeros_like(g)
    for context, keys in ((t, None), (n, mask)):
        query = g[:, None]
        for layer in layers(state, "fusion_layer"):
            query = cross_block(layer, query, context, heads, keys)
        total = total + query[:, 0]
    return norm(state, "norm", total)


def batch_norm(state: State, name: str, x: Tensor) -> Tensor:
    own = under(state, name)
    return F.batch_norm(x, own["running_mean"], own["running_var"], own["weight"], own["bias"])


def backbone(state: State, images: Tensor) -> Tensor:
    """Target tokens (B, 49, 512) of the published sequence of ResNet18 stages."""
    x = F.relu(batch_norm(state, "1", F.conv2d(images, state["0.weight"], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage in "4567":
        for block in "01":
            own = under(state, f"{stage}.{block}")
            stride = 2 if block == "0" and stage != "4" else 1
            short = x
            if "downsample.0.weight" in own:
                down = F.conv2d(x, own["downsample.0.weight"], stride=stride)
                short = batch_norm(own, "downsample.1", down)
            x = F.conv2d(x, own["conv1.weight"], stride=stride, padding=1)
            x = F.conv2d(F.relu(batch_norm(own, "bn1", x)), own["conv2.weight"], padding=1)
            x = F.relu(batch_norm(own, "bn2", x) + short)
    return x.flatten(2).transpose(1, 2)


def predict(
    state: State,
    heads: Heads,
    layout: str,
    images: Tensor,
    neighbors: Tensor,
    mask: Tensor,
    slide: Tensor,
    grid_rc: Tensor,
) -> dict[str, Tensor]:
    """The four predictions (N, G) of all N spots of one slide."""
    t = backbone(under(state, "target_encoder"), images)
    if layout == "2025":
        t = F.linear(t, state["target_linear.weight"], state["target_linear.bias"])
    n = neighbor_encoder(under(state, "neighbor_encoder"), neighbors, mask, heads.neighbor)
    g = global_encoder(under(state, "global_encoder"), slide, grid_rc, heads.global_, layout)
    fused = fusion_encoder(under(state, "fusion_encoder"), g, t, n, mask, heads.fusion)
    tokens = {"fc": fused, "fc_target": t.mean(1), "fc_neighbor": n.mean(1), "fc_global": g}
    predicted = {
        name: F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])
        for name, x in tokens.items()
    }
    if layout == "2025":
        predicted = {name: value.clamp(min=0) for name, value in predicted.items()}
    return predicted

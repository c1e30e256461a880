"""How the published code calls each weight of ours: ``official``'s renaming, read backwards."""

from typing import Final

from triplex_deploy.models.official import BLOCK_KEYS, HEADS, TRUNK_STAGES, Layout

_BLOCK: Final = {ours: theirs for theirs, ours in BLOCK_KEYS.items()}
_STAGE: Final = {ours: theirs for theirs, ours in TRUNK_STAGES.items()}
_HEAD: Final = {ours: theirs for theirs, ours in HEADS.items()}
_LAYERS: Final = {
    "neighbor_encoder": "neighbor_encoder.layer.layers",
    "fusion": "fusion_encoder.fusion_layer.layers",
}


def official_key(ours: str, layout: Layout) -> str:
    """The published name of a key of ``Triplex.state_dict()``."""
    part, _, rest = ours.partition(".")
    if part in _HEAD:
        return f"{_HEAD[part]}.{rest}"
    if part == "target_encoder":
        return _target_key(rest)
    if rest.startswith("layers."):
        return _layer_key(part, rest)
    if rest.startswith("apeg."):
        layer = "proj1" if layout == "2024" else "proj"
        return f"global_encoder.pos_layer.{layer}.{rest.removeprefix('apeg.')}"
    return f"{'fusion_encoder' if part == 'fusion' else part}.{rest}"  # the final norm


def _target_key(rest: str) -> str:
    if rest.startswith("projection."):
        return f"target_linear.{rest.removeprefix('projection.')}"
    stage, _, inner = rest.removeprefix("trunk.").partition(".")
    return f"target_encoder.{_STAGE[stage]}.{inner}"


def _layer_key(part: str, rest: str) -> str:
    _, number, inner = rest.split(".", 2)
    if part != "global_encoder":
        return f"{_LAYERS[part]}.{number}.{_BLOCK[inner]}"
    if number == "0":
        return f"global_encoder.layer1.layers.0.{_BLOCK[inner]}"
    return f"global_encoder.layer2.layers.{int(number) - 1}.{_BLOCK[inner]}"

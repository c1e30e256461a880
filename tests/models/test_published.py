"""The second implementation of the published model, used to check the import, is correct."""

import pytest
import torch

from tests.published import fusion_encoder, global_encoder, neighbor_encoder

GENERATIONS = pytest.mark.parametrize("generation", ["v1", "v2"])


@GENERATIONS
def test_neighbor_encoder(golden, matches, generation):
    reference = golden(f"{generation}_neighbor_encoder")
    mask = reference["mask"].bool()
    heads = reference.number("heads")
    out = neighbor_encoder(reference.group("sd"), reference["x"], mask, heads)
    matches(out, reference["out"])


@GENERATIONS
def test_global_encoder(golden, matches, generation):
    reference = golden(f"{generation}_global_encoder")
    position = reference["pos"]
    if generation == "v2":  # top-left pixels (x, y) on a 260 px lattice
        position = ((position - position.min(0).values) / 260).round().long().flip(1)
    layout = {"v1": "2024", "v2": "2025"}[generation]
    heads = reference.number("heads")
    out = global_encoder(reference.group("sd"), reference["x"][0], position, heads, layout)
    matches(out, reference["out"][0])


@GENERATIONS
def test_fusion_encoder(golden, matches, generation):
    reference = golden(f"{generation}_fusion_encoder")
    x_g, x_t, x_n = (reference[name] for name in ("x_g", "x_t", "x_n"))
    mask, heads = reference["mask"].bool(), reference.number("heads")
    out = fusion_encoder(reference.group("sd"), x_g, x_t, x_n, mask, heads)
    matches(out, reference["out"])
    assert not torch.equal(mask, torch.ones_like(mask))

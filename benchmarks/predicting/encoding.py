"""Compare the frozen encoder with what a user would write in PyTorch, alone and while preparing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from triplex_deploy.bench.measure import Case
from triplex_deploy.bench.script import script_case, time_call
from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD, TILES
from triplex_deploy.contract.precision import DEFAULT
from triplex_deploy.data import Section
from triplex_deploy.errors import BackendError
from triplex_deploy.models import Checkpoint, TileEncoderWeights
from triplex_deploy.models.torch_files import save_tensors
from triplex_deploy.progress import Silent
from triplex_deploy.runtime.backends import AUTO, OPENVINO
from triplex_deploy.runtime.model import load_bundle
from triplex_deploy.spots import Spots
from triplex_deploy.training.encode_section import EncodeOptions, encode_section
from triplex_deploy.training.encoder_runner import TORCH, EncoderRunner, RunOptions
from triplex_deploy.training.tile_encoder import open_tile_encoder

BF16: Final = "bf16"
ROUNDS: Final = 3

Measured = tuple[list[Case], dict[str, float], dict[str, str]]
"""Cases, ratios, and why a ratio is missing."""


def measure_encoder(checkpoint: Checkpoint, bundle: Path, tiles: NDArray[np.uint8]) -> Measured:
    """Encode tiles in bf16, by the bundle and by PyTorch under autocast in channels-last order.

    Both take RGB bytes and use all cores. On a CPU without instructions for bf16 there is nothing
    to compare.

    Args:
        checkpoint: The model, for PyTorch.
        bundle: Its fp32 bundle.
        tiles: RGB tiles (T, 224, 224, 3).
    """
    name = "encoder_over_torch_bf16"
    reason = "what a user would write in PyTorch on such a CPU"
    ours = script_case(f"tile encoder, {OPENVINO.name} {BF16}", reason, len(tiles), "tiles")
    theirs = script_case(f"tile encoder, PyTorch {BF16} autocast", reason, len(tiles), "tiles")
    try:
        model = load_bundle(bundle).open("cpu", OPENVINO.name, precision=BF16)
    except BackendError as error:
        return [], {}, {name: str(error)}
    with model:
        session = model.session("tile_encoder")
        ways: Sequence[tuple[Case, Callable[[], Any]]] = (
            (ours, lambda: session.run({TILES.name: tiles})),
            (theirs, torch_encoder(checkpoint.tile_encoder, tiles)),
        )
        for _, encode in ways:
            encode()  # not timed: it compiles
        for _ in range(ROUNDS):
            for case, encode in ways:
                time_call(case, encode)
    return [ours, theirs], {name: theirs.best_s / ours.best_s}, {}


def torch_encoder(
    weights: TileEncoderWeights, tiles: NDArray[np.uint8]
) -> Callable[[], torch.Tensor]:
    """Return a function that encodes tiles in PyTorch in bf16, in channels-last order."""
    encoder = weights.build()
    for weight in encoder.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))

    def encode() -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            images = torch.from_numpy(tiles).permute(0, 3, 1, 2)
            features: torch.Tensor = encoder((images.float() / 255 - mean) / std)
            return features

    return encode


def measure_prepare(
    checkpoint: Checkpoint, slide: Path, spots: Spots, mpp: float, folder: Path
) -> Measured:
    """Encode the tiles of a section as ``prepare`` does, and in PyTorch eager.

    Args:
        checkpoint: The model with the frozen encoder.
        slide: Image of the section.
        spots: Its spots.
        mpp: Microns per pixel of the slide.
        folder: Receives weights and features.
    """
    section = _section(slide, spots, mpp)
    weights = folder / "tile_encoder.pt"
    save_tensors(dict(checkpoint.tile_encoder.state_dict), weights)
    eager = _encode(section, weights, RunOptions(backend=TORCH), folder)
    cases, ratios, absent = [eager], {}, {}
    for precision, name in ((DEFAULT, "prepare_over_eager"), (BF16, "prepare_bf16_over_eager")):
        try:
            ours = _encode(section, weights, RunOptions(AUTO, precision), folder)
        except BackendError as error:
            absent[name] = str(error)
            continue
        cases.append(ours)
        ratios[name] = eager.best_s / ours.best_s
    return cases, ratios, absent


def _encode(section: Section, weights: Path, options: RunOptions, folder: Path) -> Case:
    encoder = open_tile_encoder(weights, device=options.device)
    title = f"prepare, {options.backend} {options.precision}"
    out = folder / title
    out.mkdir()
    with EncoderRunner(encoder, options) as runner:
        backend = runner.running.backend  # opened before the time counts
        case = script_case(title, "every tile of a section through the frozen encoder")
        how = EncodeOptions(section.slide_mpp, native_pixels=True)
        facts = time_call(case, lambda: encode_section(section, runner, out, how, Silent()))
    tiles = facts["tiles"]
    case.work.metadata |= {"backend": backend, "tiles": tiles, "tiles_per_s": tiles / case.best_s}
    return case


def _section(slide: Path, spots: Spots, mpp: float) -> Section:
    """Return the spots as a section with one gene, which preparing needs and encoding does not."""
    counts = csr_array(np.ones((len(spots.level0_xy), 1), np.int64))
    return Section(
        name="section",
        patient="patient",
        slide_path=slide,
        slide_mpp=mpp,
        counts=counts,
        genes=("gene",),
        grid_rc=spots.grid_rc,
        level0_xy=spots.level0_xy,
        is_mpp_given=True,
    )

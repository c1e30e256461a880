"""Makes the archive of files of version 0.1.0; see README.md. It runs on that version alone.

Large weights are short patterns that repeat, so that the archive stays small.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor, nn

import exporters.export
import exporters.inputs
import exporters.to_onnx
import triplex_deploy
from triplex_deploy.cli.main import COMMANDS, group, run
from triplex_deploy.contract import Config, HisToGeneConfig, ModelConfig
from triplex_deploy.models import (
    Checkpoint,
    TileEncoder,
    TileEncoderWeights,
    build_model,
    state_of,
    write_checkpoint,
)
from triplex_deploy.models.spot_model import SpotModel
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.tuning import choose_setting
from triplex_deploy.runtime.model import load_bundle
from triplex_deploy.training.options import TrainOptions

ARCHIVE: Final = Path(__file__).with_name("version-0.1.0.tar.xz")
GENES: Final = ("GNAS", "FASN", "MUC1", "ERBB2", "CD74")
LABELS: Final = {"library": "panel", "log": "log10", "smoothing": "3x3"}
MPP: Final = 0.5
PERIOD: Final = 251
"""Of the patterns; a prime, so that the rows of a matrix differ."""

TRIPLEX: Final = ModelConfig(
    n_genes=len(GENES),
    embedding_dim=32,
    global_depth=2,
    global_heads=4,
    global_mlp_ratio=1.0,
    neighbor_depth=1,
    neighbor_heads=4,
)
HIS_TO_GENE: Final = HisToGeneConfig(
    n_genes=len(GENES), feature_dim=3, embedding_dim=16, depth=1, heads=2, mlp_dim=32
)
GEM: Final = {
    "model": "gem",
    "embedding_dim": 16,
    "global_depth": 2,
    "global_heads": 2,
    "global_mlp_ratio": 1.0,
}
TRAINING: Final = TrainOptions(epochs=2, batch_size=7, learning_rate=1e-3, patience=3, seed=7)

SETTINGS: Final = """\
[predict]
bundle = "triplex/bundle"
out = "from settings"
mpp = 0.5
layout = "grid"
genes = ["FASN", "GNAS"]
device = "cpu"
backend = "onnxruntime"
batch-size = 3
memory-gb = 2
on-bad-tile = "raise"
threads = 1
half-features = false
cache = "cache"
no-report = true
recursive = false
resume = false
workers = 1
engine = "local"

[train]
config = "train.yaml"
selection = "honest"
fold = 1
set = ["learning_rate=1e-3"]

[prepare]
format = "st"
tile-encoder = "means.onnx"
native-pixels = true
library = "panel"
log = "log10"
smoothing = "3x3"

[study]
engine = "local"
workers = 1
no-deploy = true

[bench]
device = "cpu"
scenario = ["SingleStream"]
batch_sizes = "1,2"

[export]
format = ["onnx"]
precision = "fp32"
"""


def main() -> None:
    """Fill the working folder, which must be empty, and pack it."""
    _simplify_inputs()
    _leave_out_folders()
    os.environ["XDG_CACHE_HOME"] = str(Path("home").absolute())
    os.environ["XDG_CONFIG_HOME"] = str(Path("home").absolute())
    _draw_slide(Path("slide.png"))
    write_mean_encoder(Path("means.onnx"))
    _write_checkpoints()
    for family in ("triplex", "his_to_gene"):
        _call("export", f"{family}/model.ckpt", "--out", f"{family}/bundle")
        _call(
            "predict",
            "slide.png",
            "--bundle",
            f"{family}/bundle",
            "--mpp",
            MPP,
            "--out",
            f"{family}/predictions",
            "--cache",
            "cache",
            "--device",
            "cpu",
        )
    _tune()
    _train()
    _study()
    _bench()
    Path("triplex-deploy.toml").write_text(SETTINGS, encoding="utf-8")
    _write_json("interface.json", _interface())
    pack(Path(), ARCHIVE)


def _call(*arguments: object) -> None:
    status = run([str(argument) for argument in arguments])
    if status:
        raise SystemExit(f"{arguments}: exit status {status}")


def _write_json(name: str, content: Any) -> None:
    Path(name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _simplify_inputs() -> None:
    """Have the export's own test inputs without grain, which no archive makes smaller."""
    tensor = exporters.inputs._tensor

    def rounded(*arguments: Any) -> NDArray[Any]:
        values = tensor(*arguments)
        return np.round(values * 2) / 2 if values.dtype == np.float32 else values

    def tiles(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
        patches = rng.integers(60, 240, (shape[0], shape[1] // 56, shape[2] // 56, 3), np.uint8)
        return np.repeat(np.repeat(patches, 56, axis=1), 56, axis=2)

    exporters.inputs.tiles = tiles
    exporters.inputs._tensor = rounded


def _leave_out_folders() -> None:
    """Have graphs name source files as the package does, not where they lay on this machine."""
    write_onnx = exporters.to_onnx.write_onnx

    def write(*arguments: Any) -> None:
        write_onnx(*arguments)
        path = arguments[-1]
        proto = onnx.load(path)
        for node in _nodes(proto):
            for entry in node.metadata_props:
                entry.value = re.sub(r"(?<=\")/[^\"\n]*/(?=[^\"/\n]+\")", "", entry.value)
        path.write_bytes(proto.SerializeToString())

    exporters.export.write_onnx = write


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from proto.graph.node
    for function in proto.functions:
        yield from function.node


def _draw_slide(path: Path) -> None:
    """A round piece of tissue on white, in blocks of colors like those of stained tissue."""
    rng = np.random.default_rng(0)
    colors = rng.integers((110, 40, 110), (230, 150, 220), (20, 24, 3))
    blocks = np.repeat(np.repeat(colors, 56, axis=0), 56, axis=1)
    y, x = np.indices(blocks.shape[:2])
    outside = ((x - 672) / 600) ** 2 + ((y - 560) / 480) ** 2 > 1
    blocks[outside] = 244
    Image.fromarray(blocks.astype(np.uint8)).save(path, optimize=True)


def write_mean_encoder(path: Path) -> None:
    """An ONNX encoder whose three features are the means of the normalized channels."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 224, 224])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "means", [images], [features])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


def _write_checkpoints() -> None:
    trunk = TileEncoder().trunk
    repeat_weights(trunk, seed=1)
    _settle_norms(trunk, lambda images: trunk.feature_map(images))
    model = build_model(TRIPLEX, seed=0)
    repeat_weights(model, seed=2)
    target = model.target_encoder
    assert isinstance(target, nn.Module)
    _settle_norms(target, target)
    ours = TileEncoderWeights("ResNet18 of a pattern", state_dict=state_of(trunk))
    _write_checkpoint("triplex/model.ckpt", TRIPLEX, model, ours)
    other = build_model(HIS_TO_GENE, seed=0)
    repeat_weights(other, seed=3)
    means = TileEncoderWeights(
        "means", kind="onnx", onnx=Path("means.onnx").read_bytes(), feature_dim=3
    )
    _write_checkpoint("his_to_gene/model.ckpt", HIS_TO_GENE, other, means)


def _write_checkpoint(
    path: str, config: Config, model: SpotModel, encoder: TileEncoderWeights
) -> None:
    checkpoint = Checkpoint(
        config=config,
        genes=GENES,
        label_transform=dict(LABELS),
        tile_mpp=MPP,
        state_dict=state_of(model),
        tile_encoder=encoder,
        provenance={"made_for": "tests of later versions", "folds": [0, 1]},
    )
    write_checkpoint(checkpoint, path)


def repeat_weights(module: nn.Module, seed: int) -> None:
    """Replace every matrix by a pattern that repeats, at the scale of He initialization."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for value in module.parameters():
            if value.ndim < 2:
                continue
            pattern = rng.standard_normal(PERIOD).astype(np.float32)
            fan_in = value.numel() / value.shape[0]
            flat = np.resize(pattern * np.float32(np.sqrt(2 / fan_in)), value.numel())
            value.copy_(torch.from_numpy(flat).view(value.shape))


def _settle_norms(module: nn.Module, forward: Any) -> None:
    """Give each batch norm one mean and variance, alike for its channels, of what reaches it."""

    def settle(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.fill_(float(inputs[0].mean()))
        norm.running_var.fill_(float(inputs[0].var()))

    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    rng = np.random.default_rng(4)
    coarse = torch.from_numpy(rng.normal(0, 1.2, (8, 3, 14, 14)).astype(np.float32))
    images = torch.nn.functional.interpolate(coarse, size=(224, 224))
    with torch.no_grad():
        module.eval()
        forward(images)
    for hook in hooks:
        hook.remove()


def _tune() -> None:
    """Have the old version remember how many lanes are fastest; no prediction depends on it."""
    with load_bundle("his_to_gene/bundle").open(device="cpu") as model:
        choose_setting(model, model.sessions, n_tiles=1000)


def _write_sections(root: Path) -> None:
    """Three patients in the layout of her2st, six spots each, a tile apart."""
    places = [(x, y) for y in (2, 3) for x in (2, 3, 4)]
    for folder in ("ST-cnts", "ST-spotfiles"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(("A1", "B1", "C1")):
        rng = np.random.default_rng(number)
        colors = rng.integers(60, 240, (8, 12, 3)).repeat(112, axis=0).repeat(112, axis=1)
        image = root / "ST-imgs" / name[0] / name / "he.png"
        image.parent.mkdir(parents=True)
        Image.fromarray(colors.astype(np.uint8)).save(image)
        counts = rng.poisson([8, 4, 2, 15 if name == "A1" else 0], (len(places), 4)).tolist()
        rows = ["\t".join(("", "GNAS", "FASN", "MUC1", "XIST"))]
        spots = ["x\ty\tpixel_x\tpixel_y"]
        for (x, y), row in zip(places, counts, strict=True):
            rows.append("\t".join((f"{x}x{y}", *map(str, row))))
            spots.append(f"{x}\t{y}\t{130 + 224 * x}\t{224 * y - 100}")
        (root / "ST-cnts" / f"{name}.tsv").write_text("\n".join(rows))
        (root / "ST-spotfiles" / f"{name}_selection.tsv").write_text("\n".join(spots))


def _train() -> None:
    """Prepare, train all folds, score them, and cut one more training off after an epoch."""
    _write_sections(Path("st"))
    _call(
        "prepare",
        "st",
        "--format",
        "st",
        "--out",
        "prepared",
        "--genes",
        3,
        "--tile-encoder",
        "means.onnx",
    )
    settings = {**GEM, **asdict(TRAINING)}
    lines = [f"{key}: {json.dumps(value)}" for key, value in settings.items()]
    Path("train.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    train = ("train", "prepared", "--config", "train.yaml")
    _call(*train, "--out", "run", "--all-folds")
    _call("evaluate", "run", "--out", "run-scores.json")
    _call(*train, "--out", "cut-off", "--fold", 0, "--epochs", 1)


def _study() -> None:
    text = (
        "name: tiny\nreference: GEM\nselection: honest\nseeds: [1]\nfolds: [0, 1]\n"
        "datasets:\n  ST: {prepared: prepared}\n"
        "settings: {epochs: 1, embedding_dim: 16, batch_size: 7}\n"
        "models:\n"
        "  GEM: {model: gem, global_depth: 2, global_heads: 2, global_mlp_ratio: 1.0}\n"
        "  NEM: {model: nem, neighbor_depth: 1, neighbor_heads: 2}\n"
        "maps:\n  ST: {section: A1, genes: [GNAS]}\n"
    )
    Path("study.yaml").write_text(text, encoding="utf-8")
    _call("study", "study.yaml", "--out", "study", "--no-deploy", "--engine", "local")


def _bench() -> None:
    bench = ("bench", "his_to_gene/bundle", "--device", "cpu", "--threads", 1, "--seconds", 0.05)
    bench = (*bench, "--rounds", 2, "--warmup", 1)
    _call(*bench, "--graph", "fusion_head", "--batch-sizes", "1,2", "--json", "bench-graphs.json")
    slide = ("--slide", "slide.png", "--mpp", MPP, "--end-to-end")
    _call(*bench, *slide, "--json", "bench-slide.json")


def _interface() -> dict[str, Any]:
    """Names that users of the old version type."""
    context = click.Context(group)
    commands = {name: group.get_command(context, name) for name in COMMANDS}
    bench = commands["bench"]
    assert bench is not None
    compare = bench.make_context("bench", ["compare", *["bench-graphs.json"] * 2]).command
    return {
        "version": triplex_deploy.__version__,
        "public": list(triplex_deploy.__all__),
        "predict_options": asdict(PredictOptions()),
        "options": {
            **{name: list(_options(command)) for name, command in commands.items() if command},
            "bench compare": list(_options(compare)),
        },
    }


def _options(command: click.Command) -> Iterable[dict[str, Any]]:
    """Every spelling of every option, and how many values follow it."""
    for param in command.params:
        if isinstance(param, click.Option):
            takes = 0 if param.is_flag or param.count else param.nargs
            for spelling in (*param.opts, *param.secondary_opts):
                yield {"option": spelling, "values": takes}


def _is_kept(path: Path) -> bool:
    """Pictures of curves, states of finished trainings and caches of others are of no use."""
    is_picture = path.suffix == ".png" and path.parts[0] not in ("slide.png", "st")
    is_state = path.name == "state.pt" and path.parts[0] != "cut-off"
    return not is_picture and not is_state and "matplotlib" not in path.parts


def pack(folder: Path, archive: Path) -> None:
    """All files of the folder, byte for byte, and nothing of whose they are."""

    def nobody(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(archive, "w:xz", preset=6) as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and _is_kept(path):
                tar.add(path, path.as_posix(), filter=nobody)


if __name__ == "__main__":
    if any(Path().iterdir()):
        sys.exit("the working folder holds files; run this in an empty one")
    main()

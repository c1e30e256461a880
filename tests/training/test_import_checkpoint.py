"""Published checkpoints become ours: the same predictions, and a reason for every refusal."""

import json
import os
import sys
import types
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.published import Heads, predict, published_keys
from triplex_deploy.cli.main import run as run_command
from triplex_deploy.contract import ModelConfig
from triplex_deploy.errors import CheckpointError, ConfigError
from triplex_deploy.models import TileEncoder, read_checkpoint, state_of
from triplex_deploy.models.published import checkpoint as official_module
from triplex_deploy.models.published.checkpoint import read_official
from triplex_deploy.models.torch_files import load_state_dict
from triplex_deploy.tiles.apeg import apeg_index

HEADS = {"fusion_heads": 4, "global_heads": 8}
SPOTS, GENES = 5, 37
GRID_RC = np.array([[3, 1], [3, 2], [4, 1], [6, 5], [4, 3]])


@pytest.fixture(scope="module")
def listed(shared_data: Path):
    return partial(published_keys, shared_data)


def filled(listed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Random weights that leave the signal its size, and statistics that are none by chance."""
    generator = torch.Generator().manual_seed(7)
    state = {}
    for key, value in listed.items():
        if not value.is_floating_point():
            state[key] = torch.tensor(1)
        elif value.ndim > 1:
            fan_in = value[0].numel()
            state[key] = torch.randn(value.shape, generator=generator) / fan_in**0.5
        else:
            state[key] = 0.5 + torch.rand(value.shape, generator=generator)
    return state


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A list of genes, a configuration and a tile encoder."""
    folder = tmp_path_factory.mktemp("import")
    (folder / "genes.txt").write_text("\n".join(f"gene{i}" for i in range(GENES)) + "\n")
    (folder / "heads.yaml").write_text("fusion_heads: 4\nglobal_heads: 8\n")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save({"state_dict": state_of(TileEncoder().backbone)}, folder / "resnet18.ckpt")
    return {path.name: path for path in folder.iterdir()}


def arguments(official: Path, layout: str, out: Path, given: dict[str, Path]) -> list[str]:
    options = {
        "--layout": layout,
        "--config": given["heads.yaml"],
        "--genes": given["genes.txt"],
        "--mpp": 0.69,
        "--out": out,
    }
    flat = [str(part) for pair in options.items() for part in pair]
    return ["import-checkpoint", str(official), *flat]


@pytest.mark.parametrize("layout", ["2024", "2025"])
def test_imported_model_predicts_what_the_published_one_does(
    layout: str,
    listed,
    surroundings: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = filled(listed(layout))
    prefix = "model." if layout == "2025" else ""
    lightning = {
        "epoch": 3,
        "pytorch-lightning_version": "2.0.4",
        "state_dict": {f"{prefix}{key}": value for key, value in state.items()},
        "hyper_parameters": Namespace(config=Namespace(depth1=1), root=Path("data")),
        "callbacks": {"ModelCheckpoint": {"best_model_score": np.float64(0.3)}},
    }
    torch.save(lightning, tmp_path / "official.ckpt")
    out = tmp_path / "ours.ckpt"
    given = arguments(tmp_path / "official.ckpt", layout, out, surroundings)
    encoder = ["--tile-encoder", str(surroundings["resnet18.ckpt"]), "--json"]
    assert run_command([*given, *encoder]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (
        summary["inferred"].items() >= {"n_genes": 37, "global_depth": 2, "apeg_kernel": 3}.items()
    )
    assert summary["inferred"]["neighbor_heads"] == 4

    checkpoint = read_checkpoint(out)
    assert checkpoint.genes[-1] == "gene36"
    assert checkpoint.label_transform["log"] == {"2024": "log10", "2025": "ln"}[layout]
    assert isinstance(checkpoint.config, ModelConfig)
    assert checkpoint.config.nonnegative == (layout == "2025")
    generator = torch.Generator().manual_seed(2)
    images = torch.randn((SPOTS, 3, 224, 224), generator=generator)
    neighbors = torch.randn((SPOTS, 25, 512), generator=generator)
    mask = torch.rand((SPOTS, 25), generator=generator) > 0.3
    slide = torch.randn((SPOTS, 512), generator=generator)
    index, rows = torch.from_numpy(apeg_index(GRID_RC)), torch.arange(SPOTS)
    with torch.inference_mode():
        ours = checkpoint.build_model()(images, neighbors, mask, slide, index, rows)
        theirs = predict(
            state,
            Heads(4, 8, 4),
            layout,
            images,
            neighbors,
            mask,
            slide,
            torch.from_numpy(GRID_RC),
        )
    assert len(ours) == len(theirs) == 4
    for found, wanted in zip(ours, theirs.values(), strict=True):
        clipped = found.clamp(min=0) if layout == "2025" else found
        assert (wanted > 0).float().mean() > 0.2
        assert float((clipped - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch):
    """Let ``read_official`` find this state in its file."""

    def let(state: dict[str, Tensor]) -> None:
        monkeypatch.setattr(official_module, "load_state_dict", lambda path: state)

    return let


def test_keys_that_are_missing_or_unknown_are_listed_by_their_published_names(
    listed, pretended
) -> None:
    state = listed("2024")
    del state["neighbor_encoder.layer.layers.0.1.norm.weight"]
    del state["global_encoder.layer2.layers.0.0.fn.to_out.0.bias"]
    state["target_encoder.7.1.se.weight"] = torch.empty(1, device="meta")
    state["fusion_encoder.cls"] = torch.empty(1, device="meta")
    pretended(state)
    with pytest.raises(CheckpointError) as refusal:
        read_official("their.ckpt", "2024", HEADS)
    assert str(refusal.value) == (
        "their.ckpt: does not fit the 2024 layout; missing keys: "
        "neighbor_encoder.layer.layers.0.1.norm.weight, "
        "global_encoder.layer2.layers.0.0.fn.to_out.0.bias; unexpected keys: "
        "target_encoder.7.1.se.weight, fusion_encoder.cls; check --layout and --config"
    )


def test_the_other_layout_is_told_by_its_keys(listed, pretended) -> None:
    pretended(listed("2025"))
    with pytest.raises(CheckpointError) as refusal:
        read_official("their.ckpt", "2024", HEADS)
    assert "missing keys: global_encoder.pos_layer.proj1.weight" in str(refusal.value)
    assert "unexpected keys: target_linear.weight" in str(refusal.value)


def test_weights_of_another_size_are_named(listed, pretended) -> None:
    state = listed("2024")
    state["fc_global.weight"] = torch.empty(36, 512, device="meta")
    pretended(state)
    with pytest.raises(CheckpointError, match=r"wrong shapes: fc_global\.weight \(36, 512\)"):
        read_official("their.ckpt", "2024", HEADS)


def test_other_networks_are_not_mistaken_for_triplex(pretended) -> None:
    pretended({"fc.weight": torch.empty(1000, 512)})
    with pytest.raises(CheckpointError, match="pass a TRIPLEX model of the published code"):
        read_official("resnet.ckpt", "2024", HEADS)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "fusion_heads, global_heads: cannot be seen in the weights"),
        ({"fusion_heads": 4}, "global_heads: cannot be seen"),
        (HEADS | {"global_depth": 3}, "global_depth=3: the weights and the 2024 code have 2"),
        (HEADS | {"nonnegative": True}, "nonnegative=True: the weights and the 2024 code"),
        (HEADS | {"heads": 4}, "heads: not a model option"),
        (HEADS | {"global_heads": 7}, "global_heads=7: must divide"),
    ],
)
def test_settings_that_lack_or_contradict_are_refused(
    listed, pretended, settings: dict[str, object], reason: str
) -> None:
    pretended(listed("2024"))
    with pytest.raises(ConfigError) as refusal:
        read_official("their.ckpt", "2024", settings)
    assert reason in str(refusal.value)


def test_a_published_configuration_file_is_understood(listed, pretended) -> None:
    pretended(listed("2024"))
    published = {
        "GENERAL": {"seed": 2021},
        "MODEL": {
            **{"name": "TRIPLEX", "num_genes": 37, "depth1": 1, "depth2": 2, "depth3": 1},
            **{"num_heads1": 4, "num_heads2": 8, "num_heads3": 4, "dropout3": 0.25},
        },
    }
    found = read_official("their.ckpt", "2024", published)
    assert (found.config.fusion_heads, found.config.global_heads) == (4, 8)
    assert found.config.neighbor_dropout == 0.25
    assert "global_depth" not in found.inferred
    assert found.inferred["fusion_mlp_ratio"] == 1.0
    assert found.config == ModelConfig(
        n_genes=37,
        fusion_heads=4,
        fusion_mlp_ratio=1.0,
        global_depth=2,
        global_heads=8,
        global_mlp_ratio=1.0,
        neighbor_depth=1,
        neighbor_heads=4,
        neighbor_dropout=0.25,
    )


class TestSurroundings:
    @pytest.fixture
    def official(self, listed, pretended, tmp_path: Path) -> Path:
        pretended(filled(listed("2024")))
        path = tmp_path / "official.ckpt"
        path.write_bytes(b"pretended")
        return path

    def refused(self, given: list[str], capsys: pytest.CaptureFixture[str]) -> str:
        assert run_command(given) == 1
        return capsys.readouterr().err

    def test_the_frozen_encoder_is_required(self, official, surroundings, tmp_path, capsys):
        given = arguments(official, "2024", tmp_path / "out.ckpt", surroundings)
        assert "reads 512 features per tile" in self.refused(given, capsys)
        assert not (tmp_path / "out.ckpt").exists()

    def test_encoder_of_another_width_is_refused(
        self, official, surroundings, tmp_path, capsys, mean_encoder
    ):
        given = arguments(official, "2024", tmp_path / "out.ckpt", surroundings)
        message = self.refused([*given, "--tile-encoder", str(mean_encoder)], capsys)
        assert "gives 3 features per tile, the model reads 512" in message

    def test_genes_are_one_per_output(self, official, surroundings, tmp_path, capsys):
        (tmp_path / "few.txt").write_text("GNAS\nFASN\n")
        files = surroundings | {"genes.txt": tmp_path / "few.txt"}
        given = arguments(official, "2024", tmp_path / "out.ckpt", files)
        encoder = ["--tile-encoder", str(surroundings["resnet18.ckpt"])]
        assert "2 listed but the model predicts 37" in self.refused([*given, *encoder], capsys)

    def test_an_existing_file_is_kept(self, official, surroundings, tmp_path, capsys):
        (tmp_path / "out.ckpt").write_text("mine")
        given = arguments(official, "2024", tmp_path / "out.ckpt", surroundings)
        assert "exists already" in self.refused(given, capsys)
        assert (tmp_path / "out.ckpt").read_text() == "mine"


class Malicious:
    """Unpickled the ordinary way, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("place", ["official", "tile encoder"])
def test_malicious_pickle_is_refused_and_not_run(
    place: str, listed, pretended, surroundings, tmp_path: Path, capsys
) -> None:
    marker = tmp_path / "it-ran"
    bad = tmp_path / "bad.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": Malicious(marker)}, bad)
    if place == "tile encoder":
        pretended(filled(listed("2024")))
    given = arguments(bad, "2024", tmp_path / "out.ckpt", surroundings)
    assert run_command([*given, "--tile-encoder", str(bad)]) == 1
    message = capsys.readouterr().err
    assert "refused" in message
    assert "mkdir" in message
    assert "if you trust the file" in message
    assert not marker.exists()
    assert not (tmp_path / "out.ckpt").exists()


def test_settings_of_libraries_that_are_not_installed_are_passed_over(tmp_path: Path) -> None:
    """addict's dictionaries, in which the published code keeps its configuration."""

    class Dict(dict):
        def __getnewargs__(self):
            return tuple(self.items())

        def __setstate__(self, state):
            self.update(state)

        def __getstate__(self):
            return dict(self)

    addict: Any = types.ModuleType("addict.addict")
    addict.Dict, Dict.__module__, Dict.__qualname__ = Dict, "addict.addict", "Dict"
    path = tmp_path / "official.ckpt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "addict", types.ModuleType("addict"))
        patch.setitem(sys.modules, "addict.addict", addict)
        nested = Dict(MODEL=Dict(depth1=1), size=np.int64(3))
        torch.save({"hyper_parameters": nested, "state_dict": {"w": torch.ones(2)}}, path)
    assert "addict" not in sys.modules
    assert load_state_dict(path)["w"].tolist() == [1.0, 1.0]
    with pytest.raises(CheckpointError, match="refused"):
        read_checkpoint(path)  # our own files hold none of it


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": "text"}}, tmp_path / "text.ckpt")
    with pytest.raises(CheckpointError, match="no state dict of tensors"):
        load_state_dict(tmp_path / "text.ckpt")

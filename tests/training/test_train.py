import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from triplex_deploy.contract import ModelConfig
from triplex_deploy.errors import CheckpointError, ConfigError, OutputError
from triplex_deploy.models import read_checkpoint
from triplex_deploy.models.triplex import Triplex
from triplex_deploy.training.batches import SpotSampler, augment_tiles
from triplex_deploy.training.loop import make_fabric
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions
from triplex_deploy.training.prepared import Prepared
from triplex_deploy.training.train import train_fold

CONFIG = ModelConfig(
    n_genes=3,
    global_depth=2,
    global_mlp_ratio=1.0,
    neighbor_depth=1,
    fusion_mlp_ratio=1.0,
)
OPTIONS = TrainOptions(selection="test_fold", epochs=3, batch_size=7, patience=3)


def test_lightning_does_not_announce_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_fabric import Fabric

    logger = logging.getLogger("lightning_fabric")
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logger.setLevel(logging.INFO)  # as its import does
    monkeypatch.setattr(logger, "handlers", [handler])
    make_fabric(replace(OPTIONS, precision="bf16-mixed"))
    assert seen == []
    assert logger.level == logging.INFO
    Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    assert seen == ["Using bfloat16 Automatic Mixed Precision (AMP)"]


@pytest.fixture(scope="module")
def prepared(st_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    out = tmp_path_factory.mktemp("prepared") / "prepared"
    return prepare_dataset(st_root, out, PrepareOptions(layout="st", n_genes=3))


@pytest.fixture(scope="module")
def run(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of the first fold."""
    out = tmp_path_factory.mktemp("run") / "fold-0"
    train_fold(prepared, prepared.folds[0], out, CONFIG, OPTIONS)
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "state.pt", weights_only=True)["model"]


def test_run_leaves_checkpoint_history_curves_and_metrics(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["selection"] == "test_fold"
    assert metrics["tested_on"] == ["A1"] == metrics["selected_on"]
    assert metrics["constant"]["pcc_m"] is None
    assert metrics["constant"]["mse"] > 0
    assert len(metrics["model"]["pcc"]) == 3
    checkpoint = read_checkpoint(run / "checkpoint.ckpt")
    assert checkpoint.genes == tuple(metrics["genes"])
    assert checkpoint.label_transform["log"] == "log10"
    assert checkpoint.provenance["epoch"] == metrics["best_epoch"]
    assert len((run / "history.csv").read_text().splitlines()) == 1 + OPTIONS.epochs
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def train_apart(prepared: Prepared, out: Path, resume: bool = False, die: bool = False) -> int:
    """Train in an interpreter of its own and return how it ended.

    Sums depend on the threads that share them, and tests before this one may have changed those.
    """
    script = f"""
import os, signal, torch
from pathlib import Path
torch.set_num_threads(1)
from triplex_deploy.training import batches
from triplex_deploy.training.prepared import open_prepared
from triplex_deploy.training.train import train_fold
from tests.training.test_train import CONFIG, OPTIONS

epoch = batches.SpotSampler.epoch
def dying(self, number, *share):
    for step, batch in enumerate(epoch(self, number, *share)):
        if {die} and (number, step) == (2, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch
batches.SpotSampler.epoch = dying
prepared = open_prepared({str(prepared.path)!r})
train_fold(prepared, prepared.folds[0], Path({str(out)!r}), CONFIG, OPTIONS, resume={resume})
"""
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([sys.executable, "-c", script], cwd=root, env=dict(os.environ)).returncode


@pytest.mark.slow
def test_run_killed_within_an_epoch_resumes_to_the_same_weights(
    prepared: Prepared, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train_apart(prepared, whole) == 0
    assert train_apart(prepared, killed, die=True) == -signal.SIGKILL
    assert len((killed / "history.csv").read_text().splitlines()) == 1 + 2
    assert train_apart(prepared, killed, resume=True) == 0
    for key, value in weights(whole).items():
        torch.testing.assert_close(weights(killed)[key], value, rtol=0, atol=0, msg=key)
    assert (killed / "history.csv").read_text() == (whole / "history.csv").read_text()


def test_resume_refuses_other_options(prepared: Prepared, run: Path) -> None:
    other = replace(OPTIONS, learning_rate=1e-3)
    with pytest.raises(CheckpointError, match="learning_rate differ"):
        train_fold(prepared, prepared.folds[0], run, CONFIG, other, resume=True)


def test_resume_refuses_another_model(prepared: Prepared, run: Path) -> None:
    deeper = replace(CONFIG, global_depth=3)
    with pytest.raises(CheckpointError, match="global_depth differ"):
        train_fold(prepared, prepared.folds[0], run, deeper, OPTIONS, resume=True)


def test_existing_run_is_not_overwritten(prepared: Prepared, run: Path) -> None:
    with pytest.raises(OutputError, match="--resume"):
        train_fold(prepared, prepared.folds[0], run, CONFIG, OPTIONS)


def test_honest_selection_never_sees_the_test_section(prepared: Prepared, tmp_path: Path) -> None:
    options = replace(OPTIONS, selection="validation", epochs=1)
    metrics = train_fold(prepared, prepared.folds[0], tmp_path / "run", CONFIG, options)
    assert metrics["selection"] == "validation"
    assert set(metrics["fitted_on"]) | set(metrics["selected_on"]) == {"B1", "C1"}
    assert "XIST" not in metrics["genes"]


def test_gene_count_must_be_the_prepared_one(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="3 were prepared"):
        train_fold(prepared, prepared.folds[0], tmp_path, replace(CONFIG, n_genes=4), OPTIONS)


def test_every_epoch_draws_every_spot_once_in_its_own_order(prepared: Prepared) -> None:
    sections = list(prepared.sections.values())
    labels = [np.zeros((6, 3), np.float32)] * 3
    sampler = SpotSampler(sections, labels, batch_size=7, seed=0, augment=False)
    epochs = []
    for epoch in (0, 1):
        batches = list(sampler.epoch(epoch))
        assert [len(batch.row) for batch in batches] == [7, 7, 4]
        epochs.append(
            [(int(s), int(r)) for b in batches for s, r in zip(b.section, b.row, strict=True)]
        )
    assert sorted(epochs[0]) == [(s, r) for s in range(3) for r in range(6)]
    assert epochs[0] != epochs[1]
    first = next(iter(sampler.epoch(0)))
    for i, (s, row) in enumerate(epochs[0][:7]):
        np.testing.assert_array_equal(first.tiles[i], sections[s].tiles[row])


def test_processes_share_each_batch(prepared: Prepared) -> None:
    sections = list(prepared.sections.values())
    labels = [np.zeros((6, 3), np.float32)] * 3
    sampler = SpotSampler(sections, labels, batch_size=6, seed=0, augment=False)
    whole, halves = next(sampler.epoch(0)), [next(sampler.epoch(0, rank, 2)) for rank in (0, 1)]
    assert [len(half.row) for half in halves] == [3, 3]
    together = torch.cat([half.section * 10 + half.row for half in halves])
    assert sorted(together.tolist()) == sorted((whole.section * 10 + whole.row).tolist())


def test_augmentation_reaches_all_eight_orientations() -> None:
    tile = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1).repeat(3, axis=3)
    tiles = augment_tiles(tile.repeat(200, axis=0), np.random.default_rng(0))
    assert len({each.tobytes() for each in tiles}) == 8


def test_command_trains_a_fold_and_prints_the_constant_beside_it(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from triplex_deploy.cli.main import run as run_command

    small = ("global_depth=2", "neighbor_depth=1", "global_mlp_ratio=1", "fusion_mlp_ratio=1")
    arguments = ["train", str(prepared.path), "--out", str(tmp_path), "--epochs", "1"]
    arguments += [part for setting in small for part in ("--set", setting)]
    assert run_command([*arguments, "--selection", "test_fold"]) == 0
    text = capsys.readouterr().out
    assert "test_fold selection" in text
    assert "constant predictor MSE" in text
    assert run_command([*arguments, "--fold", "3"]) == 1
    assert "folds 0 to 2" in capsys.readouterr().err


def test_share_of_an_indivisible_batch_is_as_large_as_the_others(prepared: Prepared) -> None:
    sections = list(prepared.sections.values())
    labels = [np.zeros((6, 3), np.float32)] * 3
    sampler = SpotSampler(sections, labels, batch_size=17, seed=0, augment=False)
    shares = [list(sampler.epoch(0, rank, 4)) for rank in range(4)]
    assert [[len(batch.row) for batch in share] for share in shares] == [[5, 1]] * 4
    first = {(int(s), int(r)) for share in shares for s, r in zip(*share[0][3:5], strict=True)}
    assert len(first) == 17


GEM = replace(CONFIG, model="gem")
AVERAGED = TrainOptions(epochs=4, batch_size=7, patience=2, refit=True, ema_decay=0.9)


@pytest.fixture(scope="module")
def refitted(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refit") / "fold-0"
    train_fold(prepared, prepared.folds[0], out, GEM, AVERAGED)
    return out


def test_refit_trains_on_all_sections_for_the_epochs_chosen_on_one(refitted: Path) -> None:
    metrics = json.loads((refitted / "metrics.json").read_text())
    assert metrics["refit"]
    assert metrics["fitted_on"] == ["B1", "C1"]
    assert metrics["selected_on"] in (["B1"], ["C1"])
    choice = torch.load(refitted / "selecting" / "state.pt", weights_only=True)["record"]
    assert metrics["epochs"] == choice["best_epoch"] + 1
    assert "select_pcc" in (refitted / "selecting" / "history.csv").read_text()
    assert "select_pcc" not in (refitted / "history.csv").read_text()


def test_checkpoint_holds_the_running_mean_of_the_weights(refitted: Path) -> None:
    state = torch.load(refitted / "state.pt", weights_only=True)
    kept = read_checkpoint(refitted / "checkpoint.ckpt").state_dict["expression_head.weight"]
    torch.testing.assert_close(kept, state["mean"]["module.expression_head.weight"])
    assert not torch.equal(kept, state["model"]["expression_head.weight"])


def test_averaged_refit_resumes_to_the_same_weights(
    prepared: Prepared, refitted: Path, tmp_path: Path
) -> None:
    class InterruptedRunError(Exception):
        pass

    class StopAfter:
        """Progress that interrupts the run once ``advances`` epochs have passed."""

        def __init__(self, advances: int) -> None:
            self.left = advances

        def start(self, stage: str, total: int) -> None:
            pass

        def advance(self, n: int) -> None:
            self.left -= n
            if self.left == 0:
                raise InterruptedRunError

    fold, again = prepared.folds[0], tmp_path / "again"
    for advances in (1, 2):  # each time from the start of the stage it had reached
        with pytest.raises(InterruptedRunError):
            train_fold(prepared, fold, again, GEM, AVERAGED, StopAfter(advances), again.exists())
    train_fold(prepared, fold, again, GEM, AVERAGED, resume=True)
    whole, resumed = (read_checkpoint(run / "checkpoint.ckpt") for run in (refitted, again))
    for key, value in whole.state_dict.items():
        assert torch.equal(resumed.state_dict[key], value), key


def test_frozen_backbone_stays_as_it_was_and_its_maps_are_computed_once(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triplex_deploy.training.frozen_backbone import BackboneMaps
    from triplex_deploy.training.prepared import PreparedSection

    computed = []
    compute = BackboneMaps._compute

    def counting(self: BackboneMaps, section: PreparedSection) -> torch.Tensor:
        computed.append(section.measured.name)
        return compute(self, section)

    monkeypatch.setattr(BackboneMaps, "_compute", counting)
    options = replace(OPTIONS, epochs=2, augment=False, backbone_lr_scale=0.0)
    config = replace(CONFIG, model="tem")
    train_fold(prepared, prepared.folds[0], tmp_path / "run", config, options)
    assert len(computed) == len(set(computed)) == 3
    trained = read_checkpoint(tmp_path / "run" / "checkpoint.ckpt")
    for key, value in trained.tile_encoder.state_dict.items():
        assert torch.equal(trained.state_dict[f"target_encoder.backbone.{key}"], value), key


def test_refit_needs_an_honest_selection() -> None:
    with pytest.raises(ConfigError, match="refit: needs selection=validation"):
        TrainOptions(selection="test_fold", refit=True)


def test_hidden_features_are_at_their_mean_while_training_alone(prepared: Prepared) -> None:
    from triplex_deploy.models import build_model
    from triplex_deploy.training.objectives import TriplexObjective

    sections = list(prepared.sections.values())
    model = build_model(GEM, seed=0)
    assert isinstance(model, Triplex)
    objective = TriplexObjective(model, sections, feature_dropout=0.5)
    features = torch.from_numpy(sections[0].spot_features())
    mean = objective.get_buffer("feature_mean")
    hidden = (objective._hide(features) == mean).float().mean()
    assert 0.4 < float(hidden) < 0.6
    assert torch.equal(objective.eval()._hide(features), features)

"""The models TRIPLEX is compared with, trained: each tiny, on three sections of six spots."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from triplex_deploy.contract import (
    BleepConfig,
    Config,
    EgnConfig,
    Hist2StConfig,
    HisToGeneConfig,
    StNetConfig,
)
from triplex_deploy.data import Fold
from triplex_deploy.errors import ConfigError, DatasetError
from triplex_deploy.models import bleep, build, read_checkpoint, st_net
from triplex_deploy.models.st_net import StNet
from triplex_deploy.tiles.spot_tables import adjacency_index
from triplex_deploy.training.bank import bank_metadata, check_bank
from triplex_deploy.training.batches import SectionSampler, SpotSampler
from triplex_deploy.training.evaluate import evaluate_run
from triplex_deploy.training.images import normalize_tiles
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.predict_section import predict_section
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions
from triplex_deploy.training.prepared import Prepared, PreparedSection, label_sections
from triplex_deploy.training.train import train_fold

SHARED: dict[str, Any] = {"n_genes": 3, "feature_dim": 3}
CONFIGS: dict[str, Config] = {
    "st_net": StNetConfig(**SHARED),
    "his_to_gene": HisToGeneConfig(
        **SHARED, n_positions=2, embedding_dim=16, depth=1, heads=2, mlp_dim=16
    ),
    "hist2st": Hist2StConfig(
        **SHARED,
        channels=8,
        embedding_dim=256,
        mlp_dim=256,
        depth=1,
        heads=2,
        mixer_depth=1,
        graph_depth=1,
    ),
    "egn": EgnConfig(
        **SHARED,
        embedding_dim=16,
        depth=2,
        heads=2,
        mlp_dim=16,
        bridge_heads=2,
        bridge_head_dim=4,
        n_exemplars=3,
    ),
    "bleep": BleepConfig(**SHARED, embedding_dim=16, n_retrieved=2),
}
OPTIONS = TrainOptions(selection="test_fold", epochs=2, batch_size=7, patience=3)


class SmallBackbone(nn.Module):
    """As wide a map as ResNet18's, of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 512, 32, stride=32)
        self.norm = nn.BatchNorm2d(512, momentum=None)  # from few steps, in full

    def feature_map(self, images: Tensor) -> Tensor:
        values: Tensor = self.norm(self.layer(images))
        return 30 * values  # noise averages out over a tile: what is left has to count


@pytest.fixture(scope="module", autouse=True)
def _small_backbones() -> Iterator[None]:
    """The published backbones have tests of their own; here smaller ones stand for them."""

    def small(config: StNetConfig) -> StNet:
        return StNet(config, growth=4, blocks=(1, 1, 1, 1), stem_channels=8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(st_net, "small", small, raising=False)
        patch.setattr(StNetConfig, "network", "triplex_deploy.models.st_net:small")
        patch.setattr(bleep, "make_backbone", lambda name: SmallBackbone())
        yield


@pytest.fixture(scope="module")
def prepared(
    st_root: Path, mean_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    """Features are the three channel means."""
    out = tmp_path_factory.mktemp("prepared") / "prepared"
    options = PrepareOptions(layout="st", n_genes=3, tile_encoder=mean_encoder)
    return prepare_dataset(st_root, out, options)


@pytest.fixture(scope="module")
def runs(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The first fold's run of each model: fitted on B1 and C1, tested on A1."""
    root = tmp_path_factory.mktemp("runs")
    for name, config in CONFIGS.items():
        train_fold(prepared, prepared.folds[0], root / name / "fold-0", config, OPTIONS)
    return {name: root / name / "fold-0" for name in CONFIGS}


def history_of(run: Path) -> list[dict[str, float]]:
    with (run / "history.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def state_of(run: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run / "state.pt", weights_only=True)["model"]
    return state


@pytest.mark.parametrize("name", CONFIGS)
def test_checkpoint_scores_what_its_epoch_did_in_memory(name: str, runs: dict[str, Path]) -> None:
    summary = evaluate_run(runs[name].parent)
    checkpoint = read_checkpoint(runs[name] / "checkpoint.ckpt")
    assert checkpoint.config.model == name
    best = history_of(runs[name])[checkpoint.provenance["epoch"]]
    assert summary["model"]["mse"]["mean"] == pytest.approx(best["select_mse"], rel=1e-5)
    assert summary["model"]["pcc_m"]["mean"] == pytest.approx(
        best["select_pcc"], abs=1e-4, nan_ok=True
    )


def own_prediction(model: Any, section: PreparedSection) -> Tensor:
    """What the model's ``forward`` says of a whole section; EGN's exemplars are looked up here."""
    images = normalize_tiles(torch.from_numpy(np.array(section.tiles)))
    places = torch.from_numpy(section.measured.grid_rc[:, ::-1].copy())
    result: Tensor
    if isinstance(model.config, HisToGeneConfig):
        result = model(images, places)
    elif isinstance(model.config, Hist2StConfig):
        result = model(images, places, torch.from_numpy(adjacency_index(section.measured.grid_rc)))
    elif isinstance(model.config, EgnConfig):
        features = torch.from_numpy(section.spot_features())
        bank = model.exemplars
        rows = torch.cdist(features, bank.bank_features).topk(3, largest=False).indices
        result = model(images, features, bank.bank_features[rows], bank.bank_expression[rows])
    else:
        result = model(images)
    return result


@pytest.mark.parametrize("name", CONFIGS)
def test_section_is_predicted_as_by_the_model_itself(
    name: str, prepared: Prepared, runs: dict[str, Path]
) -> None:
    model = read_checkpoint(runs[name] / "checkpoint.ckpt").build_model()
    if model.has_bank:  # labels smoothed over six spots are too alike to choose among
        generator = torch.Generator().manual_seed(0)
        model.set_reference_bank(*(5 * torch.randn(30, 3, generator=generator) for _ in range(2)))
    section = prepared.sections["A1"]
    with torch.inference_mode():
        expected = own_prediction(model, section).numpy()
    np.testing.assert_allclose(predict_section(model, section), expected, atol=1e-5)
    assert expected.std(axis=0).max() > 1e-4


SEQUENCES = ("his_to_gene", "hist2st")


def test_sequence_models_know_every_place_of_the_data_set(runs: dict[str, Path]) -> None:
    """Columns reach 4: five places where the user asked for two, and never less than asked."""
    configs = [read_checkpoint(runs[name] / "checkpoint.ckpt").config for name in SEQUENCES]
    assert [getattr(config, "n_positions", None) for config in configs] == [5, 64]


BANK_OF = {"egn": "exemplars.bank_features", "bleep": "retrieval.bank_embeddings"}


@pytest.mark.parametrize(("name", "key"), BANK_OF.items())
def test_bank_holds_the_spots_fitted_on_and_says_whose_they_are(
    name: str, key: str, prepared: Prepared, runs: dict[str, Path]
) -> None:
    checkpoint = read_checkpoint(runs[name] / "checkpoint.ckpt")
    fitted = label_sections(prepared, ("B1", "C1"), checkpoint.genes)
    labels = checkpoint.state_dict[key.partition(".")[0] + ".bank_expression"]
    np.testing.assert_array_equal(labels.numpy(), np.concatenate(fitted.labels))
    assert isinstance(checkpoint.config, EgnConfig | BleepConfig)
    assert len(checkpoint.state_dict[key]) == checkpoint.config.bank_size == 12
    assert checkpoint.provenance["bank"] == bank_metadata(fitted)
    assert checkpoint.provenance["bank"]["sections"] == ["B1", "C1"]
    other = bank_metadata(label_sections(prepared, ("C1", "B1"), checkpoint.genes))
    assert other["sha256"] != checkpoint.provenance["bank"]["sha256"]


def test_refit_fills_the_bank_with_all_training_sections(
    prepared: Prepared, tmp_path: Path
) -> None:
    options = replace(OPTIONS, selection="validation", refit=True)
    train_fold(prepared, prepared.folds[0], tmp_path / "run", CONFIGS["bleep"], options)
    chosen, final = (
        read_checkpoint(folder / "checkpoint.ckpt")
        for folder in (tmp_path / "run" / "selecting", tmp_path / "run")
    )
    assert isinstance(chosen.config, BleepConfig)
    assert isinstance(final.config, BleepConfig)
    assert (chosen.config.bank_size, final.config.bank_size) == (6, 12)
    assert chosen.provenance["bank"]["sections"] == chosen.provenance["fitted_on"]
    assert final.provenance["bank"]["sections"] == ["B1", "C1"]


PATIENT_OF = {"A1": "A", "A2": "A", "B1": "B"}


@pytest.mark.parametrize(
    ("fitted", "shares", "message"),
    [
        (("A1", "B1"), True, "A1 would be looked up"),
        (("A2", "B1"), False, "patients A would be looked up"),
    ],
)
def test_label_to_be_tested_on_never_is_in_the_bank(
    fitted: tuple[str, ...], shares: bool, message: str
) -> None:
    fold = Fold(0, "A1", fitted, ("A1",), shares_patients=shares)
    with pytest.raises(DatasetError, match=message):
        check_bank(fold, fitted, PATIENT_OF)
    check_bank(fold, ("B1",), PATIENT_OF)
    check_bank(replace(fold, shares_patients=True), ("A2", "B1"), PATIENT_OF)


def test_training_checks_the_bank(prepared: Prepared, tmp_path: Path) -> None:
    leaking = Fold(0, "A", ("A1", "B1", "C1"), ("A1",), shares_patients=True)
    with pytest.raises(DatasetError, match="A1 would be looked up and tested on"):
        train_fold(prepared, leaking, tmp_path / "run", CONFIGS["bleep"], OPTIONS)


def of_one_patient(prepared: Prepared) -> Prepared:
    sections = {
        name: replace(section, measured=replace(section.measured, patient="A"))
        for name, section in prepared.sections.items()
    }
    return replace(prepared, sections=sections)


def test_exemplars_of_one_patient_are_refused_until_only_the_slide_is_excluded(
    prepared: Prepared, tmp_path: Path
) -> None:
    one_patient, config = of_one_patient(prepared), CONFIGS["egn"]
    fold = Fold(0, "A1", ("B1", "C1"), ("A1",), shares_patients=True)
    options = replace(OPTIONS, epochs=1)
    with pytest.raises(DatasetError, match=r"all 2 training sections are of patient A; .*slide"):
        train_fold(one_patient, fold, tmp_path / "run", config, options)
    by_slide = replace(config, exclude="slide")  # type: ignore[call-arg]
    metrics = train_fold(one_patient, fold, tmp_path / "run", by_slide, options)
    assert metrics["shares_patients"]


class InterruptedRunError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("name", ["hist2st", "egn", "bleep"])
def test_run_killed_within_an_epoch_resumes_to_the_same_weights(
    name: str,
    prepared: Prepared,
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = SectionSampler if name == "hist2st" else SpotSampler
    epoch = sampler.epoch

    def dying(self: Any, number: int, *share: int) -> Iterator[Any]:
        for step, batch in enumerate(epoch(self, number, *share)):
            if (number, step) == (1, 1):
                raise InterruptedRunError
            yield batch

    arguments = (prepared, prepared.folds[0], tmp_path / "run", CONFIGS[name], OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "epoch", dying)
        with pytest.raises(InterruptedRunError):
            train_fold(*arguments)
    assert len(history_of(tmp_path / "run")) == 1
    train_fold(*arguments, resume=True)
    whole, resumed = state_of(runs[name]), state_of(tmp_path / "run")
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
    histories = [(run / "history.csv").read_text() for run in (tmp_path / "run", runs[name])]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_half_precision_trains_on_a_cpu(name: str, prepared: Prepared, tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=1, precision="bf16-mixed")
    train_fold(prepared, prepared.folds[0], tmp_path / "run", CONFIGS[name], options)
    state = state_of(tmp_path / "run")
    assert all(torch.isfinite(value).all() for value in state.values())
    assert {value.dtype for value in state.values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize("name", ["st_net", "bleep"])
def test_frozen_backbone_keeps_weights_and_statistics(
    name: str, prepared: Prepared, tmp_path: Path
) -> None:
    options = replace(OPTIONS, epochs=1, backbone_lr_scale=0.0)
    train_fold(prepared, prepared.folds[0], tmp_path / "run", CONFIGS[name], options)
    trained = state_of(tmp_path / "run")
    start = build.build_model(CONFIGS[name], options.seed).state_dict()
    for key, value in start.items():
        is_frozen = key.startswith("backbone.")
        assert torch.equal(trained[key], value) == is_frozen, key


def test_sections_come_whole_unturned_and_in_another_order_each_epoch(prepared: Prepared) -> None:
    sections = list(prepared.sections.values()) * 2
    labels = [np.full((6, 3), number, np.float32) for number in range(6)]
    sampler = SectionSampler(sections, labels, seed=0)
    orders = [[int(batch.section[0]) for batch in sampler.epoch(epoch)] for epoch in (0, 1)]
    assert sorted(orders[0]) == [0, 1, 2, 3, 4, 5]
    assert orders[0] != orders[1]
    first = next(iter(sampler.epoch(0)))
    assert first.row.tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(first.tiles, sections[orders[0][0]].tiles)
    np.testing.assert_array_equal(first.labels, labels[orders[0][0]])
    shares = [[int(batch.section[0]) for batch in sampler.epoch(0, rank, 4)] for rank in range(4)]
    assert [len(share) for share in shares] == [2] * 4  # as many steps, or processes would wait
    assert {number for share in shares for number in share} == {0, 1, 2, 3, 4, 5}


def test_counts_are_raw_and_in_the_order_of_the_panel(prepared: Prepared) -> None:
    panel = ("MUC1", "GNAS", "NOT_MEASURED")
    (counts,) = label_sections(prepared, ("B1",), panel).counts()
    table = prepared.sections["B1"].measured
    dense = table.counts.toarray()
    np.testing.assert_array_equal(counts[:, 0], dense[:, table.genes.index("MUC1")])
    np.testing.assert_array_equal(counts[:, 1], dense[:, table.genes.index("GNAS")])
    assert (counts[:, 2] == 0).all()
    assert counts[:, 1].max() > 3


def test_models_that_hide_no_features_refuse_to(prepared: Prepared, tmp_path: Path) -> None:
    options = replace(OPTIONS, feature_dropout=0.3)
    with pytest.raises(ConfigError, match=r"feature_dropout=0\.3: egn hides no features"):
        train_fold(prepared, prepared.folds[0], tmp_path / "run", CONFIGS["egn"], options)


def test_size_of_the_bank_is_not_the_users_to_say(prepared: Prepared, tmp_path: Path) -> None:
    config = BleepConfig(**SHARED, bank_size=99)
    with pytest.raises(ConfigError, match="bank_size: training sets it"):
        train_fold(prepared, prepared.folds[0], tmp_path / "run", config, OPTIONS)

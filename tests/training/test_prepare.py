import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from triplex_deploy.contract import IMAGE_MEAN, IMAGE_STD
from triplex_deploy.errors import DatasetError
from triplex_deploy.expression import LabelTransform
from triplex_deploy.runtime.backends import OPENVINO
from triplex_deploy.runtime.cpu_choice import has_fast_bf16
from triplex_deploy.training import encode_section as encoding
from triplex_deploy.training.features import FeatureFile
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions
from triplex_deploy.training.prepared import Prepared, open_prepared

from .conftest import center_xy


@pytest.fixture
def options(mean_encoder: Path) -> PrepareOptions:
    return PrepareOptions(layout="st", n_genes=3, tile_encoder=mean_encoder, batch_size=8)


@pytest.fixture
def prepared(st_root: Path, tmp_path: Path, options: PrepareOptions) -> Prepared:
    return prepare_dataset(st_root, tmp_path / "prepared", options)


def crop(pixels: np.ndarray, x: int, y: int) -> np.ndarray:
    """The tile at (x, y) with zeros outside the image."""
    padded = np.pad(pixels, ((1200, 1200), (1200, 1200), (0, 0)))
    return padded[y + 1200 : y + 1424, x + 1200 : x + 1424]


def channel_means(tile: np.ndarray) -> np.ndarray:
    return (tile.mean(axis=(0, 1)) / 255 - IMAGE_MEAN) / IMAGE_STD


def test_features_are_those_of_the_tiles_around_each_spot(prepared: Prepared) -> None:
    section = prepared.sections["B1"]
    pixels = np.asarray(Image.open(section.measured.slide_path))
    rows = np.arange(section.measured.n_spots)
    neighbors = section.neighbor_features(rows)
    assert neighbors.shape == (6, 25, 3)
    for row, name in enumerate(section.measured.spot_names):
        x, y = center_xy(*map(int, name.split("x")))
        np.testing.assert_array_equal(section.tiles[row], crop(pixels, x - 112, y - 112))
        for n in range(25):
            tile = crop(pixels, x - 560 + 224 * (n % 5), y - 560 + 224 * (n // 5))
            if not section.neighbor_mask[row, n]:
                tile = np.broadcast_to(np.array((124, 116, 104)), tile.shape)
            np.testing.assert_allclose(neighbors[row, n], channel_means(tile), atol=1e-4)
    np.testing.assert_array_equal(section.spot_features(), neighbors[:, 12])
    assert 0 < section.neighbor_mask.sum() < section.neighbor_mask.size


def test_shared_tiles_are_encoded_once(prepared: Prepared) -> None:
    section = prepared.sections["A1"]
    assert len(section.features) < section.neighbor_mask.sum() / 2


def test_labels_follow_the_recorded_transform(prepared: Prepared) -> None:
    section = prepared.sections["A1"]
    panel = ("GNAS", "MUC1")
    counts = section.measured.panel_counts(panel)
    expected = LabelTransform()(counts, section.measured.grid_rc)
    labels = section.labels(panel, prepared.label_transform)
    np.testing.assert_allclose(labels, expected, rtol=1e-6)
    assert labels.dtype == np.float32


def test_honest_genes_come_from_the_training_patients_alone(prepared: Prepared) -> None:
    without_a = prepared.folds[0]
    assert without_a.name == "A"
    assert "XIST" in prepared.panel(without_a, "test_fold")
    assert "XIST" not in prepared.panel(without_a, "validation")


def test_folds_and_scale_are_recorded(prepared: Prepared) -> None:
    assert [fold.name for fold in prepared.folds] == ["A", "B", "C"]
    assert prepared.tile_mpp == pytest.approx(200 / 224, abs=1e-4)
    assert prepared.feature_dim == 3
    assert prepared.tile_encoder_path.is_file()


def test_second_run_encodes_nothing(
    st_root: Path, prepared: Prepared, options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "stream_tiles", None)
    again = prepare_dataset(st_root, prepared.path, options)
    np.testing.assert_array_equal(again.sections["C1"].features, prepared.sections["C1"].features)


def test_other_scale_encodes_again(
    st_root: Path, prepared: Prepared, options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "stream_tiles", None)
    with pytest.raises(TypeError):
        prepare_dataset(st_root, prepared.path, replace(options, tile_mpp=1.0))
    with pytest.raises(DatasetError, match="not finished"):
        open_prepared(prepared.path)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("calls", [1, 2, 4])
def test_interrupted_section_goes_on_where_it_stopped(
    calls: int,
    workers: int,
    st_root: Path,
    tmp_path: Path,
    prepared: Prepared,
    options: PrepareOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = replace(options, threads=workers)
    put = FeatureFile.put
    stored: list[int] = []

    def dying(self: FeatureFile, tile_index: np.ndarray, *arrays: np.ndarray) -> None:
        if len(stored) == calls:
            raise KeyboardInterrupt
        counting(self, tile_index, *arrays)

    def counting(self: FeatureFile, tile_index: np.ndarray, *arrays: np.ndarray) -> None:
        stored.append(len(tile_index))
        put(self, tile_index, *arrays)

    out = tmp_path / "interrupted"
    monkeypatch.setattr(FeatureFile, "put", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(st_root, out, options)
    with pytest.raises(DatasetError, match="not finished"):
        open_prepared(out)

    monkeypatch.setattr(FeatureFile, "put", counting)
    resumed = prepare_dataset(st_root, out, options)
    assert sum(stored) == sum(len(section.features) for section in prepared.sections.values())
    for name, section in prepared.sections.items():
        np.testing.assert_array_equal(resumed.sections[name].features, section.features)
        np.testing.assert_array_equal(resumed.sections[name].tiles, section.tiles)


def test_features_record_their_precision_and_only_equal_ones_are_used_again(
    st_root: Path,
    tmp_path: Path,
    options: PrepareOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not OPENVINO.is_installed or not has_fast_bf16():
        pytest.skip("bf16 needs OpenVINO and a CPU that multiplies it")
    put = FeatureFile.put
    stored: list[int] = []

    def counting(self: FeatureFile, tile_index: np.ndarray, *arrays: np.ndarray) -> None:
        stored.append(len(tile_index))
        put(self, tile_index, *arrays)

    monkeypatch.setattr(FeatureFile, "put", counting)
    exact = prepare_dataset(st_root, tmp_path / "out", options)
    first = {name: np.array(section.features) for name, section in exact.sections.items()}
    assert "precision" not in exact.tile_encoder  # as in data sets prepared before bf16
    reduced = prepare_dataset(st_root, tmp_path / "out", replace(options, precision="bf16"))
    assert reduced.tile_encoder["precision"] == "bf16"
    metadata = json.loads((reduced.path / "sections/A1/section.json").read_text())
    assert (metadata["precision"], metadata["backend"]) == ("bf16", "openvino")
    assert sum(stored) == 2 * sum(map(len, first.values()))  # nothing was used again
    again = prepare_dataset(st_root, tmp_path / "out", options)
    for name, section in again.sections.items():
        np.testing.assert_array_equal(section.features, first[name])


def test_features_without_a_recorded_precision_are_fp32(
    st_root: Path, prepared: Prepared, options: PrepareOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in prepared.sections:
        path = prepared.path / "sections" / name / "section.json"
        metadata = json.loads(path.read_text())
        del metadata["precision"], metadata["backend"]
        path.write_text(json.dumps(metadata))
    before = (prepared.path / "prepared.json").read_text()
    monkeypatch.setattr(encoding, "stream_tiles", None)
    prepare_dataset(st_root, prepared.path, options)
    assert (prepared.path / "prepared.json").read_text() == before


def test_gene_list_is_kept_in_its_order(st_root: Path, tmp_path: Path, mean_encoder: Path) -> None:
    genes = tmp_path / "genes.txt"
    genes.write_text("MUC1\nGNAS\n\n")
    options = PrepareOptions(layout="st", gene_list=genes, tile_encoder=mean_encoder)
    prepared = prepare_dataset(st_root, tmp_path / "out", options)
    assert prepared.panel(prepared.folds[0], "validation") == ("MUC1", "GNAS")
    assert prepared.n_genes == 2


def test_impossible_request_fails_before_anything_is_encoded(
    st_root: Path, tmp_path: Path, mean_encoder: Path
) -> None:
    options = PrepareOptions(layout="st", n_genes=5, tile_encoder=mean_encoder)
    with pytest.raises(DatasetError, match="hold 4"):
        prepare_dataset(st_root, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_altered_manifest_is_refused(prepared: Prepared) -> None:
    path = prepared.path / "prepared.json"
    content = json.loads(path.read_text())
    del content["tile"]["mpp"]
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="incomplete or altered"):
        open_prepared(prepared.path)


def test_command_prints_what_it_prepared(
    st_root: Path, tmp_path: Path, mean_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from triplex_deploy.cli.main import run

    arguments = ["prepare", str(st_root), "--format", "st", "--genes", "2", "--folds", "sections"]
    arguments += ["--tile-encoder", str(mean_encoder), "--out", str(tmp_path / "out"), "--json"]
    assert run(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["sections"] == ["A1", "B1", "C1"]
    assert summary["spots"] == 18
    assert summary["tile_encoder"]["feature_dim"] == 3
    assert [fold["test"] for fold in summary["folds"]] == [["A1"], ["B1"], ["C1"]]


@pytest.mark.slow
def test_real_sections_are_prepared_with_one_pass_per_tile(
    shared_data: Path, tmp_path: Path, byte_encoder: Path
) -> None:
    table = tmp_path / "sections.csv"
    table.write_text("section,patient\nC4,C\nC5,C\n")
    options = PrepareOptions(
        layout="st", section_list=table, folds="sections", tile_encoder=byte_encoder
    )
    prepared = prepare_dataset(shared_data / "her2st", tmp_path / "out", options)
    assert [section.measured.n_spots for section in prepared.sections.values()] == [184, 181]
    assert prepared.tile_mpp == pytest.approx(0.688, abs=0.001)
    panel = prepared.panel(prepared.folds[1], "validation")
    assert len(panel) == 250
    assert {"GNAS", "ERBB2", "FASN"} <= set(panel)
    labels = prepared.sections["C5"].labels(panel, prepared.label_transform)
    assert labels.shape == (181, 250)
    assert 0 <= labels.min() <= labels.max() < 4

"""Shared neighborhoods from data to prediction: recorded everywhere, the same tiles everywhere."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from triplex_deploy import PredictOptions, load_bundle, open_slide, predict_slide
from triplex_deploy.bundle import Bundle
from triplex_deploy.cli.main import run as run_command
from triplex_deploy.contract import ModelConfig, Neighborhood, StNetConfig
from triplex_deploy.errors import ConfigError
from triplex_deploy.exporters import parity
from triplex_deploy.exporters.export import export_bundle
from triplex_deploy.exporters.triton import write_repository
from triplex_deploy.exporters.triton_templates import client
from triplex_deploy.models import read_checkpoint, write_checkpoint
from triplex_deploy.outputs.report import render_report
from triplex_deploy.pipeline.feature_cache import open_cache
from triplex_deploy.spots import read_spots
from triplex_deploy.tiles import SlideView, plan_tiles
from triplex_deploy.training.options import TrainOptions
from triplex_deploy.training.predict_section import predict_section
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions
from triplex_deploy.training.prepared import Prepared, PreparedSection, fit_to_data, open_prepared
from triplex_deploy.training.train import train_fold

from .conftest import SIZE_WH, center_xy

STRIDE = 100
SHARED = Neighborhood("shared", STRIDE)
CONFIG = ModelConfig(
    n_genes=3,
    feature_dim=3,
    embedding_dim=64,
    use_target=False,  # no image encoder, which would take most of the time
    global_depth=2,
    global_mlp_ratio=1.0,
    neighbor_depth=1,
    fusion_mlp_ratio=1.0,
    neighborhood="shared",
    neighborhood_stride=STRIDE,
)
OPTIONS = TrainOptions(selection="test_fold", epochs=1)


@pytest.fixture(scope="module")
def options(mean_encoder: Path) -> PrepareOptions:
    return PrepareOptions(
        layout="st",
        n_genes=3,
        tile_encoder=mean_encoder,
        backend="onnxruntime",
        neighborhood="shared",
        stride=STRIDE,
    )


@pytest.fixture(scope="module")
def prepared(
    st_root: Path, options: PrepareOptions, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    return prepare_dataset(st_root, tmp_path_factory.mktemp("shared") / "prepared", options)


@pytest.fixture(scope="module")
def exact(
    st_root: Path, options: PrepareOptions, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    plain = replace(options, neighborhood="exact", stride=None)
    return prepare_dataset(st_root, tmp_path_factory.mktemp("exact") / "prepared", plain)


@pytest.fixture(scope="module")
def checkpoint(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train_fold(prepared, prepared.folds[0], out, CONFIG, OPTIONS)
    return out / "checkpoint.ckpt"


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    with pytest.MonkeyPatch.context() as patch:  # few and small parity cases
        for name in parity.SIZES:
            patch.setitem(parity.SIZES, name, (1, 2))
        patch.setattr(parity, "GRID_SIDE", 3)
        export_bundle(checkpoint, out)
    return out


def on_grid(value: int) -> int:
    return round((value + 0.25) / STRIDE) * STRIDE


def test_features_are_those_of_the_nearest_tiles_of_the_grid(prepared: Prepared) -> None:
    section = prepared.sections["B1"]
    pixels = np.asarray(Image.open(section.measured.slide_path))
    padded = np.pad(pixels, ((1200, 1200), (1200, 1200), (0, 0)))
    features = section.neighbor_features(np.arange(section.measured.n_spots))
    for row, name in enumerate(section.measured.spot_names):
        x, y = center_xy(*map(int, name.split("x")))
        for n in range(25):
            left, top = x - 560 + 224 * (n % 5), y - 560 + 224 * (n // 5)
            if n != 12:
                left, top = on_grid(left), on_grid(top)
            is_inside = (n % 5 == 2 or 0 <= left <= SIZE_WH[0] - 224) and (
                n // 5 == 2 or 0 <= top <= SIZE_WH[1] - 224
            )
            assert section.neighbor_mask[row, n] == is_inside
            if is_inside:
                tile = padded[top + 1200 : top + 1424, left + 1200 : left + 1424]
                wanted = (tile.mean(axis=(0, 1)) / 255 - (0.485, 0.456, 0.406)) / (
                    0.229,
                    0.224,
                    0.225,
                )
                np.testing.assert_allclose(features[row, n], wanted, atol=1e-4)


def test_target_tiles_are_those_of_exact_neighborhoods(prepared: Prepared, exact: Prepared) -> None:
    for name, section in prepared.sections.items():
        wanted = exact.sections[name]
        np.testing.assert_array_equal(section.tiles, wanted.tiles)
        np.testing.assert_array_equal(section.spot_features(), wanted.spot_features())
        rows = np.arange(section.measured.n_spots)
        ours, others = section.neighbor_features(rows), wanted.neighbor_features(rows)
        assert (ours != others).any(axis=(0, 2)).nonzero()[0].size > 9  # most are others
        np.testing.assert_array_equal(ours[:, 12], others[:, 12])


def test_prepared_data_record_it_and_older_ones_are_exact(
    prepared: Prepared, exact: Prepared
) -> None:
    content = json.loads((prepared.path / "prepared.json").read_text())
    assert content["tile"]["neighborhood"] == "shared"
    assert content["tile"]["neighborhood_stride"] == STRIDE
    assert open_prepared(prepared.path).neighborhood == SHARED
    plain = json.loads((exact.path / "prepared.json").read_text())
    assert set(plain["tile"]) == {"px", "mpp", "native_pixels"}  # as before there was a choice
    assert exact.neighborhood == Neighborhood()


def test_stride_of_a_tile_is_the_default(options: PrepareOptions) -> None:
    assert replace(options, stride=None).neighbors == Neighborhood("shared", 224)
    assert PrepareOptions(layout="st").neighbors == Neighborhood()


def test_features_of_another_neighborhood_are_not_used_again(
    st_root: Path, tmp_path: Path, options: PrepareOptions, exact: Prepared, prepared: Prepared
) -> None:
    """In one folder, there and back."""
    plain = replace(options, neighborhood="exact", stride=None)
    for chosen, wanted in ((options, prepared), (plain, exact), (options, prepared)):
        found = prepare_dataset(st_root, tmp_path / "out", chosen)
        for name, section in wanted.sections.items():
            np.testing.assert_array_equal(found.sections[name].features, section.features)
            np.testing.assert_array_equal(found.sections[name].neighbor_tile, section.neighbor_tile)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stride": 224, "neighborhood": "exact"}, "belongs to a shared neighborhood"),
        ({"stride": 300}, "use 1 to 224"),
        ({"neighborhood": "near"}, "use exact or shared"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: PrepareOptions, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(options, **given)


def test_training_refuses_data_of_another_neighborhood(
    prepared: Prepared, exact: Prepared, tmp_path: Path
) -> None:
    plain = replace(CONFIG, neighborhood="exact", neighborhood_stride=0)
    other = replace(CONFIG, neighborhood_stride=STRIDE + 1)
    for data, config, message in (
        (prepared, plain, "neighborhood exact: .* was prepared with shared, stride 100 px"),
        (prepared, other, "shared, stride 101 px: .* was prepared with shared, stride 100 px"),
        (exact, CONFIG, "shared, stride 100 px: .* was prepared with exact"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_fold(data, data.folds[0], tmp_path / "run", config, OPTIONS)
        assert not (tmp_path / "run").exists()


def test_models_without_neighbors_train_on_either(prepared: Prepared, exact: Prepared) -> None:
    config = StNetConfig(n_genes=3, feature_dim=3)
    assert fit_to_data(config, prepared, 3) == fit_to_data(config, exact, 3) == config
    assert not config.neighbors.is_shared


def test_train_takes_the_neighborhood_of_the_data_unless_another_is_named(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["neighbor_depth=1", "neighbor_heads=2", "embedding_dim=16", "epochs=1"]
    arguments = ["train", str(prepared.path), "--model", "nem", "--selection", "test_fold"]
    arguments += [part for setting in small for part in ("--set", setting)]
    assert run_command([*arguments, "--out", str(tmp_path / "run")]) == 0
    config = read_checkpoint(tmp_path / "run" / "fold-0" / "checkpoint.ckpt").config
    assert config.neighbors == SHARED
    capsys.readouterr()
    named = [*arguments, "--set", "neighborhood=exact", "--out", str(tmp_path / "other")]
    assert run_command(named) == 1
    assert "was prepared with shared, stride 100 px" in capsys.readouterr().err


def test_prepare_says_it(
    st_root: Path, tmp_path: Path, mean_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prepare", str(st_root), "--format", "st", "--genes", "3"]
    arguments += ["--tile-encoder", str(mean_encoder), "--neighborhood", "shared"]
    arguments += ["--out", str(tmp_path / "out")]
    assert run_command([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["neighborhood"] == "shared, stride 224 px"
    assert run_command([*arguments, "--stride", "50"]) == 0
    assert "neighborhood shared, stride 50 px" in capsys.readouterr().out
    assert open_prepared(tmp_path / "out").neighborhood.stride == 50


def places(section: PreparedSection) -> NDArray[np.int64]:
    """Return the origins (T, 2) of a section's tiles, in the order of its features."""
    with open_slide(section.measured.slide_path) as slide:
        view = SlideView.open(slide, section.measured.slide_mpp, section.measured.slide_mpp)
        return plan_tiles(view.centers(section.measured.level0_xy), view.size_wh, SHARED).origins_xy


def predict_options(section: PreparedSection, st_root: Path, **more: Any) -> PredictOptions:
    spots = st_root / "ST-spotfiles" / f"{section.measured.name}_selection.tsv"
    return PredictOptions(spots=spots, mpp=section.measured.slide_mpp, **more)


def test_bundle_records_it_and_predicts_what_pytorch_does(
    prepared: Prepared, checkpoint: Path, bundle: Path, st_root: Path, tmp_path: Path
) -> None:
    section = prepared.sections["A1"]
    trained = read_checkpoint(checkpoint)
    assert trained.config.neighbors == SHARED
    assert "- **Neighbor tiles**: shared, stride 100 px" in (bundle / "README.md").read_text()
    options = predict_options(section, st_root, cache=tmp_path)
    with load_bundle(bundle).open(device="cpu", backend="onnxruntime") as model:
        assert model.bundle.manifest.config["neighborhood"] == "shared"
        assert model.bundle.manifest.config["neighborhood_stride"] == STRIDE
        prediction = predict_slide(section.measured.slide_path, model, options)
        with open_slide(section.measured.slide_path) as slide:
            mpp = section.measured.slide_mpp
            cache = open_cache(tmp_path, SlideView.open(slide, mpp, mpp), model, "raise")
    expected = predict_section(trained.build_model(), section)
    order = [prediction.spot_names.index(name) for name in section.measured.spot_names]
    np.testing.assert_allclose(prediction.expression[order], expected, atol=1e-5)
    assert prediction.run["neighborhood"] == "shared"
    assert prediction.run["neighborhood_stride_px"] == STRIDE
    assert prediction.run["tiles_encoded"] == len(section.features)
    report = render_report(prediction)
    assert "Neighborhood stride" in report
    assert "100 px" in report

    assert cache is not None
    origins, features = (np.concatenate(part) for part in zip(*cache.parts(), strict=True))
    found = {tuple(xy): row for xy, row in zip(origins.tolist(), features.tolist(), strict=True)}
    wanted = {
        tuple(xy): row
        for xy, row in zip(places(section).tolist(), section.features.tolist(), strict=True)
    }
    assert found == wanted  # the same tiles, and features equal in every bit


def test_exact_neighbors_of_the_same_weights_predict_something_else(
    prepared: Prepared, exact: Prepared, checkpoint: Path
) -> None:
    model = read_checkpoint(checkpoint).build_model()
    ours, others = (predict_section(model, each.sections["A1"]) for each in (prepared, exact))
    assert np.abs(ours - others).max() > 1e-4


def test_order_of_the_spots_does_not_matter(
    prepared: Prepared, bundle: Path, st_root: Path
) -> None:
    section = prepared.sections["A1"]
    options = predict_options(section, st_root)
    assert isinstance(options.spots, Path)
    spots = read_spots(options.spots)
    order = np.random.default_rng(4).permutation(len(spots.level0_xy))
    shuffled = replace(spots, level0_xy=spots.level0_xy[order], grid_rc=spots.grid_rc[order])
    with load_bundle(bundle).open(device="cpu", backend="onnxruntime") as model:
        first, second = (
            predict_slide(section.measured.slide_path, model, replace(options, spots=given))
            for given in (spots, shuffled)
        )
    np.testing.assert_allclose(second.expression, first.expression[order], atol=1e-5)


def test_triton_s_client_takes_the_same_tiles(
    prepared: Prepared, bundle: Path, tmp_path: Path
) -> None:
    section = prepared.sections["A1"]
    slide_path, mpp = section.measured.slide_path, section.measured.slide_mpp
    repository = tmp_path / "repository"
    write_repository(load_bundle(bundle), repository)
    content = json.loads((repository / "triplex" / "1" / "bundle.json").read_text())
    assert (content["neighborhood"], content["neighborhood_stride"]) == ("shared", STRIDE)
    assert "shared, stride 100 px" in (repository / "README.md").read_text()
    given = client.slide_inputs(slide_path, bundle, mpp)
    with open_slide(slide_path) as slide:
        view = SlideView.open(slide, mpp, prepared.tile_mpp)
        with load_bundle(bundle).open(device="cpu", backend="onnxruntime") as model:
            spots = predict_slide(slide_path, model, PredictOptions(mpp=mpp)).level0_xy
        plan = plan_tiles(view.centers(spots), view.size_wh, SHARED)
        tiles = np.stack([view.read(x, y, 224, 224) for x, y in plan.origins_xy.tolist()])
    np.testing.assert_array_equal(given["neighbor_tile"], plan.neighbor_tile)
    np.testing.assert_array_equal(given["tiles"], tiles)


def test_checkpoint_without_the_setting_is_exact(checkpoint: Path, tmp_path: Path) -> None:
    import torch

    plain = replace(CONFIG, neighborhood="exact", neighborhood_stride=0)
    write_checkpoint(replace(read_checkpoint(checkpoint), config=plain), tmp_path / "new.ckpt")
    content = torch.load(tmp_path / "new.ckpt", weights_only=True)
    for key in ("neighborhood", "neighborhood_stride"):
        del content["config"][key]
    torch.save(content, tmp_path / "old.ckpt")
    assert read_checkpoint(tmp_path / "old.ckpt").config == plain


def test_id_of_an_exact_bundle_is_that_of_earlier_versions_and_of_a_shared_one_its_own(
    bundle: Path,
) -> None:
    shared = load_bundle(bundle)

    def id_of(config: ModelConfig, *without: str) -> str:
        values = {key: value for key, value in config.to_dict().items() if key not in without}
        return Bundle(bundle, shared.manifest.model_copy(update={"config": values}), config).id

    plain = replace(CONFIG, neighborhood="exact", neighborhood_stride=0)
    earlier = id_of(plain, "neighborhood", "neighborhood_stride")
    assert id_of(plain) == earlier
    ids = {earlier, shared.id, id_of(replace(CONFIG, neighborhood_stride=224))}
    assert len(ids) == 3

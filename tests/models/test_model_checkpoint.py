"""Checkpoints are read as they were written, and every refusal has a reason."""

import dataclasses
import fractions
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from triplex_deploy.errors import CheckpointError, OutputError
from triplex_deploy.models import build_model
from triplex_deploy.models.checkpoint import (
    Checkpoint,
    TileEncoderWeights,
    read_checkpoint,
    state_of,
    write_checkpoint,
)
from triplex_deploy.models.image_encoders import TileEncoder
from triplex_deploy.models.spot_model import assert_eval
from triplex_deploy.models.torch_files import current_state_keys

FOREIGN = TileEncoderWeights("uni", kind="onnx", onnx=b"an ONNX file", mean=(0.5, 0.5, 0.5))
GENES = ("GNAS", "FASN", "ERBB2", "CLDN4", "ACTB", "KRT19", "COL1A1")


@pytest.fixture(scope="module")
def weights(tiny_config):
    return state_of(build_model(tiny_config, seed=4))


@pytest.fixture(scope="module")
def checkpoint(weights, tiny_config):
    return Checkpoint(
        config=tiny_config,
        genes=GENES,
        label_transform={"library": "panel", "scale": 10_000.0, "log": 10, "smoothing": 3},
        tile_mpp=0.5,
        state_dict=weights,
        tile_encoder=TileEncoderWeights(
            "histology-resnet18", state_dict=state_of(TileEncoder().backbone)
        ),
        provenance={"folds": [0, 1], "note": None},
    )


@pytest.fixture
def written(checkpoint, tmp_path):
    path = tmp_path / "model.ckpt"
    write_checkpoint(checkpoint, path)
    return path


@pytest.fixture
def weightless(checkpoint):
    """Return the content of a file without its weights, which are checked last."""
    return {
        "format": "triplex-checkpoint",
        "version": 1,
        "config": checkpoint.config.to_dict(),
        "genes": list(GENES),
        "label_transform": {},
        "tile": {"px": 224, "mpp": 0.5},
        "state_dict": {},
        "tile_encoder": FOREIGN.to_content(),
        "provenance": {},
    }


def test_round_trip(checkpoint, written, slide_inputs):
    again = read_checkpoint(written)
    plain = ("config", "genes", "label_transform", "tile_mpp", "provenance")
    for name in plain:
        assert getattr(again, name) == getattr(checkpoint, name)
    assert again.tile_encoder.metadata() == checkpoint.tile_encoder.metadata()
    trained, model = checkpoint.build_model(), again.build_model()
    arguments = slide_inputs.arguments(torch.arange(2))
    with torch.inference_mode():
        assert torch.equal(model(*arguments).fusion, trained(*arguments).fusion)
    assert_eval(model)


def test_tile_encoder_comes_back_frozen(written, checkpoint):
    encoder = read_checkpoint(written).tile_encoder.build()
    assert_eval(encoder)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    stem = checkpoint.tile_encoder.state_dict["conv1.weight"]
    assert torch.equal(encoder.backbone.state_dict()["conv1.weight"], stem)


def test_checkpoint_with_older_names_of_modules_opens(checkpoint, written):
    content = torch.load(written, weights_only=True)
    content["state_dict"] = {
        key.replace(".backbone.", ".trunk."): value for key, value in content["state_dict"].items()
    }
    assert "target_encoder.trunk.conv1.weight" in content["state_dict"]
    torch.save(content, written)
    again = read_checkpoint(written).state_dict
    assert list(again) == list(checkpoint.state_dict)
    for key, value in checkpoint.state_dict.items():
        assert torch.equal(again[key], value), key


def test_present_names_of_modules():
    old = {"module.trunk.0.weight": 1, "trunk.bias": 2, "n_averaged": 3, "trunks.bias": 4}
    assert current_state_keys(old) == {
        "module.backbone.0.weight": 1,
        "backbone.bias": 2,
        "n_averaged": 3,
        "trunks.bias": 4,
    }
    with pytest.raises(CheckpointError, match=r"backbone\.bias is stored twice"):
        current_state_keys({"trunk.bias": 1, "backbone.bias": 2})


def test_layout_of_the_file(written):
    content = torch.load(written, weights_only=True)
    assert content["format"] == "triplex-checkpoint"
    assert content["version"] == 1
    assert content["tile"] == {"px": 224, "mpp": 0.5}
    assert content["genes"] == list(GENES)
    assert set(content["tile_encoder"]) == {
        "name",
        "kind",
        "feature_dim",
        "mean",
        "std",
        "state_dict",
        "onnx",
    }
    assert content["tile_encoder"]["onnx"] is None


def test_equal_checkpoints_are_equal_files(checkpoint, written, tmp_path):
    again = tmp_path / "again" / "other-name.ckpt"
    write_checkpoint(checkpoint, again)
    assert again.read_bytes() == written.read_bytes()


def test_failed_write_leaves_the_old_file_and_no_leftovers(checkpoint, written, monkeypatch):
    before = written.read_bytes()

    def full_disk(content, file):
        file.write(b"partial")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OutputError, match=r"model\.ckpt: cannot be written \(no space left"):
        write_checkpoint(checkpoint, written)
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "other"}, "not a triplex-checkpoint"),
        ({"version": 2}, "version 2: this release reads 1"),
        ({"genes": ...}, "missing or unknown keys: genes"),
        ({"surprise": 1}, "missing or unknown keys: surprise"),
        ({"genes": list(GENES[:-1])}, "6 listed but the model predicts 7"),
        ({"genes": [*GENES[:-1], "GNAS"]}, "listed twice: GNAS"),
        ({"genes": [*GENES[:-1], ""]}, "non-empty string"),
        ({"config": {"depth1": 2}}, "depth1: not a model option"),
        ({"tile": {"px": 256, "mpp": 0.5}}, "tile px 256"),
        ({"tile": {"px": 224, "mpp": -1.0}}, "tile mpp -1.0"),
        ({"tile": {"px": 224, "mpp": "0.5"}}, "mpp: expected"),
        ({"tile_encoder": {"name": "x"}}, "tile_encoder: missing or unknown keys: feature_dim"),
        ({"provenance": None}, "provenance: expected dict, found NoneType"),
        ({}, "state_dict: missing keys: target_encoder.backbone.conv1.weight"),
    ],
)
def test_malformed_file_is_refused_with_the_reason(weightless, tmp_path, changes, reason):
    path = tmp_path / "model.ckpt"
    content = weightless | changes
    torch.save({key: value for key, value in content.items() if value is not ...}, path)
    with pytest.raises(CheckpointError) as refusal:
        read_checkpoint(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert reason in str(refusal.value)


def test_misfitting_weights_are_named(checkpoint, weights):
    missing = {key: value for key, value in weights.items() if key != "global_encoder.apeg.bias"}
    with pytest.raises(CheckpointError, match=r"missing keys: global_encoder\.apeg\.bias"):
        dataclasses.replace(checkpoint, state_dict=missing)
    with pytest.raises(CheckpointError, match=r"unexpected keys: cls_token"):
        dataclasses.replace(checkpoint, state_dict=weights | {"cls_token": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"expression_head\.bias \(3,\) instead of \(7,\)"):
        dataclasses.replace(
            checkpoint, state_dict=weights | {"expression_head.bias": torch.ones(3)}
        )
    with pytest.raises(CheckpointError, match=r"tile_encoder: missing keys: conv1\.weight"):
        dataclasses.replace(checkpoint.tile_encoder, state_dict={})


def test_onnx_tile_encoder_travels_as_its_bytes(checkpoint, tmp_path):
    path = tmp_path / "model.ckpt"
    write_checkpoint(dataclasses.replace(checkpoint, tile_encoder=FOREIGN), path)
    assert read_checkpoint(path).tile_encoder == FOREIGN
    with pytest.raises(CheckpointError, match="uni: is an ONNX file"):
        FOREIGN.build()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "vit"}, "kind 'vit'; known: resnet18, efficientnet_lite0, onnx"),
        ({"kind": "onnx"}, "the ONNX file is empty"),
        ({"feature_dim": 1280}, "resnet18 gives 512 features, not 1280"),
    ],
)
def test_contradictory_tile_encoder_is_refused(checkpoint, changes, reason):
    with pytest.raises(CheckpointError) as refusal:
        dataclasses.replace(checkpoint.tile_encoder, **changes)
    assert reason in str(refusal.value)


def test_tile_encoder_of_another_width_than_the_model_is_refused(checkpoint):
    wide = dataclasses.replace(FOREIGN, feature_dim=1024)
    with pytest.raises(CheckpointError, match="gives 1024 features, the model takes 512"):
        dataclasses.replace(checkpoint, tile_encoder=wide)


def test_values_that_need_unpickling_are_not_written(checkpoint):
    with pytest.raises(CheckpointError, match=r"provenance\.ratio: Fraction cannot be stored"):
        dataclasses.replace(checkpoint, provenance={"ratio": fractions.Fraction(1, 2)})


def test_pickled_objects_are_refused_and_not_run(tmp_path):
    path = tmp_path / "pickle.ckpt"
    torch.save({"format": "triplex-checkpoint", "hook": fractions.Fraction(1, 2)}, path)
    with pytest.raises(CheckpointError, match=r"refused, .*fractions\.Fraction"):
        read_checkpoint(path)


def test_absent_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent\.ckpt: no such file"):
        read_checkpoint(tmp_path / "absent.ckpt")


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_damaged_file_is_refused(written, damage):
    content = written.read_bytes()
    written.write_bytes(
        {"truncated": content[: len(content) // 2], "text": b"hello\n", "empty": b""}[damage]
    )
    with pytest.raises(CheckpointError, match=str(written)) as refusal:
        read_checkpoint(written)
    assert "\n" not in str(refusal.value)


def test_flipped_bit_in_a_weight_is_found(written):
    content = bytearray(written.read_bytes())
    content[len(content) // 2] ^= 1
    written.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged \(its checksum differs\)|not a readable"):
        read_checkpoint(written)


def test_tensor_that_claims_more_than_the_file_holds_is_refused(written, tmp_path):
    content = torch.load(written, weights_only=True)
    key, tensor = next((key, value) for key, value in content["state_dict"].items() if value.ndim)
    content["state_dict"][key] = torch.zeros(1).expand(tensor.shape)
    path = tmp_path / "claims.ckpt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="fewer values than its shape needs"):
        read_checkpoint(path)


def test_record_that_grows_when_it_is_read_is_refused(written, tmp_path):
    path = tmp_path / "packed.ckpt"
    with zipfile.ZipFile(written) as before, zipfile.ZipFile(path, "w") as after:
        for record in before.infolist():
            after.writestr(record.filename, before.read(record), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"torch\.save never compresses"):
        read_checkpoint(path)


def test_gene_with_control_characters_is_refused(checkpoint):
    genes = ("GN\x1bAS", *GENES[1:])
    with pytest.raises(CheckpointError, match="control characters"):
        dataclasses.replace(checkpoint, genes=genes)


def test_checkpoint_is_not_written_through_a_link(checkpoint, tmp_path):
    other = tmp_path / "other"
    other.write_text("theirs")
    (tmp_path / "model.ckpt").symlink_to(other)
    with pytest.raises(OutputError, match="is a link"):
        write_checkpoint(checkpoint, tmp_path / "model.ckpt")
    assert other.read_text() == "theirs"


def test_file_whose_end_is_of_another_zip_is_no_torch_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> bool:
        raise zipfile.BadZipFile("zipfiles that span multiple disks are not supported")

    (tmp_path / "a.ckpt").write_bytes(b"PK")
    monkeypatch.setattr(zipfile, "is_zipfile", refuse)
    with pytest.raises(CheckpointError, match="not a torch file"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_reading_a_checkpoint_leaves_out_the_compiler_of_pytorch(checkpoint_path: Path) -> None:
    """Its import takes a second; starting weights of shapes alone would need it."""
    code = (
        "import sys; from triplex_deploy.models import read_checkpoint;"
        "read_checkpoint(sys.argv[1]).build_calibrated();"
        "assert 'torch._dynamo' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(checkpoint_path)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr

"""Prepared data that are cut short, altered or foreign are noticed, when resumed and when read."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.errors import DatasetError
from triplex_deploy.training import array_files
from triplex_deploy.training.features import DONE, FEATURES, FeatureFile
from triplex_deploy.training.prepare import prepare_dataset
from triplex_deploy.training.prepare_options import PrepareOptions
from triplex_deploy.training.prepared import Prepared, open_prepared


@pytest.fixture
def options(mean_encoder: Path) -> PrepareOptions:
    return PrepareOptions(layout="st", n_genes=3, tile_encoder=mean_encoder, batch_size=8)


@pytest.fixture
def prepared(st_root: Path, tmp_path: Path, options: PrepareOptions) -> Prepared:
    return prepare_dataset(st_root, tmp_path / "prepared", options)


def begun(folder: Path) -> FeatureFile:
    """Three of five tiles are done."""
    file = FeatureFile.open(folder, "key", 5, 2, 3)
    tiles = np.ones((1, 224, 224, 3), np.uint8)
    file.put(np.arange(3), np.ones((3, 3), np.float32), np.array([0]), tiles)
    file.flush()
    return file


def test_what_is_done_stays_done(tmp_path: Path) -> None:
    begun(tmp_path)
    again = FeatureFile.open(tmp_path, "key", 5, 2, 3)
    assert again.missing.tolist() == [3, 4]
    assert again.features.sum() == 9


@pytest.mark.parametrize("name", [FEATURES, "tiles.npy", DONE])
@pytest.mark.parametrize("damage", ["cut", "gone", "longer", "no header"])
def test_a_file_of_another_size_is_started_anew(tmp_path: Path, name: str, damage: str) -> None:
    begun(tmp_path)
    path = tmp_path / name
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes({"cut": data[:-1], "longer": data + b"1", "no header": b"x"}[damage])
    again = FeatureFile.open(tmp_path, "key", 5, 2, 3)
    assert again.missing.tolist() == [0, 1, 2, 3, 4]
    assert again.features.shape == (5, 3)
    assert not again.features.any()


def test_space_is_reserved_before_a_file_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        FeatureFile.open(tmp_path, "key", 5, 2, 3)


def test_space_is_written_where_it_cannot_be_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    array = array_files.new_array(tmp_path / "a.npy", np.dtype(np.float32), (7, 3))
    assert (array.shape, array.any()) == ((7, 3), np.False_)


@pytest.mark.parametrize("name", ["features.npy", "tiles.npy", "plan.npz", "measured.npz"])
def test_a_flipped_bit_is_noticed_on_reading(prepared: Prepared, name: str) -> None:
    path = prepared.path / "sections" / "A1" / name
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.unlink()  # the open map keeps the old content
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=f"{name}: altered since it was written"):
        open_prepared(prepared.path)


def test_an_altered_section_is_encoded_again(
    st_root: Path,
    prepared: Prepared,
    options: PrepareOptions,
    caplog: pytest.LogCaptureFixture,
) -> None:
    right = np.array(prepared.sections["A1"].features)
    path = prepared.path / "sections" / "A1" / FEATURES
    stored = np.zeros_like(right)
    path.unlink()
    np.save(path, stored)
    again = prepare_dataset(st_root, prepared.path, options)
    np.testing.assert_array_equal(again.sections["A1"].features, right)
    assert "A1: features.npy was altered" in caplog.text


@pytest.mark.parametrize("name", ["features.npy", "plan.npz", "measured.npz"])
@pytest.mark.parametrize("at", [0, 8, 30, 200])
def test_damage_is_one_error_without_digests_too(prepared: Prepared, name: str, at: int) -> None:
    """As in folders of versions that sealed nothing."""
    import json

    description = prepared.path / "prepared.json"
    content = json.loads(description.read_text())
    for entry in content["sections"]:
        del entry["digests"]
    description.write_text(json.dumps(content))
    path = prepared.path / "sections" / "A1" / name
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:at] + b"(" * 9 + data[at + 9 : -50])
    with pytest.raises(DatasetError):
        open_prepared(prepared.path)


def test_files_of_the_disk_are_as_long_as_their_arrays(tmp_path: Path) -> None:
    begun(tmp_path)
    stored = (tmp_path / FEATURES).stat()
    assert stored.st_size == 128 + 5 * 3 * 4

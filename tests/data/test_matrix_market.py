"""Damaged Matrix Market files are one error each, and never the end of the process."""

import gzip
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.data.matrix_market import read_matrix_market
from triplex_deploy.errors import DatasetError

HEAD = "%%MatrixMarket matrix coordinate integer general\n"
BODY = "2 3 3\n1 1 5\n2 3 7\n1 2 1\n"
DENSE = [[5, 1, 0], [0, 0, 7]]


def test_counts_are_read_plain_and_packed(tmp_path: Path) -> None:
    text = HEAD + '%metadata_json: {"software_version": "1"}\n' + BODY
    (tmp_path / "m.mtx").write_text(text)
    (tmp_path / "m.mtx.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("m.mtx", "m.mtx.gz"):
        np.testing.assert_array_equal(read_matrix_market(tmp_path / name, (2, 3)).toarray(), DENSE)


def test_dense_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.mtx"
    path.write_text("%%MatrixMarket matrix array integer general\n2 3\n5\n0\n1\n0\n0\n7\n")
    np.testing.assert_array_equal(read_matrix_market(path, (2, 3)).toarray(), DENSE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("%%LatrixMarket matrix coordinate integer general\n" + BODY, "does not begin with"),
        (HEAD + "2 3 2000000000\n1 1 5\n", "more than the file or matrix can hold"),
        (HEAD + "2000000000 2000000000 1\n1 1 5\n", "2000000000 x 2000000000"),
        (HEAD + "99999999999999999999 3 1\n1 1 5\n", "99999999999999999999"),
        (HEAD + "2 3 2\n1 1 5\n", "promises 2 entries, and there are 1"),
        (HEAD + "2 3 1\n1 1 5\n2 2 1\n", "promises 1 entries, and there are 2"),
        (HEAD + "2 3 1\n1 4 5\n", "entry 4 lies outside 1 to 3"),
        (HEAD + "2 3 1\n0 1 5\n", "entry 0 lies outside 1 to 2"),
        (HEAD + "2 3 1\n1 x 5\n", "not a Matrix Market file"),
        (HEAD + "2 3 1\n1\x00 1 5\n", "a byte of it is zero"),
        (HEAD + "2 3 1\n1 1\n", "entry 1 has no value"),
        (HEAD, "gives no size"),
        ("", "does not begin with"),
    ],
)
def test_damage_is_one_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.mtx").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_matrix_market(tmp_path / "m.mtx", (2, 3))


def test_cut_gzip_is_one_error(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress((HEAD + BODY).encode()))
    for cut in (packed[:-12], packed[:20] + b"\xff\xff" + packed[22:]):
        (tmp_path / "m.mtx.gz").write_bytes(cut)
        with pytest.raises(DatasetError, match=r"m\.mtx\.gz"):
            read_matrix_market(tmp_path / "m.mtx.gz", (2, 3))


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_is_an_error_or_the_same_numbers_or_others_of_the_shape(
    tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray((HEAD + BODY).encode())
    for at in rng.integers(0, len(data), 2):
        data[at] = rng.integers(0, 256)
    (tmp_path / "m.mtx").write_bytes(data)
    with suppress(DatasetError):
        assert read_matrix_market(tmp_path / "m.mtx", (2, 3)).shape == (2, 3)

"""Damaged files of every reader: an error of ours, or what the file says; never anything else.

``make fuzz MINUTES=20`` tries many more.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.children import call_in_child
from tests.fuzz.fuzz import FAILURES, Sample
from tests.fuzz.material import shared_material
from tests.fuzz.readers import READERS

pytestmark = [pytest.mark.torch, pytest.mark.lengthy]
EXAMPLES = 5
"""Mutations of each reader; each takes some hundredths of a second."""


@pytest.fixture(scope="module", params=READERS)
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A valid sample of a reader."""
    folder = tmp_path_factory.mktemp("fuzz")
    return Sample(READERS[request.param], folder, shared_material())


@settings(
    max_examples=EXAMPLES,
    derandomize=True,  # the same mutations in every run
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**20))
def test_a_damaged_file_is_refused_or_read_as_it_stands(sample: Sample, seed: int) -> None:
    tried = sample.try_seed(seed)
    assert tried.end not in FAILURES, tried


def crash() -> str:
    import ctypes

    return str(ctypes.string_at(0))


def hang() -> str:
    while True:
        pass


def hoard() -> str:
    return str(len(bytearray(1 << 36)))


def stumble() -> str:
    raise KeyError("a key")


@pytest.mark.parametrize(
    ("function", "kind"),
    [(crash, "signal"), (hang, "hang"), (hoard, "memory"), (stumble, "unexpected")],
)
def test_what_a_child_does_wrong_is_noticed(function: object, kind: str) -> None:
    assert callable(function)
    assert call_in_child(function, max_seconds=1.0).kind == kind


def test_a_sealed_sample_that_reads_differently_is_noticed(tmp_path: Path) -> None:
    reader = READERS["spots: tsv.gz"]
    sample = Sample(reader, tmp_path, tmp_path)
    ended = call_in_child(lambda: "other numbers")
    assert sample.judge("bytes", ended) == "silent"
    assert sample.judge("inside", ended) == "other"

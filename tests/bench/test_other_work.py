"""What other processes took of our cores, from counts made up."""

import pytest

from triplex_deploy.bench import machine
from triplex_deploy.bench.machine import Moment, busy_ticks, share_of_others

STAT = """cpu  300 0 150 1000 10 0 0 8 0 0
cpu0 100 10 50 400 10 1 2 3 70 0
cpu1 200 0 100 600 0 0 0 5 0 0
cpu12 9000 0 0 0 0 0 0 0 0 0
intr 12345
"""


def test_busy_is_all_but_idle_and_disk_on_our_cores_alone() -> None:
    assert busy_ticks(STAT, {0}) == 100 + 10 + 50 + 1 + 2 + 3
    assert busy_ticks(STAT, {0, 1}) == 166 + 305
    assert busy_ticks(STAT, {12}) == 9000


def test_share_is_what_we_did_not_use_ourselves() -> None:
    begin, end = Moment(10.0, 100.0, 5.0), Moment(12.0, 103.0, 6.0)
    assert share_of_others(begin, end, cores=2) == pytest.approx(2 / 4)


def test_share_stays_a_share_where_counts_are_coarse() -> None:
    begin = Moment(0.0, 0.0, 0.0)
    assert share_of_others(begin, Moment(1.0, 0.98, 1.0), 1) == 0.0
    assert share_of_others(begin, Moment(1.0, 1.03, 0.0), 1) == 1.0


def test_unknown_moments_have_no_share(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    assert share_of_others(None, Moment(1.0, 1.0, 1.0), 1) is None
    assert share_of_others(Moment(1.0, 1.0, 1.0), Moment(1.0, 1.0, 1.0), 1) is None
    monkeypatch.setattr(machine, "STAT", tmp_path / "absent")
    assert machine.used_ticks() is None

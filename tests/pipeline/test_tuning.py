"""Workers and tiles per call: as asked, as stored, or as measured within a second."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline.fake_model import FakeSession, fake_config, fake_model
from triplex_deploy.pipeline import tuning
from triplex_deploy.pipeline.tuning import (
    Setting,
    candidates,
    choose_setting,
    fastest,
    measure_rates,
)
from triplex_deploy.runtime.device import CPU, Device
from triplex_deploy.runtime.model import Model
from triplex_deploy.system import cache_folder


@pytest.fixture
def model() -> Model:
    return fake_model(fake_config())


@pytest.fixture
def tuning_file() -> Path:
    return cache_folder() / "tuning.json"


def _calls(model: Model) -> list[int]:
    session = model.sessions["tile_encoder"]
    assert isinstance(session, FakeSession)
    return session.calls


def test_measurement_is_made_once_and_remembered(model: Model, tuning_file: Path) -> None:
    first = choose_setting(model, model.sessions, 10_000, threads=2)
    measured = len(_calls(model))
    assert measured >= 2
    assert choose_setting(model, model.sessions, 10_000, threads=2) == first
    assert len(_calls(model)) == measured
    (entry,) = json.loads(tuning_file.read_text()).values()
    assert entry["batch_size"] == first.batch_size
    assert entry["bundle"] == model.bundle.id


def test_number_of_threads_has_a_measurement_of_its_own(model: Model, tuning_file: Path) -> None:
    choose_setting(model, model.sessions, 10_000, threads=2)
    assert choose_setting(model, model.sessions, 10_000, threads=1).workers == 1
    assert len(json.loads(tuning_file.read_text())) == 2


@pytest.mark.parametrize("content", ["", "[1]", '{"a": ', "\x00\xff", '{"KEY": 3}'])
def test_damaged_file_is_ignored_and_replaced(
    content: str, model: Model, tuning_file: Path
) -> None:
    tuning_file.parent.mkdir(parents=True, exist_ok=True)
    tuning_file.write_text(content)
    choose_setting(model, model.sessions, 10_000, threads=2)
    assert any("bundle" in str(entry) for entry in json.loads(tuning_file.read_text()).values())


def test_implausible_file_is_measured_again(model: Model, tuning_file: Path) -> None:
    choose_setting(model, model.sessions, 10_000, threads=2)
    content = json.loads(tuning_file.read_text())
    for entry in content.values():
        entry["batch_size"] = 10**9
    tuning_file.write_text(json.dumps(content))
    assert choose_setting(model, model.sessions, 10_000, threads=2).batch_size in (2, 4, 8)


def test_few_tiles_and_a_given_size_are_not_measured(model: Model, tuning_file: Path) -> None:
    assert choose_setting(model, model.sessions, 50, threads=3) == Setting(3, 4)
    assert choose_setting(model, model.sessions, 10_000, batch_size=5, threads=3) == Setting(3, 5)
    assert _calls(model) == []
    assert not tuning_file.exists()


def test_folder_that_cannot_be_written_costs_only_the_stored_setting(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert choose_setting(model, model.sessions, 10_000, threads=2).workers == 2


def test_measurement_stops_when_its_time_is_up() -> None:
    slow = fake_model(fake_config(), delay_s=0.15).sessions["tile_encoder"]
    begin = time.monotonic()
    rates = measure_rates(slow, candidates(CPU, 2), budget_s=0.2)
    assert list(rates) == [Setting(2, 2)]
    assert time.monotonic() - begin < 1


def test_gpu_is_timed_after_an_untimed_call_of_the_same_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first call of a size on a GPU chooses kernels, which takes far longer than computing."""
    asked: list[tuple[int, int]] = []

    def time_calls(_: object, setting: Setting, calls_each: int = 1) -> float:
        is_cold = setting.batch_size not in [size for size, _ in asked]
        asked.append((setting.batch_size, calls_each))
        return 1000.0 if is_cold else 0.1 * calls_each

    monkeypatch.setattr(tuning, "_time_calls", time_calls)
    model = replace(fake_model(fake_config()), device=Device("cuda"))
    choose_setting(model, model.sessions, 10_000)
    assert asked == [(size, calls) for size in (32, 64) for calls in (1, 5)], "the budget is timed"
    (entry,) = json.loads((cache_folder() / "tuning.json").read_text()).values()
    rates = [measured["tiles_per_s"] for measured in entry["measured"]]
    assert rates == [2 * size * 5 / 0.5 for size in (32, 64)]


def test_larger_batches_must_be_clearly_faster() -> None:
    two, four, eight = (Setting(2, size) for size in (2, 4, 8))
    assert fastest({two: 100.0, four: 102.0, eight: 102.9}) == two
    assert fastest({two: 100.0, four: 110.0, eight: 111.0}) == four
    assert fastest({two: 100.0, four: 90.0, eight: 120.0}) == eight


def test_half_the_workers_are_tried_where_cores_may_be_threads() -> None:
    assert Setting(4, 4) in candidates(CPU, 8)
    assert {setting.workers for setting in candidates(CPU, 2)} == {2}
    assert {setting.workers for setting in candidates(Device("cuda"), 2)} == {2}


def test_workers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "usable_cores", lambda: 256)
    assert tuning.default_setting(CPU) == Setting(32, 4)
    assert tuning.default_setting(CPU, threads=3) == Setting(3, 4)
    assert tuning.default_setting(Device("cuda")) == Setting(2, 64)

"""A cluster that does not let us in is named at once; a script stands in for Ray."""

from pathlib import Path

import pytest

from triplex_deploy.cohort import ray_probe
from triplex_deploy.cohort.ray_probe import require_admission
from triplex_deploy.errors import BackendError

REFUSING = """
import sys, time
for _ in range(100):
    print("[2026-11-27 18:09:05 W 1 1] client.cc:210: InvalidAuthToken", file=sys.stderr)
    sys.stderr.flush()
    time.sleep(1)
"""
SILENT = """
import sys
sys.exit("[2026-11-27 18:09:05,975 W 1 1] rpc_client.h:638: Failed to connect")
"""


@pytest.fixture(autouse=True)
def _address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


def test_a_cluster_that_wants_a_token_gives_the_remedy_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_probe, "JOIN", REFUSING)
    with pytest.raises(BackendError, match=r"10\.0\.0\.1:6379: wants a token; set RAY_AUTH_MODE"):
        require_admission()


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_probe, "JOIN", SILENT)
    with pytest.raises(BackendError, match=r"does not answer \(Failed to connect\); check"):
        require_admission()


def test_a_cluster_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_probe, "JOIN", "import time; time.sleep(1000)")
    monkeypatch.setattr(ray_probe, "PATIENCE_S", 0.1)
    with pytest.raises(BackendError, match="no reason given"):
        require_admission()


def test_a_cluster_that_lets_us_in_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_probe, "JOIN", "assert {address!r} == '10.0.0.1:6379'")
    require_admission()


@pytest.mark.parametrize("address", ["", "local"])
def test_without_a_cluster_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray_probe, "JOIN", SILENT)
    require_admission()


def test_the_cluster_of_this_machine_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    (tmp_path / "ray_current_cluster").write_text("10.0.0.2:6379\n")
    monkeypatch.setattr(ray_probe, "JOIN", SILENT)
    with pytest.raises(BackendError, match=r"10\.0\.0\.2:6379: does not answer"):
        require_admission()

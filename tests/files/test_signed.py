"""Only what was signed with this installation's key is taken from a cache."""

import json
import logging
import multiprocessing
import stat
from pathlib import Path

import pytest

from triplex_deploy.files import signed
from triplex_deploy.files.measurements import read_measurement, store_measurement
from triplex_deploy.files.signed import is_signed, sign_bytes, signature, signed_content


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the key of an installation of its own will be."""
    return _use(tmp_path / "state", monkeypatch)


def _use(state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    return state / "triplex-deploy" / "key"


def test_only_the_user_may_read_the_key(key: Path) -> None:
    signature("purpose", "content")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32
    assert [path.name for path in key.parent.iterdir()] == ["key"]


def test_a_signature_is_for_one_content_and_one_purpose(key: Path) -> None:
    given = signature("tuning", "a", "bc")
    assert is_signed(given, "tuning", "a", "bc")
    others = [
        ("tuning", "ab", "c"),
        ("tuning", "a", "bd"),
        ("engine", "a", "bc"),
        ("tuning", "abc"),
    ]
    assert not any(is_signed(given, *other) for other in others)
    assert not is_signed(None, "tuning", "a", "bc")
    assert not is_signed("é" * 64, "tuning", "a", "bc")


def test_signed_bytes_are_read_back_and_altered_ones_are_not(key: Path) -> None:
    content = sign_bytes("trace", b"content")
    assert signed_content("trace", content) == b"content"
    for altered in (b"", content[:20], content[:-1], content[:-1] + b"T", b"?" + content[1:]):
        assert signed_content("trace", altered) is None
    assert signed_content("other", content) is None


def test_the_key_stays_for_later_runs_and_another_installation_has_another(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = signature("purpose")
    signed._key.cache_clear()
    assert is_signed(given, "purpose")
    _use(tmp_path / "another", monkeypatch)
    assert not is_signed(given, "purpose")


@pytest.mark.parametrize("damage", ["readable by others", "short", "link", "folder of others"])
def test_a_key_of_others_is_not_used(
    damage: str, key: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key.parent.mkdir(parents=True)
    content = b"k" * (31 if damage == "short" else 32)
    if damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        (tmp_path / "elsewhere").chmod(0o600)
        key.symlink_to(tmp_path / "elsewhere")
    else:
        key.write_bytes(content)
        key.chmod(0o644 if damage == "readable by others" else 0o600)
    if damage == "folder of others":
        key.parent.chmod(0o777)
    given = signature("purpose")
    assert is_signed(given, "purpose")  # within this process
    signed._key.cache_clear()
    assert not is_signed(given, "purpose")
    assert "no key can be kept" in caplog.text
    assert "XDG_STATE_HOME" in caplog.text


def test_a_folder_that_cannot_be_made_costs_only_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    _use(tmp_path / "file", monkeypatch)
    assert is_signed(signature("purpose"), "purpose")
    assert "no key can be kept (Not a directory)" in caplog.text


def test_a_file_system_without_hard_links_keeps_a_key(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    given = signature("purpose")
    signed._key.cache_clear()
    assert is_signed(given, "purpose")


def test_processes_that_start_together_have_one_key(key: Path) -> None:
    context = multiprocessing.get_context("fork")
    signed._key.cache_clear()
    with context.Pool(4) as pool:
        assert len(set(pool.map(signature, ["purpose"] * 8, chunksize=1))) == 1


@pytest.fixture
def measurements(key: Path, tmp_path: Path) -> Path:
    """A file with one entry of this installation."""
    path = tmp_path / "cache" / "tuning.json"
    store_measurement(path, "one", {"workers": 2, "rates": (1.5, float("inf"))})
    return path


def test_an_entry_of_this_installation_is_read(measurements: Path) -> None:
    assert read_measurement(measurements, "one") == {"workers": 2, "rates": [1.5, float("inf")]}
    store_measurement(measurements, "two", {"workers": 3})
    assert read_measurement(measurements, "one") is not None


@pytest.mark.parametrize("change", ["value", "no signature", "key", "file", "installation"])
def test_an_entry_of_others_is_measured_again_with_one_line(
    change: str,
    measurements: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = json.loads(measurements.read_text())
    path, key = measurements, "one"
    if change == "value":
        content["one"]["workers"] = 3
    elif change == "no signature":
        del content["one"]["signature"]
    elif change == "key":
        content["two"], key = content["one"], "two"
    elif change == "file":
        path = measurements.with_name("precisions.json")
    else:
        _use(tmp_path / "another", monkeypatch)
    path.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        assert read_measurement(path, key) is None
    assert len(caplog.records) == 1
    assert "not written by this installation" in caplog.text
    store_measurement(path, key, {"workers": 4})
    assert read_measurement(path, key) == {"workers": 4}


def test_a_folder_that_others_may_write_into_is_ignored(
    measurements: Path, caplog: pytest.LogCaptureFixture
) -> None:
    measurements.parent.chmod(0o777)
    assert read_measurement(measurements, "one") is None
    assert "others may write into its folder" in caplog.text

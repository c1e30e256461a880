"""Commands that install what is missing work where this package was installed."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from triplex_deploy import install
from triplex_deploy.install import install_command, install_package


class Installed:
    def __init__(self, direct_url: object) -> None:
        self.text = None if direct_url is None else json.dumps(direct_url)

    def read_text(self, _name: str) -> str | None:
        return self.text


@pytest.fixture
def from_index(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This package installed from an index, and the pip of this Python on the path."""
    monkeypatch.setattr(install, "source_tree", lambda: None)
    monkeypatch.setattr(install, "_pip_install", lambda: "pip install")
    monkeypatch.setattr(install, "distribution", lambda _name: Installed(None))
    return monkeypatch


def test_from_an_index_it_is_the_name(from_index: pytest.MonkeyPatch) -> None:
    assert install_command("files") == "pip install 'triplex-deploy[files]'"
    assert install_command() == "pip install triplex-deploy"
    assert install_package("openvino>=2026") == "pip install 'openvino>=2026'"


def test_from_a_source_tree_it_is_the_tree(from_index: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tree = tmp_path / "my clone"
    from_index.setattr(install, "source_tree", lambda: tree)
    assert shlex.split(install_command("cpu")) == ["pip", "install", "-e", f"{tree}[cpu]"]


def test_from_a_wheel_it_is_the_wheel_while_it_is_there(
    from_index: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel = tmp_path / "triplex deploy.whl"
    wheel.touch()
    origin = {"url": wheel.as_uri(), "archive_info": {}}
    from_index.setattr(install, "distribution", lambda _name: Installed(origin))
    assert shlex.split(install_command("gpu")) == ["pip", "install", f"{wheel}[gpu]"]
    wheel.unlink()
    assert install_command("gpu") == "pip install 'triplex-deploy[gpu]'"


def test_from_a_repository_it_is_that_revision(from_index: pytest.MonkeyPatch) -> None:
    git = {"vcs": "git", "requested_revision": "v1", "commit_id": "0f"}
    origin = {"url": "https://example.org/a.git", "vcs_info": git}
    from_index.setattr(install, "distribution", lambda _name: Installed(origin))
    assert install_command("cpu") == (
        "pip install 'triplex-deploy[cpu] @ git+https://example.org/a.git@v1'"
    )


def test_pip_is_that_of_this_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "find_spec", lambda _name: object())
    monkeypatch.setattr(shutil, "which", lambda _name: str(tmp_path / "pip"))
    assert install_command().startswith(f"{shlex.quote(sys.executable)} -m pip install ")
    own = Path(sys.executable).with_name("pip")
    monkeypatch.setattr(shutil, "which", lambda _name: str(own))
    assert install_command().startswith("pip install ")


def test_uv_stands_in_where_there_is_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "find_spec", lambda _name: None)
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "uv" else None)
    assert install_command("cpu").startswith("uv pip install --python ")


@pytest.mark.parametrize("origin", [[], {"url": 3}, {"url": "file:///gone.whl"}])
def test_a_damaged_record_is_no_obstacle(from_index: pytest.MonkeyPatch, origin: object) -> None:
    from_index.setattr(install, "distribution", lambda _name: Installed(origin))
    assert install_command("cpu") == "pip install 'triplex-deploy[cpu]'"

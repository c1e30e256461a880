"""Say how to install what is missing, from where this package itself was installed."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

NAME: Final = "triplex-deploy"
"""Name of the package in an index."""


def install_command(extra: str | None = None) -> str:
    """Return the command that installs an extra of this package, or the package, for this Python.

    It names the source tree, wheel or repository that this package was installed from, else the
    package's name in an index.

    Args:
        extra: Name of the extra, such as ``files``; several are separated by commas.
    """
    extras = f"[{extra}]" if extra else ""
    return f"{_pip_install()} {_requirement(extras)}"


def install_package(requirement: str) -> str:
    """Return the command that installs another package for this Python."""
    return f"{_pip_install()} {shlex.quote(requirement)}"


def _pip_install() -> str:
    """Return the command that installs into this Python, short if the path has it."""
    here = Path(sys.executable).parent
    if find_spec("pip") is None and shutil.which("uv") is not None:
        return f"uv pip install --python {shlex.quote(sys.executable)}"
    found = shutil.which("pip")
    if found is not None and Path(found).parent == here:
        return "pip install"
    return f"{shlex.quote(sys.executable)} -m pip install"


def _requirement(extras: str) -> str:
    source = source_tree()
    if source is not None:
        return f"-e {shlex.quote(f'{source}{extras}')}"
    origin = _origin()
    url = origin.get("url")
    if isinstance(url, str) and isinstance(vcs := origin.get("vcs_info"), dict):
        revision = vcs.get("requested_revision")
        place = f"{vcs.get('vcs')}+{url}" + (f"@{revision}" if revision else "")
        return shlex.quote(f"{NAME}{extras} @ {place}")
    if isinstance(url, str) and url.startswith("file:"):
        path = Path(unquote(urlsplit(url).path))
        if path.exists():
            return shlex.quote(f"{path}{extras}")
    return f"'{NAME}{extras}'" if extras else NAME


def source_tree() -> Path | None:
    """Return the source tree that this package runs from; None if it was installed elsewhere."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else None


def _origin() -> dict[str, Any]:
    """Return where pip got this package from (PEP 610); empty for an index."""
    try:
        text = distribution(NAME).read_text("direct_url.json")
        found = json.loads(text) if text else {}
    except (PackageNotFoundError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

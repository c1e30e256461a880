"""What every HTML page of ours has in common: one template, nothing outside it, and a mark."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from triplex_deploy.errors import OutputError

if TYPE_CHECKING:
    from jinja2 import Environment

MARK: Final = '<meta name="generator" content="triplex-deploy">'
MARK_WITHIN: Final = 1024
"""Bytes of a page in which its mark stands."""


def render_page(template: str, stylesheets: list[str], scripts: list[str], **values: Any) -> str:
    """A template with its styles and scripts as one HTML document."""
    return (
        _environment()
        .get_template(template)
        .render(
            mark=MARK,
            stylesheet="\n".join(map(_asset, stylesheets)),
            scripts=[_asset(name) for name in scripts],
            **values,
        )
    )


def json_for_script(payload: Any) -> str:
    """JSON that cannot close the script element it stands in."""
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


def require_own_page(path: Path) -> None:
    """Refuse to replace an existing file that is no page of ours; raises ``OutputError``."""
    if not path.is_file():
        return
    with path.open("rb") as stream:
        if MARK.encode() not in stream.read(MARK_WITHIN):
            raise OutputError(
                f"{path}: is not a report written by triplex-deploy; choose another name to keep it"
            )


@cache
def _environment() -> Environment:
    """Keeps the compiled templates, which take longer than a page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("triplex_deploy.outputs", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    return resources.files("triplex_deploy.outputs").joinpath("templates", name).read_text("utf-8")

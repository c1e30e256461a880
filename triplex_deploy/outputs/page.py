"""Render HTML pages: one file with its styles and scripts, and a mark to recognize it by."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from triplex_deploy.files.escape import encodable
from triplex_deploy.files.ours import require_ours

if TYPE_CHECKING:
    from jinja2 import Environment

MARK: Final = '<meta name="generator" content="triplex-deploy">'
"""Element at the start of every page that this package writes."""
MARK_WITHIN: Final = 1024
"""Number of bytes at the start of a page that contain the mark."""


def render_page(template: str, stylesheets: list[str], scripts: list[str], **values: Any) -> str:
    """Return a template with its styles and scripts as one HTML document."""
    html = (
        _environment()
        .get_template(template)
        .render(
            mark=MARK,
            stylesheet="\n".join(map(_asset, stylesheets)),
            scripts=[_asset(name) for name in scripts],
            **values,
        )
    )
    return encodable(html)


def json_for_script(payload: Any) -> str:
    """Return JSON that cannot close the script element around it."""
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


def is_page(head: bytes) -> bool:
    """Return True for the first bytes of a page of this package."""
    return MARK.encode() in head[:MARK_WITHIN]


def require_own_page(path: Path) -> None:
    """Raise ``OutputError`` if something exists that is not a page of this package."""
    require_ours(path, is_page, "a report")


@cache
def _environment() -> Environment:
    """Return the environment, kept because compiling templates is slower than rendering."""
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

"""Show the options of a command in groups, the common ones first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

REST: Final = "Other options"
"""Title of the options that no group names."""


class GroupedCommand(click.Command):
    """A command whose help lists its options under titles.

    Args:
        groups: Names of options, such as ``--out``, by title, in the order of the help. An option
            that no group names is listed last.
    """

    def __init__(
        self, *args: Any, groups: Mapping[str, Sequence[str]] | None = None, **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self.groups = dict(groups or {})

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group as a section."""
        title_of = {name: title for title, names in self.groups.items() for name in names}
        records: dict[str, dict[str, tuple[str, str]]] = {title: {} for title in self.groups}
        records[REST] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is None:
                continue
            name = next((name for name in option.opts if name in title_of), option.opts[0])
            records[title_of.get(name, REST)][name] = record
        for title, found in records.items():
            order = {name: place for place, name in enumerate(self.groups.get(title, ()))}
            rows = [found[name] for name in sorted(found, key=lambda name: order.get(name, 0))]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

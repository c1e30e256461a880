"""An option that was renamed: the old name works, and the help shows the new one."""

from __future__ import annotations

import click


class RenamedOption(click.Option):
    """Accept every spelling, in settings files too; show the last spelling in the help."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        spellings = self.opts
        self.opts = spellings[-1:]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = spellings

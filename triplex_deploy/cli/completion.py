"""Define ``triplex-deploy completion``: print the completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from triplex_deploy.cli.shared import common_options

VARIABLE = "_TRIPLEX_DEPLOY_COMPLETE"
"""Variable with which the script asks for completions; click derives it from the program's name."""


@click.command(
    epilog='Example: triplex-deploy completion bash >> ~/.bashrc -- zsh: eval "$(triplex-deploy '
    'completion zsh)" in ~/.zshrc -- fish: triplex-deploy completion fish > '
    "~/.config/fish/completions/triplex-deploy.fish"
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
def command(shell: str, as_json: bool) -> None:
    """Print the completion script of SHELL.

    The shell then completes commands, options, their choices, and file names.
    """
    from triplex_deploy.cli.shared import print_json

    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    script = kind(root, {}, "triplex-deploy", VARIABLE).source()
    if as_json:
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script)

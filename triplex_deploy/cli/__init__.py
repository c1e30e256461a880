"""Define the command line: one module per command, loaded when that command runs."""

from triplex_deploy.cli.main import main

__all__ = ["main"]

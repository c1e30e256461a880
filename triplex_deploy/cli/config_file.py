"""Read defaults of options from TOML files: one in the working folder, one of the user.

A file has a table for each command and a key for each option, without dashes::

    [predict]
    bundle = "/models/breast"
    memory-gb = 16

The first that has a value counts: the command line, the environment
(``TRIPLEX_DEPLOY_PREDICT_BUNDLE``), the file in the working folder, the file of the user.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from triplex_deploy.cli.closest import did_you_mean
from triplex_deploy.errors import ConfigError
from triplex_deploy.files.escape import short_repr
from triplex_deploy.files.regular import require_regular_file

logger = logging.getLogger(__name__)

PROJECT_FILE = Path("triplex-deploy.toml")
"""File of defaults in the working folder."""
ENVIRONMENT_PREFIX = "TRIPLEX_DEPLOY"
"""Start of the name of every environment variable of an option."""
_META = "triplex_deploy.defaults"


ALLOWED_IN_PROJECT = frozenset(
    {
        "all-tiles",
        "backend",
        "batch-size",
        "bundle",
        "device",
        "engine",
        "epochs",
        "executor",
        "format",
        "genes",
        "half-features",
        "layout",
        "memory-gb",
        "mpp",
        "pitch-um",
        "precision",
        "quiet",
        "recursive",
        "region-mm",
        "repeats",
        "resume",
        "seconds",
        "seed",
        "threads",
        "verbose",
        "workers",
    }
)
"""Options that the file in the working folder may set. A folder of data can come from anyone, so
that file sets nothing that names a file to write, weakens a check or chooses code to run."""


@dataclass(frozen=True)
class Default:
    """A default from a file."""

    value: Any
    """Value as click takes it from a default."""
    file: Path
    """File with the value."""


def config_files() -> list[Path]:
    """Return the files that exist; a later file replaces values of an earlier file."""
    return [path for path in (_user_file(), PROJECT_FILE) if path is not None and _is_there(path)]


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        logger.warning("%s: left out (%s)", path, error.strerror or error)
        return False


def use_defaults(ctx: click.Context, name: str, command: click.Command, known: list[str]) -> None:
    """Give a command the defaults of the files, before it is parsed.

    Args:
        ctx: Context that the command will be parsed under.
        name: Name of the command.
        command: The command.
        known: Names of all commands.

    Raises:
        ConfigError: If a file is not TOML, or a table, key or value is not valid.
    """
    found: dict[str, Default] = {}
    for path in config_files():
        tables = _read(path)
        _require_commands(path, tables, known)
        found |= _defaults(path, name, command, tables.get(name, {}))
    ctx.meta[_META] = found
    ctx.default_map = {name: {key: default.value for key, default in found.items()}}


def name_variables(name: str, command: click.Command) -> None:
    """Let ``TRIPLEX_DEPLOY_<COMMAND>_<OPTION>`` give each option, with each of its spellings.

    Click alone takes the names of the parameters, which differ from those of some options.
    """
    for param in command.params:
        if isinstance(param, click.Option) and param.envvar is None:
            param.envvar = [_variable(name, key) for key in reversed(_spellings(param))]


def _variable(name: str, key: str) -> str:
    return f"{ENVIRONMENT_PREFIX}_{name}_{key}".replace("-", "_").upper()


def _spellings(option: click.Option) -> list[str]:
    """Return the long names of an option without dashes; the last one is the current name."""
    return [name.removeprefix("--") for name in option.opts if name.startswith("--")]


def announce_defaults(ctx: click.Context) -> None:
    """Log each option that a file or the environment has set, with its source."""
    files: dict[str, Default] = ctx.meta.get(_META, {})
    for param in ctx.command.params:
        if not isinstance(param, click.Option) or param.name is None:
            continue
        source = ctx.get_parameter_source(param.name)
        if source is click.core.ParameterSource.DEFAULT_MAP and param.name in files:
            default = files[param.name]
            logger.info("%s %s: from %s", param.opts[-1], default.value, default.file)
        elif source is click.core.ParameterSource.ENVIRONMENT:
            known = [*(param.envvar or ()), f"{ctx.auto_envvar_prefix}_{param.name.upper()}"]
            variable = next(name for name in known if os.environ.get(name))
            logger.info("%s %s: from $%s", param.opts[-1], os.environ[variable], variable)


def set_by_working_folder(ctx: click.Context) -> str:
    """Return the options that the file in the working folder has set, empty if it set none."""
    files: dict[str, Default] = ctx.meta.get(_META, {})
    chosen = []
    for param in ctx.command.params:
        default = files.get(param.name or "")
        source = ctx.get_parameter_source(param.name or "")
        if default and default.file == PROJECT_FILE and source in _FROM_FILES:
            chosen.append(f"{param.opts[-1]} {short_repr(default.value)}")
    return ", ".join(chosen)


_FROM_FILES = (click.core.ParameterSource.DEFAULT_MAP,)


def _user_file() -> Path | None:
    try:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    except RuntimeError:  # the account has no home folder
        return None
    return folder / "triplex-deploy" / "config.toml"


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    require_regular_file(path, ConfigError, remedy="move it away")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror or error}); make it readable or move it away"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}; correct it") from error


def _require_commands(path: Path, tables: dict[str, Any], known: Iterable[str]) -> None:
    for key, table in tables.items():
        if key not in known and isinstance(table, dict):
            raise ConfigError(f"{path}: [{key}] is not a command; {did_you_mean(key, known)}")
        if not isinstance(table, dict):
            raise ConfigError(
                f"{path}: {key} is outside of a table; put it below its command, such as [predict]"
            )


def _defaults(
    path: Path, name: str, command: click.Command, table: dict[str, Any]
) -> dict[str, Default]:
    options = {
        key: param
        for param in command.params
        if isinstance(param, click.Option)
        for key in _spellings(param)
    }
    found = {}
    for key, value in table.items():
        where = f"{path}: [{name}] {key}"
        option = options.get(key.replace("_", "-"))
        if option is None or option.name is None:
            raise ConfigError(f"{where}: no such option; {did_you_mean(key, options)}")
        if path == PROJECT_FILE and ALLOWED_IN_PROJECT.isdisjoint(_spellings(option)):
            raise ConfigError(
                f"{where}: a file in the working folder may not set this; put it into the "
                "settings file of your own, or on the command line"
            )
        found[option.name] = Default(_checked(where, command, option, value), path)
    return found


def _checked(where: str, command: click.Command, option: click.Option, value: Any) -> Any:
    """Return the value as click takes it from a default; raises ``ConfigError`` if not valid."""
    if option.is_flag and not option.count and not isinstance(value, bool):
        raise ConfigError(f"{where}: {value!r} is neither true nor false; use true or false")
    if any(
        isinstance(item, dict | list) for item in (value if isinstance(value, list) else [value])
    ):
        raise ConfigError(
            f"{where}: {short_repr(value)} is no single value; give a text or a number"
        )
    several = option.multiple or option.nargs != 1
    if several and not isinstance(value, list):
        raise ConfigError(f"{where}: takes a list; write [{value!r}]")
    if isinstance(value, list):
        value = [_home(option, item) for item in value]
        value = value if several else ",".join(str(item) for item in value)
    else:
        value = _home(option, value)
    try:
        option.type_cast_value(click.Context(command), value)
    except click.BadParameter as error:
        raise ConfigError(f"{where}: {error.message.rstrip('.')}; correct it") from error
    except (TypeError, ValueError, OverflowError) as error:  # a date or infinity, for a number
        raise ConfigError(f"{where}: {short_repr(value)} is no value of it; correct it") from error
    return value


def _home(option: click.Option, value: Any) -> Any:
    """Return a value with ``~`` replaced by the home folder, if it is a path."""
    if not isinstance(option.type, click.Path):
        return value
    text = str(value)
    return str(Path(text).expanduser()) if text.startswith("~") else text

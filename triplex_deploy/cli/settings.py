"""Gather the options of a command into the settings object that the library takes.

An option is declared once, with its name, type and help. Its default is the default of the field
with the same name in the settings class, which also checks the values. The class is imported when
it is needed, so that a command is listed without its libraries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import wraps
from importlib import import_module
from typing import Any

import click

from triplex_deploy.errors import ConfigError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Setting(click.Option):
    """An option that gives one field of a settings class."""

    home: str | None = None
    """``module:Class`` of the settings class; ``settings`` fills it in."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        if not attributes.get("required"):
            attributes.setdefault("default", None)  # which get_default takes as: ask the field
        super().__init__(*args, **attributes)

    def get_default(self, ctx: click.Context, call: bool = True) -> Any:
        """Return the default of a file or of the declaration, otherwise that of the field."""
        found = super().get_default(ctx, call)
        return self._field_default() if found is None else found

    def _field_default(self) -> Any:
        if self.home is None:
            return None
        try:
            home = _load(self.home)
        except ModuleNotFoundError:  # help works without the libraries of an extra
            return None
        default_of = {field.name: field.default for field in fields(home)}
        default = default_of[self.name or ""]
        return None if default is MISSING else default


class RenamedSetting(Setting):
    """A setting with several names: all are accepted, and the help shows the last one.

    The old names also work in settings files and in names of environment variables.
    """

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the help with the last name only."""
        names = self.opts
        self.opts = names[-1:]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = names


class Override(Setting):
    """An option that overrides a key of a settings file; it is None if it is not given.

    The help shows the default of the field.
    """

    def __init__(self, *args: Any, home: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.home = home

    def get_default(self, ctx: click.Context, call: bool = True) -> Any:
        """Return the default of a file, otherwise None."""
        return click.Option.get_default(self, ctx, call)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the help with the default of the field."""
        record, default = super().get_help_record(ctx), self._field_default()
        if record is None or default is None:
            return record
        return record[0], f"{record[1]}  [default: {default}]"


def override(home: str, *names: str, **attributes: Any) -> Decorator:
    """Declare an option that overrides a field of ``home``; takes what ``click.option`` takes.

    Args:
        home: ``module:Class`` of the settings class, a dataclass.
        names: Names of the option; its parameter has the name of the field.
        attributes: Further attributes of the option.
    """
    return click.option(*names, cls=Override, home=home, **attributes)


def setting(*names: str, **attributes: Any) -> Decorator:
    """Declare one option for ``settings``; takes what ``click.option`` takes."""
    return click.option(*names, **{"cls": Setting, **attributes})


def settings(parameter: str, home: str, *options: Decorator) -> Decorator:
    """Return a decorator that adds options to a command and passes their values as one object.

    Args:
        parameter: Name of the command's parameter that receives the object.
        home: ``module:Class`` of the settings class, a dataclass.
        options: Declarations made by ``setting``; each has the name of a field.

    Raises:
        ConfigError: When the command runs, if the class does not accept a value.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        option_of: dict[str, str] = {}

        @wraps(command)
        def gathered(**values: Any) -> Any:
            chosen = {name: values.pop(name) for name in option_of}
            try:
                made = _load(home)(**chosen)
            except ConfigError as error:
                raise ConfigError(_with_option(str(error), option_of)) from error
            return command(**values, **{parameter: made})

        decorated: Callable[..., Any] = gathered
        for option in reversed(options):
            decorated = option(decorated)
            added = decorated.__click_params__[-1]  # type: ignore[attr-defined]
            added.home = home
            option_of[added.name] = added.opts[-1]
        return decorated

    return decorate


def _with_option(message: str, option_of: Mapping[str, str]) -> str:
    """Return a message about a field, such as ``pool_um: ...``, with the name of its option."""
    field, mark, rest = re.split(r"([:=])", f"{message}:", maxsplit=1)
    return option_of[field] + mark + rest[:-1] if field in option_of else message


def _load(home: str) -> Any:
    module, _, name = home.partition(":")
    return getattr(import_module(module), name)

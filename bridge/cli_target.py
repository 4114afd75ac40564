"""Which bridge a command is about: a config file, or the original worker's --connection and --slot."""

from collections.abc import Callable
from os import environ
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from bridge import config_file
from bridge.config import DEFAULT_CONNECTION, DEFAULT_SLOT, Config, from_options
from bridge.errors import ConfigError

_Command = TypeVar("_Command", bound=Callable[..., Any])

config_option = click.option(
    "-c",
    "--config",
    envvar="WALRUS_BRIDGE_CONFIG",
    show_envvar=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The configuration file; `walrus-bridge init` writes one.",
)
connection_option = click.option(
    "--connection",
    envvar="WALRUS_BRIDGE_CONNECTION",
    show_envvar=True,
    metavar="DSN",
    default=DEFAULT_CONNECTION,
    show_default=True,
    help="Instead of a configuration file: where PostgreSQL is, as libpq takes it.",
)
slot_option = click.option(
    "--slot",
    envvar="WALRUS_BRIDGE_SLOT",
    show_envvar=True,
    metavar="NAME",
    default=DEFAULT_SLOT,
    show_default=True,
    help="With --connection: the replication slot.",
)


def target(*, slot: bool) -> Callable[[_Command], _Command]:
    """The options --config, --connection and, with `slot`, --slot."""

    def decorate(command: _Command) -> _Command:
        if slot:
            command = slot_option(command)
        return config_option(connection_option(command))

    return decorate


def config_of(config: Path | None, connection: str, slot: str = DEFAULT_SLOT) -> Config:
    """The Config that the options mean.

    A configuration file and --connection or --slot exclude one another; where one of them comes from the environment
    and the other does not, the command line wins. Raises UsageError or ConfigError.
    """
    file = chosen_file(config)
    return config_file.load(file, environ) if file is not None else _from_options(connection, slot)


def chosen_file(config: Path | None) -> Path | None:
    """The configuration file, where that is what the options mean. Raises UsageError."""
    origins = {name: _origin(name) for name in ("config", "connection", "slot")}
    strongest = max(origins.values())
    chosen = [name for name, origin in origins.items() if origin == strongest]
    if strongest == _DEFAULT or "config" not in chosen:
        return None
    if len(chosen) > 1:
        names = " and ".join(f"--{name}" for name in chosen if name != "config")
        raise click.UsageError(
            f"--config and {names} exclude one another (their environment variables too): the file has"
            f" source.connection and source.slot. Give one or the other."
        )
    return config


def _from_options(connection: str, slot: str) -> Config:
    config = from_options(connection, slot)
    for path, what in config_file.faults(config):
        raise ConfigError(f"--{path.rpartition('.')[2]}: {what}")
    return config


_DEFAULT, _ENVIRONMENT, _COMMAND_LINE = range(3)


def _origin(name: str) -> int:
    """Where the option's value comes from, the stronger the greater."""
    source = click.get_current_context().get_parameter_source(name)
    return {ParameterSource.COMMANDLINE: _COMMAND_LINE, ParameterSource.ENVIRONMENT: _ENVIRONMENT}.get(
        source or ParameterSource.DEFAULT, _DEFAULT
    )

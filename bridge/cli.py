"""The command line: `walrus-bridge` and, for those who come from the original worker, `walrus`."""

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
import msgspec

from bridge import __version__, config_file, log
from bridge.cli_answers import status, trace
from bridge.cli_consumers import offsets, tail
from bridge.cli_database import migrate, slot
from bridge.cli_dead_letter import dead_letter
from bridge.cli_replay import lsn, replay
from bridge.cli_schema import schema
from bridge.cli_stages import settings_of, sink_of, window_of
from bridge.cli_target import chosen_file, config_of, config_option, connection_option, slot_option, target
from bridge.config import Config
from bridge.errors import BridgeError, ConfigError, Exit

EXAMPLE = Path(__file__).with_name("bridge.example.yaml")
INTERRUPTED = 130
"""What shells report for a program ended by Ctrl-C; also a question answered with no."""
PIPE_CLOSED = 141
"""What shells report for a program ended by SIGPIPE."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=CONTEXT | {"auto_envvar_prefix": "WALRUS_BRIDGE"})
@click.version_option(__version__, "-V", "--version", prog_name="walrus-bridge")
def cli() -> None:
    """Stream a PostgreSQL database's changes, row level security applied, to Kafka, RabbitMQ or stdout.

    \b
    Try it:        walrus-bridge demo
    Configure it:  walrus-bridge init bridge.yaml
    Check it:      walrus-bridge check --config bridge.yaml
    Run it:        walrus-bridge run --config bridge.yaml

    Every option may come from an environment variable instead: WALRUS_BRIDGE_CONFIG, WALRUS_BRIDGE_CONNECTION,
    WALRUS_BRIDGE_SLOT; an option of one command has the command's name in it, as in
    WALRUS_BRIDGE_MIGRATE_REVERT_YES. The command line wins. Exit statuses: docs/commands.md.
    """


@cli.command()
@target(slot=True)
@click.option("--wait", is_flag=True, help="While another client streams from the slot, wait, then take over.")
@click.option(
    "--accept-gap", is_flag=True, help="Go on where the slot was re-created or moved: changes may be missing."
)
def run(config: Path | None, connection: str, slot: str, wait: bool, accept_gap: bool) -> None:
    """Stream until stopped.

    Applies the migrations and makes the slot if they are missing. SIGTERM and Ctrl-C deliver what was read, confirm
    it, and end with 0; a second one ends at once.

    \b
    Examples:
      walrus-bridge run --config bridge.yaml
      walrus-bridge run --connection=postgresql://postgres:password@localhost:5501/postgres

    Without a configuration file, events go to stdout, one JSON object a line, and there is no HTTP listener.
    """
    _run(config_of(config, connection, slot), chosen_file(config), wait=wait, accept_gap=accept_gap)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
def init(file: Path | None, force: bool) -> None:
    """Write a commented configuration to FILE, or print it.

    \b
    Examples:
      walrus-bridge init bridge.yaml
      walrus-bridge init > bridge.yaml
    """
    text = EXAMPLE.read_text(encoding="utf-8")
    if file is None:
        click.echo(text, nl=False)
        return
    try:
        with file.open("w" if force else "x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{file}: exists already. What to do: choose another name, or --force") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from error
    click.echo(f"wrote {file}; next: walrus-bridge check --config {file}", err=True)


@cli.group()
def config() -> None:
    """Check, show and describe the configuration."""


@config.command("check")
@config_option
def config_check(config: Path | None) -> None:
    """Say whether the file is right, without connecting to anything.

    \b
    Example: walrus-bridge config check --config bridge.yaml
    """
    sink_of(_load(config), config)
    click.echo(f"{config}: ok")


@config.command("show")
@config_option
def config_show(config: Path | None) -> None:
    """Print the configuration as it is used: defaults and variables put in, secrets left out.

    \b
    Example: walrus-bridge config show --config bridge.yaml
    """
    click.echo(config_file.show(_load(config)), nl=False)


@config.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the configuration, for editors and checkers.

    \b
    Example: walrus-bridge config schema > bridge.schema.json
    """
    click.echo(json.dumps(config_file.schema(), indent=2, ensure_ascii=False))


@cli.command()
@target(slot=True)
@click.option("--json", "as_json", envvar="WALRUS_BRIDGE_CHECK_JSON", is_flag=True, help="Print the findings as JSON.")
def check(config: Path | None, connection: str, slot: str, as_json: bool) -> None:
    """Check everything that must hold before streaming, and say what to do about what does not.

    Changes nothing that lasts: with Kafka and RabbitMQ, the destinations of the subscribed tables are made as at start.
    Ends with 12 where something is an error; warnings do not count.

    \b
    Examples:
      walrus-bridge check --config bridge.yaml
      walrus-bridge check --config bridge.yaml --json
    """
    from bridge import check as checks

    checks.run(config_of(config, connection, slot), as_json=as_json)


@cli.command()
@target(slot=False)
@click.argument("table", metavar="SCHEMA.TABLE")
@click.option(
    "--role",
    envvar="WALRUS_BRIDGE_EXPLAIN_ROLE",
    metavar="ROLE",
    help="Only this role; without it, all that subscribe.",
)
def explain(config: Path | None, connection: str, table: str, role: str | None) -> None:
    """Explain how row level security is asked for the subscribers of a table: the queries, PostgreSQL's plans, hints.

    Runs no policy on a row and prints neither rows nor claims.

    \b
    Example:
      walrus-bridge explain public.message --config bridge.yaml
    """
    from bridge import explain as explaining

    explaining.run(config_of(config, connection), table, role)


cli.add_command(migrate)
cli.add_command(slot)
cli.add_command(replay)
cli.add_command(lsn)
cli.add_command(status)
cli.add_command(trace)
cli.add_command(dead_letter)
cli.add_command(offsets)
cli.add_command(tail)
cli.add_command(schema)


@cli.command()
def demo() -> None:
    """Show the whole way on a temporary PostgreSQL: a subscription, a change, its event.

    Needs PostgreSQL's server programs with wal2json, and sqitch; leaves nothing behind.

    \b
    Example: walrus-bridge demo
    """
    from bridge.demo import run_demo

    run_demo()


@click.command(context_settings=CONTEXT)
@connection_option
@slot_option
@click.version_option(__version__, "-V", "--version", prog_name="walrus")
def worker(connection: str, slot: str) -> None:
    """Stream a PostgreSQL database's changes to stdout, row level security applied, one JSON object a line.

    \b
    Example: walrus --connection=postgresql://postgres:password@localhost:5501/postgres

    The same as `walrus-bridge run` with these options; walrus-bridge can do more.
    """
    _run(config_of(None, connection, slot), None)


def _load(config: Path | None) -> Config:
    if config is None:
        raise click.UsageError("Missing option '-c' / '--config' (or WALRUS_BRIDGE_CONFIG).")
    return config_file.load(config, os.environ)


def _run(config: Config, file: Path | None, *, wait: bool = False, accept_gap: bool = False) -> None:
    """Configuration → logging → sink (not connected yet) → listener → stream, which has the migrations applied first."""
    from bridge import migrations, pipeline
    from bridge.health import Health
    from bridge.notify import Supervisor

    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    log.configure(config.log.level, config.log.format)
    settings = settings_of(config, wait=wait, accept_gap=accept_gap)
    if file is not None:  # without one, as the original worker's line, a second slot is nobody's wish
        settings = msgspec.structs.replace(settings, window=window_of(config))
    sink = sink_of(config, file)
    health = Health(config.source.slot, config.sink.kind)
    if config.http.listen is not None:
        from bridge.listener import Listener

        Listener(config.http.listen, health)
    pipeline.run(
        settings,
        sink,
        health,
        prepare=lambda: migrations.ensure(config.source.connection, config.migrations),
        supervisor=Supervisor(os.environ),
    )


class _Stopped(BaseException):
    """A signal asked to end before streaming had begun; later the loop has its own handlers."""


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry of `walrus-bridge`."""
    sys.exit(_guarded(cli, "walrus-bridge", arguments))


def walrus(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry of `walrus`."""
    sys.exit(_guarded(worker, "walrus", arguments))


def _guarded(command: click.Command, program: str, arguments: Sequence[str] | None) -> int:
    """Run a click command: one clear message for what can go wrong, a traceback for what should not."""
    log.configure()
    try:
        status = command.main(arguments, prog_name=program, standalone_mode=False)
    except BridgeError as error:
        log.failed(program, str(error), error.exit)
        return error.exit
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except _Stopped:
        return Exit.OK
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"{program}: ended before it was done", err=True)
        return INTERRUPTED
    except SystemExit as ended:
        # Click's way to end a shell's completion, and, with 1, where the reader of our output has gone.
        return PIPE_CLOSED if ended.code else Exit.OK
    except Exception:
        traceback.print_exc()
        click.echo(f"{program}: unexpected error. This is a bug: please report it with the lines above.", err=True)
        return Exit.UNEXPECTED
    return status if isinstance(status, int) else Exit.OK

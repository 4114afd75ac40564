"""The commands that answer an operator's questions: `status` and `trace`."""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from bridge.cli_target import config_of, target
from bridge.errors import Transient
from bridge.lsn import format_lsn, parse_lsn


def _period(_context: click.Context, _parameter: click.Parameter, seconds: float | None) -> float | None:
    if seconds is not None and not 0.1 <= seconds <= 86400:
        raise click.BadParameter("expected a number of seconds from 0.1 to 86400")
    return seconds


@click.command()
@target(slot=True)
@click.option("--json", "as_json", envvar="WALRUS_BRIDGE_STATUS_JSON", is_flag=True, help="Print it as JSON.")
@click.option(
    "--watch",
    type=float,
    callback=_period,
    is_flag=False,
    flag_value=2.0,
    metavar="[SECONDS]",
    help="Show it again every so many seconds (2), until Ctrl-C.",
)
def status(config: Path | None, connection: str, slot: str, as_json: bool, watch: float | None) -> None:
    """Tell on one screen how it stands: slot, position, lag, WAL, the running bridge, subscriptions, dead letters.

    Asks the database, and the running bridge at `http.listen`; where the bridge cannot be reached, it says so and shows the
    database's part. Ends with 0 whenever the database could answer, whatever the answer is.

    \b
    Examples:
      walrus-bridge status --config bridge.yaml
      walrus-bridge status --config bridge.yaml --watch
      walrus-bridge status --config bridge.yaml --json
    """
    from bridge.status import Source
    from bridge.status_text import screen

    asking = Source(config_of(config, connection, slot))

    def told() -> str:
        found = asking.ask()
        if not as_json:
            return screen(found)
        raw = msgspec.json.encode(found)
        # With --watch one line each, so that it can be read line by line.
        return (raw if watch else msgspec.json.format(raw, indent=2)).decode()

    click.echo(told())
    if watch is not None:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(told, watch, as_json=as_json)


def _watch(ask: Callable[[], str], seconds: float, *, as_json: bool) -> None:
    """Again and again; the database may be away meanwhile. On a terminal in place of what was there."""
    while True:
        time.sleep(seconds)
        try:
            text = ask()
        except Transient as error:
            text = msgspec.json.encode({"error": str(error)}).decode() if as_json else f"! {error}"
        if not as_json:
            click.clear()  # nothing where the output is no terminal
        click.echo(text if as_json or sys.stdout.isatty() else f"\n{text}")


@click.command()
@target(slot=True)
@click.argument("what", metavar="EVENT_ID|SCHEMA.TABLE")
@click.argument("key", nargs=-1, metavar="[KEY]...")
@click.option("--subscription", metavar="UUID", help="Explain this one: why did it get the change, or not?")
@click.option(
    "--lsn", metavar="LSN", help="Of a row's changes the one with this LSN, its own or its commit's; default: the last."
)
@click.option("--json", "as_json", envvar="WALRUS_BRIDGE_TRACE_JSON", is_flag=True, help="Print it as JSON.")
def trace(
    config: Path | None,
    connection: str,
    slot: str,
    what: str,
    key: tuple[str, ...],
    subscription: str | None,
    lsn: str | None,
    as_json: bool,
) -> None:
    """Tell for one row what happened: which change, whom it reaches, and which filters and policies let it through or not.

    Asks for an event by its id, or for a row by its table and primary key. Reads the change from the WAL by a temporary
    copy of the slot, beside the running bridge; moves nothing. Subscriptions, rights and policies are as they are now. Of
    a row it prints the key and what filters compare, of claims the role and `sub`.

    \b
    Examples:
      walrus-bridge trace public.book 1 --config bridge.yaml
      walrus-bridge trace public.page book=1 number=7 --subscription 2f6ab6a0-26f5-4d39-8a5a-2f9bb4b63a8c
      walrus-bridge trace 7409…-1/00000000015E4E50/00000000015E4DD0/00000000/public.book/authenticated
    """
    from bridge import log
    from bridge.source_settings import source_settings
    from bridge.trace import trace as traced
    from bridge.trace_text import text

    at = None if lsn is None else _lsn(lsn)
    clearing = sys.stderr.isatty()

    def progress(reached: int) -> None:
        if clearing:
            click.echo(f"\rreading the WAL that is kept: {format_lsn(reached)}", err=True, nl=False)

    settings = source_settings(config_of(config, connection, slot))
    log.configure("error")  # what the bridge would log while it judges, the answer says
    only = None if subscription is None else subscription.lower()
    try:
        found = traced(settings, what, key, at=at, subscription_id=only, progress=progress)
    finally:
        if clearing:
            click.echo("\r\033[K", err=True, nl=False)
    click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2) if as_json else text(found))


def _lsn(value: str) -> int:
    try:
        return parse_lsn(value)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--lsn") from error

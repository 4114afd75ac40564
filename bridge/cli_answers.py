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

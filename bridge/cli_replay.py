"""The commands about the past: `replay` and `lsn`."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from bridge import log
from bridge.cli_stages import settings_of, sink_of
from bridge.cli_target import chosen_file, config_of, target
from bridge.config_file import redact
from bridge.event import lsns_of
from bridge.lsn import format_lsn, parse_lsn
from bridge.pace import parse_table
from bridge.sampling import SamplingSink
from bridge.units import Duration, parse_moment


def _checked_by(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """An option's callback: its text, or each of them, is what `parse` takes."""

    def check(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        try:
            for each in value if isinstance(value, tuple) else (value,):
                if each is not None:
                    parse(each)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
        return value

    return check


@click.command()
@target(slot=True)
@click.option(
    "--from-lsn",
    callback=_checked_by(parse_lsn),
    envvar="WALRUS_BRIDGE_REPLAY_FROM_LSN",
    metavar="LSN",
    help="From the transaction with this commit LSN on, itself included.",
)
@click.option(
    "--since",
    callback=_checked_by(Duration.parse),
    envvar="WALRUS_BRIDGE_REPLAY_SINCE",
    metavar="DURATION",
    help="Instead: what was committed in the last 30m, 2h, 7d, …",
)
@click.option(
    "--to-lsn",
    callback=_checked_by(parse_lsn),
    envvar="WALRUS_BRIDGE_REPLAY_TO_LSN",
    metavar="LSN",
    help="Up to the transaction with this commit LSN, itself included; default: all that is committed now.",
)
@click.option(
    "--table",
    "tables",
    callback=_checked_by(parse_table),
    multiple=True,
    envvar="WALRUS_BRIDGE_REPLAY_TABLE",
    metavar="SCHEMA.TABLE",
    help="Events of this table only; may be given several times.",
)
@click.option(
    "--subscription",
    type=click.UUID,
    envvar="WALRUS_BRIDGE_REPLAY_SUBSCRIPTION",
    help="Only events that this subscription_id gets; they go out whole, to all who get them.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    envvar="WALRUS_BRIDGE_REPLAY_DRY_RUN",
    help="Send nothing: count the events of each table and show some.",
)
@click.pass_context
def replay(
    context: click.Context,
    config: Path | None,
    connection: str,
    slot: str,
    from_lsn: str | None,
    since: str | None,
    to_lsn: str | None,
    tables: tuple[str, ...],
    subscription: object,
    dry_run: bool,
) -> None:
    """Send the events of a stretch of the past again, beside the running bridge.

    Ids, keys and records are the same as before; the header `replayed` tells them apart. Who gets them is decided by
    the subscriptions, rights and policies of now. Nobody's position moves. Ctrl-C ends it with 15 and the command that
    goes on.

    \b
    Examples:
      walrus-bridge replay --config bridge.yaml --since 2h --dry-run
      walrus-bridge replay --config bridge.yaml --from-lsn 0/15E4E50 --to-lsn 0/1600000 --table public.book
    """
    from bridge import moments
    from bridge import replay as replaying

    if (from_lsn is None) is (since is None):
        raise click.UsageError("Give either --from-lsn or --since.")
    last = None if to_lsn is None else parse_lsn(to_lsn)
    whole = config_of(config, connection, slot)
    log.configure(whole.log.level, whole.log.format)
    settings = settings_of(whole)
    if from_lsn is not None:
        first = parse_lsn(from_lsn)
    else:
        first, _ = moments.first_since(settings, moments.ago(settings, Duration.parse(since)))
    if last is not None and last < first:
        raise click.UsageError(f"--to-lsn {to_lsn} is before {format_lsn(first)}, where the replay begins.")
    request = replaying.Request(
        first=first,
        last=last,
        tables=tuple(map(parse_table, tables)),
        subscription=None if subscription is None else str(subscription),
    )

    def go_on(first: int, last: int) -> str:
        lsns = ["--from-lsn", format_lsn(first), "--to-lsn", format_lsn(last)]
        return shlex.join(["walrus-bridge", "replay", *lsns, *_given(context)])

    if not dry_run:
        count = replaying.run(settings, sink_of(whole, chosen_file(config), apart=True), request, go_on)
        click.echo(f"replayed {count} event{'' if count == 1 else 's'}", err=True)
        return
    samples = SamplingSink()
    replaying.run(
        msgspec.structs.replace(settings, events_per_second=None, events_per_table={}), samples, request, go_on
    )
    click.echo(samples.report())


@click.command()
@target(slot=True)
@click.option(
    "--at",
    callback=_checked_by(parse_moment),
    envvar="WALRUS_BRIDGE_LSN_AT",
    metavar="TIME",
    help="A time with its zone: 2026-11-23T03:00Z, 2026-11-23T04:00+01:00.",
)
@click.option("--of", envvar="WALRUS_BRIDGE_LSN_OF", metavar="ID", help="An event's id; connects to nothing.")
def lsn(config: Path | None, connection: str, slot: str, at: str | None, of: str | None) -> None:
    """Say which commit LSN a time or an event has, as `replay --from-lsn` takes it.

    The LSN alone goes to stdout, what it is to stderr.

    \b
    Examples:
      walrus-bridge lsn --at 2026-11-23T03:00Z --config bridge.yaml
      walrus-bridge lsn --of 7409…-1/00000000015E4E50/00000000015E4DD0/00000000/public.book/authenticated
    """
    from bridge import moments

    if (at is None) is (of is None):
        raise click.UsageError("Give either --at or --of.")
    if of is not None:
        try:
            commit, own = lsns_of(of)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--of") from error
        click.echo(f"the transaction's commit; the change itself is at {format_lsn(own)}", err=True)
        click.echo(format_lsn(commit))
        return
    assert at is not None
    first, transaction = moments.first_since(settings_of(config_of(config, connection, slot)), parse_moment(at))
    if transaction is None:
        click.echo("nothing has been committed since: this is where the WAL ends", err=True)
    else:
        click.echo(f"the first transaction since then, committed {transaction.committed_at}", err=True)
    click.echo(format_lsn(first))


_RANGE = {"from_lsn", "since", "to_lsn"}


def _given(context: click.Context) -> list[str]:
    """The options of the command line but for the range, without secrets."""
    words: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        if name in _RANGE or context.get_parameter_source(name) != ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        option = parameter.opts[-1]
        if isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(option)
        else:
            for each in value if isinstance(value, tuple) else (value,):
                words += [option, redact(str(each)) if name == "connection" else str(each)]
    return words

"""The commands for those who consume: `offsets` and `tail`."""

import contextlib
import json
from collections.abc import Mapping
from os import environ
from pathlib import Path

import click

from bridge import config_file
from bridge.cli_target import config_option
from bridge.config import Config
from bridge.errors import ConfigError
from bridge.lsn import format_lsn, parse_lsn


def _lsn(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_lsn(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _named(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if not value:
        raise click.BadParameter("a group has a name")
    return value


scan_option = click.option(
    "--scan", is_flag=True, help="Look for the LSN from the topics' beginning, rather than go by clocks."
)
system_option = click.option(
    "--system",
    metavar="ID",
    help="Of which server the LSN is: its system identifier. Needed where a topic has events of several.",
)


@click.command()
@config_option
@click.option("--group", required=True, callback=_named, metavar="NAME", help="The consumer group.")
@click.option("--lsn", required=True, callback=_lsn, metavar="LSN", help="The commit LSN to begin at, included.")
@click.option(
    "--topic",
    "topics",
    envvar="WALRUS_BRIDGE_OFFSETS_TOPIC",
    multiple=True,
    metavar="NAME",
    help="Only this topic; may be repeated. Default: all topics of tables that the configuration's names allow.",
)
@click.option("--apply", is_flag=True, help="Set the group there. It must have no members.")
@click.option("--forward", is_flag=True, help="With --apply: skip events too, which the group has not read yet.")
@scan_option
@system_option
@click.option("--json", "as_json", envvar="WALRUS_BRIDGE_OFFSETS_JSON", is_flag=True, help="Print it as JSON.")
def offsets(
    config: Path | None,
    group: str,
    lsn: int,
    topics: tuple[str, ...],
    apply: bool,
    forward: bool,
    scan: bool,
    system: str | None,
    as_json: bool,
) -> None:
    """Find, in Kafka's topics, where the events at or after an LSN begin, and set a consumer group there.

    Asks no database. Without --apply nothing is changed.

    \b
    Examples:
      walrus-bridge offsets --config bridge.yaml --group billing --lsn 0/15E4E50
      walrus-bridge offsets --config bridge.yaml --group billing --lsn 0/15E4E50 --apply
    """
    kafka = _config(config).sink.kafka
    if kafka is None:
        raise ConfigError(
            f"{config}: offsets are Kafka's, and the sink is another, which keeps nothing once it is consumed. What to do: have"
            " the bridge send the events again (docs/runbooks)"
        )
    from bridge import group_offsets

    found = group_offsets.plan(kafka, group, lsn, topics, system, scan=scan, forward=forward, apply=apply)
    if as_json:
        click.echo(json.dumps([each.as_json() for each in found], indent=2))
        return
    click.echo(f"group {group}, the first events at or after {format_lsn(lsn)}")
    for text in group_offsets.table(found):
        click.echo(text)
    for text in group_offsets.notes(found):
        click.echo(text)
    click.echo("the group is set there" if apply else "nothing is changed; --apply sets the group there")


@click.command()
@config_option
@click.argument("names", metavar="[TOPIC_OR_EXCHANGE|-]...", nargs=-1)
@click.option(
    "--table",
    "tables",
    envvar="WALRUS_BRIDGE_TAIL_TABLE",
    multiple=True,
    metavar="SCHEMA.TABLE",
    help="Only events of this table; may be repeated.",
)
@click.option(
    "--subscription",
    "subscriptions",
    envvar="WALRUS_BRIDGE_TAIL_SUBSCRIPTION",
    multiple=True,
    metavar="UUID",
    help="Only events for this subscription; may be repeated.",
)
@click.option("--from-lsn", callback=_lsn, metavar="LSN", help="Kafka: begin at this commit LSN, included.")
@click.option(
    "-n",
    "--last",
    type=click.IntRange(min=0),
    metavar="N",
    help="Kafka: begin with the last N messages; default: 10. 0: only what comes.",
)
@click.option("--no-follow", is_flag=True, help="Kafka: end when all that is there is shown.")
@scan_option
@system_option
@click.option(
    "--accept-unparked",
    is_flag=True,
    help="RabbitMQ: look on although what no other queue is bound for is not parked meanwhile.",
)
@click.option("--json", "as_json", envvar="WALRUS_BRIDGE_TAIL_JSON", is_flag=True, help="Print the values as they are.")
def tail(
    config: Path | None,
    names: tuple[str, ...],
    tables: tuple[str, ...],
    subscriptions: tuple[str, ...],
    from_lsn: int | None,
    last: int | None,
    no_follow: bool,
    scan: bool,
    system: str | None,
    accept_unparked: bool,
    as_json: bool,
) -> None:
    """Show events readable, as they come: of Kafka's topics, of RabbitMQ's exchanges, or of a bridge that prints them.

    Ctrl-C ends it. It joins no consumer group and reads nobody's queue.

    \b
    Examples:
      walrus-bridge tail --config bridge.yaml
      walrus-bridge tail --config bridge.yaml --table public.book --from-lsn 0/15E4E50
      walrus-bridge run | walrus-bridge tail -
    """
    from bridge import tailing
    from bridge.pace import parse_table
    from bridge.tail import Wanted

    try:
        wanted = Wanted({parse_table(each) for each in tables}, {each.lower() for each in subscriptions})
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--table") from error
    if from_lsn is not None and last is not None:
        raise click.UsageError("--from-lsn and --last exclude one another: each says where to begin.")
    sink = None if "-" in names else _config(config).sink
    if sink is not None and sink.kafka is not None:
        begin = tailing.Begin(from_lsn, 10 if last is None else last, system, scan)
        shown = tailing.kafka(sink.kafka, names, wanted, begin, follow=not no_follow)
    else:
        _refuse(
            {
                "--from-lsn": from_lsn,
                "--last": last,
                "--system": system,
                "--no-follow": no_follow or None,
                "--scan": scan or None,
            }
        )
        if sink is not None and sink.rabbitmq is not None:
            shown = tailing.rabbitmq(sink.rabbitmq, names, wanted, accept_unparked=accept_unparked)
        elif any(name != "-" for name in names):
            raise click.UsageError("With - or with the stdout sink, events come from standard input alone.")
        else:
            shown = tailing.stdin(wanted)
    with contextlib.suppress(KeyboardInterrupt):
        for each in shown:
            if not as_json:
                click.echo(each.text)
            elif each.is_event:
                click.echo(each.value)


def _refuse(options: Mapping[str, object]) -> None:
    for option, given in options.items():
        if given is not None:
            raise click.UsageError(
                f"{option} is for Kafka, which keeps what is past; here only what comes can be shown."
            )


def _config(path: Path | None) -> Config:
    if path is None:
        raise click.UsageError("Missing option '-c' / '--config' (or WALRUS_BRIDGE_CONFIG).")
    return config_file.load(path, environ)

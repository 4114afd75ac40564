"""The commands about dead letters: what could not be decided or delivered, and stays until somebody does something."""

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from bridge import log
from bridge.cli_target import config_of, target
from bridge.config import Config
from bridge.dead_letters import DeadLetter, parse, ways_on
from bridge.errors import LettersLeft
from bridge.printable import printable
from bridge.sinks import make_letters, make_sink
from bridge.sinks.letters import Letters, Stored
from bridge.units import counted

REASON_CHARACTERS = 60
"""Of a reason in a list."""

Kept = tuple[Stored, DeadLetter]
_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group("dead-letter")
def dead_letter() -> None:
    """What could not be decided or delivered: look at it, try it again, or give it up.

    \b
    Examples:
      walrus-bridge dead-letter list --config bridge.yaml
      walrus-bridge dead-letter retry --all --config bridge.yaml
    """


def _table_option(command: str) -> Callable[[_Command], _Command]:
    return click.option(
        "--table",
        envvar=f"WALRUS_BRIDGE_DEAD_LETTER_{command}_TABLE",
        metavar="SCHEMA.TABLE",
        help="Only those of this table.",
    )


def _chosen(command: str) -> Callable[[_Command], _Command]:
    """IDs, or --all with or without --table."""

    def decorate(function: _Command) -> _Command:
        every = click.option(
            "--all",
            "every",
            envvar=f"WALRUS_BRIDGE_DEAD_LETTER_{command}_ALL",
            is_flag=True,
            help="All that are there, instead of naming them.",
        )
        return click.argument("ids", metavar="[ID]...", nargs=-1)(every(_table_option(command)(function)))

    return decorate


@dead_letter.command("list")
@target(slot=False)
@_table_option("LIST")
@click.option(
    "--json",
    "as_json",
    envvar="WALRUS_BRIDGE_DEAD_LETTER_LIST_JSON",
    is_flag=True,
    help="Print them as a JSON list of objects.",
)
def list_letters(config: Path | None, connection: str, table: str | None, as_json: bool) -> None:
    """List the dead letters, in the order of their changes.

    \b
    Example: walrus-bridge dead-letter list --table public.book --config bridge.yaml
    """
    with _open(config_of(config, connection)) as letters:
        found = [letter for _, letter in _of_table(_read(letters), table)]
        if as_json:
            click.echo(json.dumps([_summary(letter) for letter in found], indent=2, ensure_ascii=False))
            return
        for letter in found:
            click.echo(printable(letter.id))
            click.echo(f"  {_line(letter)}")
        click.echo(f"{counted(len(found), 'dead letter')} in {letters.place}")


@dead_letter.command("show")
@target(slot=False)
@click.argument("id", metavar="ID")
@click.option(
    "--json",
    "as_json",
    envvar="WALRUS_BRIDGE_DEAD_LETTER_SHOW_JSON",
    is_flag=True,
    help="Print it as it is written.",
)
def show(config: Path | None, connection: str, id: str, as_json: bool) -> None:
    """Show a dead letter, its values included, and what can be done about it.

    \b
    Example: walrus-bridge dead-letter show 7409…/public.book --config bridge.yaml
    """
    with _open(config_of(config, connection)) as letters:
        for stored, letter in _picked(letters, (id,), every=False, table=None):
            if as_json:
                click.echo(stored.value.decode())
            else:
                click.echo("\n".join(_described(letter)))


@dead_letter.command("retry")
@target(slot=False)
@_chosen("RETRY")
def retry_letters(config: Path | None, connection: str, ids: tuple[str, ...], every: bool, table: str | None) -> None:
    """Judge dead letters again, as of now, and send what may be seen to those who have not got it.

    A letter goes when all is acknowledged; where some still cannot be decided, it stays for them. Ends with 16 where
    a letter stays.

    \b
    Examples:
      walrus-bridge dead-letter retry 7409…/public.book --config bridge.yaml
      walrus-bridge dead-letter retry --all --table public.book --config bridge.yaml
    """
    from bridge.retry import retry
    from bridge.source_settings import source_settings

    chosen = config_of(config, connection)
    settings = source_settings(chosen)
    left = done = 0
    with _open(chosen) as letters:
        picked = _picked(letters, ids, every=every, table=table)
        for outcome in retry(picked, settings, letters, make_sink(chosen, apart=True)) if picked else ():
            left += outcome.left is not None
            done += outcome.left is None
            sent = f"{counted(outcome.events, 'event')} for {counted(outcome.subscriptions, 'subscription')}"
            if outcome.left is None:
                click.echo(
                    f"done  {printable(outcome.letter.id)}: {sent if outcome.events else 'nobody may see it, or wants it now'}"
                )
            else:
                told = f"{sent if outcome.events else 'nothing sent'}, still undecided: {outcome.undecided}"
                click.echo(
                    f"left  {printable(outcome.letter.id)}: {told if outcome.undecided else 'nothing sent'}: {printable(outcome.left)}"
                )
    click.echo(f"{done} done, {left} left")
    if left:
        raise LettersLeft(f"{counted(left, 'dead letter')} could not be done with. What to do: see the lines above")


@dead_letter.command("drop")
@target(slot=False)
@_chosen("DROP")
@click.option("--yes", envvar="WALRUS_BRIDGE_DEAD_LETTER_DROP_YES", is_flag=True, help="Do not ask.")
def drop(config: Path | None, connection: str, ids: tuple[str, ...], every: bool, table: str | None, yes: bool) -> None:
    """Give dead letters up: they are gone, and nobody will get their events from them.

    \b
    Example: walrus-bridge dead-letter drop 7409…/public.book --config bridge.yaml
    """
    with _open(config_of(config, connection)) as letters:
        picked = _picked(letters, ids, every=every, table=table)
        if not picked:
            click.echo("0 dropped")
            return
        if not yes:
            for _, letter in picked:
                click.echo(f"{printable(letter.id)}\n  {_line(letter)}")
            click.confirm(f"Drop {'this' if len(picked) == 1 else 'these'} for good?", abort=True)
        changed = letters.settle([(stored, None) for stored, _ in picked])
        for stored, letter in picked:
            if stored in changed:
                click.echo(f"left     {printable(letter.id)}: the bridge has written it anew meanwhile")
            else:
                click.echo(f"dropped  {printable(letter.id)}")
    if changed:
        raise LettersLeft(f"{counted(len(changed), 'dead letter')} not dropped. What to do: look at them again")


@contextlib.contextmanager
def _open(config: Config) -> Iterator[Letters]:
    log.configure("warning", config.log.format)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # what goes wrong is our own message
    with contextlib.closing(make_letters(config)) as letters:
        yield letters


def _read(letters: Letters) -> list[Kept]:
    """In the order of their changes. What is none of the bridge's is said, and left alone."""
    found = [(stored, parse(stored.value)) for stored in letters.read()]
    if strange := sum(letter is None for _, letter in found):
        click.echo(
            f"{counted(strange, 'message')} in {letters.place} left alone: no dead letter of the bridge's", err=True
        )
    return sorted(((stored, letter) for stored, letter in found if letter is not None), key=lambda each: each[1].id)


def _of_table(kept: Sequence[Kept], table: str | None) -> list[Kept]:
    return [each for each in kept if table is None or f"{each[1].schema}.{each[1].table}" == table]


def _picked(letters: Letters, ids: Sequence[str], *, every: bool, table: str | None) -> list[Kept]:
    """Those that are named, or all. Raises UsageError, LettersLeft."""
    if every == bool(ids):
        raise click.UsageError("name dead letters by their IDs, or give --all: one or the other")
    if ids and table is not None:
        raise click.UsageError("--table goes with --all")
    kept = _of_table(_read(letters), table)
    if every:
        return kept
    if unknown := [each for each in ids if each not in {letter.id for _, letter in kept}]:
        raise LettersLeft(
            f"there is no dead letter {printable(unknown[0])} in {letters.place}. What to do: `walrus-bridge dead-letter list`"
            " tells those that are there"
        )
    return [each for each in kept if each[1].id in ids]


def _summary(letter: DeadLetter) -> dict[str, object]:
    return {
        "id": letter.id,
        "commit_timestamp": letter.committed_at,
        "lsn": letter.lsn,
        "commit_lsn": letter.commit_lsn,
        "schema": letter.schema,
        "table": letter.table,
        "type": letter.kind,
        "reason": letter.reason,
        "undecided": len(letter.undecided),
        "can_be_retried": letter.recorded is not None,
    }


def _line(letter: DeadLetter) -> str:
    reason = printable(letter.reason)
    short = reason if len(reason) <= REASON_CHARACTERS else f"{reason[: REASON_CHARACTERS - 1]}…"
    return (
        f"{printable(f'{letter.committed_at}  {letter.schema}.{letter.table}  {letter.kind}')}"
        f"  undecided: {len(letter.undecided)}  {short}"
    )


def _described(letter: DeadLetter) -> Iterator[str]:
    change = f"{letter.kind} of {letter.schema}.{letter.table}, committed {letter.committed_at}"
    yield f"id           {printable(letter.id)}"
    yield f"change       {printable(change)}"
    yield f"position     {printable(f'commit {letter.commit_lsn}, change {letter.lsn}')}"
    yield f"reason       {printable(letter.reason)}"
    if letter.undecided:
        yield f"undecided    {counted(len(letter.undecided), 'subscription')}; all others have their event"
        for reason, number in Counter(each.reason for each in letter.undecided).most_common():
            listed = [f"{each.id} ({each.subscription_id})" for each in letter.undecided if each.reason == reason]
            more = f", and {number - len(listed[:3])} more" if number > 3 else ""
            yield f"             {printable(', '.join(listed[:3]))}{more}: {printable(reason)}"
    elif letter.undelivered:
        yield f"undelivered  {counted(len(letter.undelivered), 'subscription')}"
    for name, row in letter.rows.items():
        for column, value in row.items():
            yield f"{name:11}  {printable(column)} = {printable(bytes(value).decode())}"
    yield "what can be done"
    for when, command in ways_on(letter):
        yield f"             {when}:"
        yield f"               {printable(command)}"

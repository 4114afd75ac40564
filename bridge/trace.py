"""`walrus-bridge trace`: for one row, what happened? Which change, whom it reaches, and what lets it through or not.

The change is read from the WAL by a temporary copy of a slot (past.py): nothing moves. Where it is not kept any more, the
row as it is now is judged instead.
"""

from collections.abc import Sequence
from typing import Final

import psycopg

from bridge.catalog import Catalog
from bridge.change import Change
from bridge.errors import NotKept, SlotError, SourceRefused
from bridge.judged import cells
from bridge.lsn import format_lsn
from bridge.past import Past
from bridge.patterns import parse_pattern
from bridge.replication import ReplicationStream
from bridge.session import SourceSettings
from bridge.sql import Connection, connect, translate
from bridge.table import Table
from bridge.trace_facts import ChangeFacts, Trace
from bridge.trace_judge import Answer, TraceJudge, trace_judge
from bridge.trace_row import Progress, as_it_is_now, as_known, as_stored, changes, text_of
from bridge.trace_target import BadTarget, EventId, parse_event_id, parse_key
from bridge.values import Codec
from bridge.writer import EventWriter

LISTED: Final = 10
"""So many of a row's changes are told of, the latest."""

_AS_OF_NOW = "subscriptions, rights and policies are as they are now, which may differ from when the bridge judged it"


def trace(
    settings: SourceSettings,
    target: str,
    key: Sequence[str],
    *,
    at: int | None = None,
    subscription_id: str | None = None,
    progress: Progress = lambda _: None,
) -> Trace:
    """`at`: of a row's changes the one with this LSN, its own or its commit's; None: the last.

    Raises BadTarget, NotKept, SlotError, SourceRefused, SourceUnreachable.
    """
    event = parse_event_id(target) if not key else None
    with trace_judge(settings) as (judge, source):
        try:
            if event is not None:
                return _of_event(settings, judge, source, event, subscription_id)
            return _of_row(settings, judge, source, target, key, at, subscription_id, progress)
        except psycopg.Error as error:
            raise translate(error, "tracing") from error


# -- an event ----------------------------------------------------------------------------------------------------------


def _of_event(
    settings: SourceSettings, judge: TraceJudge, source: Connection, event: EventId, subscription_id: str | None
) -> Trace:
    name = f"{event.schema}.{event.table}"
    try:
        change, writer = _read_event(settings, event)
    except NotKept as error:
        what = str(error).partition(". What to do: ")[0]
        raise NotKept(
            f"{what}. What to do: `walrus-bridge trace {name} KEY` judges the row as it is now; source.replay_window keeps"
            " more in future"
        ) from error
    oid = _oid_of(judge.catalog, change, event)
    if oid is None:
        raise SourceRefused(
            f"the change was one of {name}, which has been dropped or renamed since, so nothing more can be told"
        )
    answer = _answered(judge, source, change, oid, subscription_id)
    table = answer.table
    facts = change_facts(change, table, judge.codec, writer.change_id(change, table.schema, table.name))
    return Trace(facts, True, [], answer.reasons, answer.details, [_AS_OF_NOW, *answer.notes])


def _read_event(settings: SourceSettings, event: EventId) -> tuple[Change, EventWriter]:
    with connect(settings.connection, {"search_path": ""}) as connection:
        stream = ReplicationStream(settings.connection)
        try:
            identity = stream.identify()
            if identity.system_identifier != event.system_identifier:
                raise SourceRefused(
                    f"the event is of the server {event.system_identifier}, and this is {identity.system_identifier}. What"
                    " to do: give the configuration of the bridge that sent it"
                )
            if identity.timeline_of(event.commit_lsn) != event.timeline:
                raise SourceRefused(
                    f"the event is of timeline {event.timeline}, and {format_lsn(event.commit_lsn)} is on"
                    f" {identity.timeline_of(event.commit_lsn)} here: that transaction was lost in a failover"
                )
            past = Past(settings, connection, stream, event.commit_lsn, event.commit_lsn)
            for message in past.messages():
                if isinstance(message, Change) and (message.lsn, message.seq) == (event.lsn, event.seq):
                    return message, EventWriter(identity)
        finally:
            stream.abandon()
    raise SourceRefused(
        f"there is no change at {format_lsn(event.lsn)} in the transaction that was committed at"
        f" {format_lsn(event.commit_lsn)}, or its table is not streamed any more. What to do: check the id"
    )


def _oid_of(catalog: Catalog, change: Change, event: EventId) -> int | None:
    """Of the table that the event is of: the change's own, or a partitioned one above it."""
    catalog.begin()
    try:
        (lookup,) = catalog.look_up([(change.schema, change.table, change.oid)])
        if lookup is None:
            return None
        tables = catalog.tables((lookup.oid, *lookup.ancestors))
    finally:
        catalog.end()
    return next((oid for oid, each in tables.items() if (each.schema, each.name) == (event.schema, event.table)), None)


# -- a row -------------------------------------------------------------------------------------------------------------


def _of_row(
    settings: SourceSettings,
    judge: TraceJudge,
    source: Connection,
    target: str,
    arguments: Sequence[str],
    at: int | None,
    subscription_id: str | None,
    progress: Progress,
) -> Trace:
    table = _table(judge.catalog, target)
    name = f"{table.schema}.{table.name}"
    key = as_stored(source, table, parse_key(arguments, table.key, name))
    try:
        found, writer = changes(settings, source, table, key, judge.codec, progress)
        kept = "the WAL that is kept has no change of that row"
    except (NotKept, SlotError) as error:
        found, writer, kept = [], None, str(error)
    chosen = [each for each in found if at in {None, each.lsn, each.transaction.commit_lsn}]
    if found and not chosen:
        lsns = ", ".join(format_lsn(each.lsn) for each in found[-LISTED:])
        raise SourceRefused(f"the row has no change at {format_lsn(at or 0)} in the WAL that is kept, but at {lsns}")
    if chosen and writer is not None:
        change = chosen[-1]
        told = {
            id(each): change_facts(each, table, judge.codec, writer.change_id(each, table.schema, table.name))
            for each in found
        }
        answer = _answered(judge, source, change, table.oid, subscription_id)
        others = [told[id(each)] for each in found if each is not change][-LISTED:]
        return Trace(told[id(change)], True, others, answer.reasons, answer.details, [_AS_OF_NOW, *answer.notes])
    row = as_it_is_now(source, table, key)
    whole = row is not None
    change = row or as_known(source, table, [key[column].encode() for column in table.key], table.key)
    if whole:
        judge.read_texts()
        so = "so this is the row as it is now, as if it were updated"
    else:
        so = "and the login of source.connection cannot read the row: it is gone, or row level security hides it. So this is what"
        so += " PostgreSQL says to subscribers of the row as it is now"
    answer = _answered(judge, source, change, table.oid, subscription_id, whole=whole)
    facts = change_facts(change, table, judge.codec, None)
    return Trace(facts, False, [], answer.reasons, answer.details, [f"{kept}; {so}", *answer.notes])


def _table(catalog: Catalog, target: str) -> Table:
    try:
        schema, name = parse_pattern(target).exact
    except ValueError as error:
        raise BadTarget(
            f"{target} is neither an event's id nor schema.table. What to do: give one of them, with a row's key after the"
            " table"
        ) from error
    catalog.begin()
    try:
        (lookup,) = catalog.look_up([(schema, name, None)])
        if lookup is None:
            raise SourceRefused(
                f"there is no table {target}. What to do: give it as schema.table, as `source.tables` does"
            )
        return catalog.tables([lookup.oid])[lookup.oid]
    finally:
        catalog.end()


# -- both --------------------------------------------------------------------------------------------------------------


def _answered(
    judge: TraceJudge,
    source: Connection,
    change: Change,
    oid: int,
    subscription_id: str | None,
    *,
    whole: bool = True,
) -> Answer:
    """`whole`: all of the row is known, not its key alone."""
    explain = judge.explain if whole else judge.explain_now
    answer = explain(change, oid, subscription_id)
    if answer is None:
        raise SourceRefused("the table has been dropped since, so nothing more can be told")
    if subscription_id is not None and not answer.details:
        row = source.execute(
            "select string_agg(distinct entity::regclass::text, ', ') from realtime.subscription"
            " where subscription_id::text = %s",
            (subscription_id.lower(),),
        ).fetchone()
        elsewhere = row[0] if row else None
        what = (
            f"it is subscribed to {elsewhere}, and the change is one of {answer.table.schema}.{answer.table.name}"
            if elsewhere
            else "there is none with that id: it has ended, or never was. What was then is not known"
        )
        raise SourceRefused(f"subscription {subscription_id}: {what}")
    return answer


def change_facts(change: Change, table: Table, codec: Codec, change_id: str | None) -> ChangeFacts:
    """Of the row's values the key's only. Pure."""
    carried = {**(cells(change.old) if change.old else {}), **(cells(change.new) if change.new else {})}
    transaction = change.transaction
    return ChangeFacts(
        id=change_id,
        kind=change.kind,
        schema=table.schema,
        table=table.name,
        key={name: text_of(carried.get(name), codec) for name in table.key},
        lsn=format_lsn(change.lsn) if change_id else None,
        commit_lsn=format_lsn(transaction.commit_lsn) if change_id else None,
        committed_at=transaction.committed_at if change_id else None,
        xid=transaction.xid if change_id else None,
    )

"""From a time to the place in the WAL, by the commit times of the transactions that a slot keeps."""

import contextlib
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg

from bridge.change import Begin, Transaction
from bridge.errors import SourceRefused
from bridge.past import kept_slots, not_kept, open_past
from bridge.session import SourceSettings
from bridge.sql import connect, translate
from bridge.window_facts import mark_before


def ago(settings: SourceSettings, seconds: float) -> datetime:
    """So long before the server's clock. Raises SourceUnreachable, SourceRefused."""
    with contextlib.closing(connect(settings.connection)) as connection:
        row = connection.execute("select clock_timestamp()").fetchone()
    assert row is not None
    now: datetime = row[0]
    try:
        return now - timedelta(seconds=seconds)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def first_since(settings: SourceSettings, moment: datetime) -> tuple[int, Transaction | None]:
    """The commit LSN of the first transaction that was committed at `moment` or later, as far as the stream has it; where
    there is none yet, the end of the WAL.

    Raises NotKept where it may be in WAL that is not kept any more; SourceRefused for a time to come; and what the
    connection and the slot may be refused for.
    """
    with contextlib.closing(connect(settings.connection, {"search_path": ""})) as connection:
        try:
            row = connection.execute("select clock_timestamp()").fetchone()
            oldest = kept_slots(connection, settings)[-1].confirmed_lsn or 0
            mark = mark_before(connection, settings.slot, moment, oldest)
        except psycopg.Error as error:
            raise translate(error, "asking where the WAL was then") from error
    if row is not None and moment > row[0]:
        raise SourceRefused(f"{moment.isoformat()} is yet to come: the server has {row[0].isoformat()}")
    # Where no mark is from before that time, an earlier transaction has to show that none is missing.
    is_covered = mark is not None
    with open_past(_bare(settings), mark) as past:
        for message in past.messages():
            if isinstance(message, Begin):
                if datetime.fromisoformat(message.transaction.committed_at) < moment:
                    is_covered = True
                elif is_covered:
                    return message.transaction.commit_lsn, message.transaction
                else:
                    break
    if not is_covered:
        raise not_kept(settings, f"what was committed since {moment.isoformat()}")
    return past.stretch.last + 1, None


def _bare(settings: SourceSettings) -> SourceSettings:
    """Only when transactions were committed matters. wal2json then says that in two lines for each."""
    return msgspec.structs.replace(settings, include=("realtime.subscription",), exclude=())

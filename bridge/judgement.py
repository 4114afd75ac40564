"""The stages that judge changes, put together on two connections: the catalog's, which also reads the subscriptions and
makes values, and the judging one."""

import contextlib
from collections.abc import Callable, Iterator

import psycopg

from bridge.audience import Audiences
from bridge.catalog import SETTINGS as CATALOG_SETTINGS
from bridge.catalog import Catalog
from bridge.errors import SourceRefused
from bridge.filtering import Filtering
from bridge.filters import Comparer
from bridge.joined import JoinedJudge
from bridge.judging import Judging
from bridge.policy_facts import PolicyFacts
from bridge.rls import SETTINGS as JUDGING_SETTINGS
from bridge.rls import Judge, Outdated, take_snapshot
from bridge.securing import Securing
from bridge.sql import Connection, connect, translate
from bridge.subscriptions import Subscriptions
from bridge.tally import Tally
from bridge.valuemaker import ValueMaker
from bridge.values import Codec
from bridge.writer import EventWriter


@contextlib.contextmanager
def both_connections(source: str, judging: str | None) -> Iterator[tuple[Connection, Connection]]:
    """The catalog's connection and the judging one, whose login is the source's where `judging` is None.

    Raises SourceUnreachable, SourceRefused.
    """
    with (
        contextlib.closing(connect(source, CATALOG_SETTINGS)) as catalog,
        contextlib.closing(connect(judging or source, JUDGING_SETTINGS)) as own,
    ):
        yield catalog, own


def make_judging(
    connection: Connection,
    judging_connection: Connection,
    subscriptions: Subscriptions,
    codec: Codec,
    writer: EventWriter,
    tally: Tally,
    wait: Callable[[float], None],
    *,
    judge: str,
    lossy: bool,
    max_record_bytes: int,
    stop_on_failure: bool,
    leave: bool,
    follow: bool = True,
) -> Judging:
    """`judge`, `max_record_bytes`, `leave`: as the config has them. `follow`: see Judging. `lossy`: the plugin is wal2json, so that a null may
    have been NaN or an infinity."""
    catalog = Catalog(connection)
    return Judging(
        (connection, judging_connection),
        catalog,
        Audiences(
            catalog,
            Filtering(Comparer(connection), codec),
            Securing(
                Judge(judging_connection, catalog, tally),
                JoinedJudge(judging_connection, catalog, PolicyFacts(catalog), tally),
                codec,
                current=judge == "current",
                lossy=lossy,
            ),
        ),
        ValueMaker(connection, codec, max_record_bytes),
        subscriptions,
        codec,
        writer,
        tally,
        stop_on_failure=stop_on_failure,
        leave=leave,
        wait=wait,
        follow=follow,
    )


def same_database(connection: Connection, judging_connection: Connection) -> None:
    """Policies are judged in the snapshot that they were read in, which only another session of that database can take.

    Raises SourceRefused, SourceUnreachable.
    """
    try:
        with connection.transaction():
            connection.execute("set transaction isolation level repeatable read, read only")
            row = connection.execute("select pg_export_snapshot()").fetchone()
            assert row is not None
            take_snapshot(judging_connection, row[0])
            judging_connection.execute("rollback")
    except Outdated as error:
        raise SourceRefused(
            f"rls.connection leads to another server or database than source.connection: {error.__cause__}. What to do:"
            " give both the same database"
        ) from error
    except psycopg.Error as error:
        raise translate(error, "comparing source.connection and rls.connection") from error

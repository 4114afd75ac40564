"""All that lives as long as the connections to PostgreSQL: opened together, closed together.

Three connections: the replication stream; the catalog's (the source login, which also reads the subscriptions and
makes values); and the judging one, on a login of its own where the user gives one.
"""

import contextlib
import re
from collections.abc import Callable, Sequence

import msgspec
import psycopg
import structlog

from bridge.change import Change, Message
from bridge.errors import GapError, InRecovery, SourceRefused
from bridge.guard import Guard
from bridge.judgement import both_connections, make_judging, same_database
from bridge.lag import Look, Retained
from bridge.lsn import Identity, format_lsn, parse_lsn
from bridge.patterns import streams
from bridge.pgoutput import PgOutputDecoder
from bridge.pgoutput import start_options as pgoutput_options
from bridge.publication import require as require_publication
from bridge.replication import ReplicationStream
from bridge.slot import Slot, create, find, problem
from bridge.sql import APPLICATION_NAME, Connection, translate
from bridge.subscriptions import Subscriptions
from bridge.tally import Tally
from bridge.values import PGOUTPUT_CODEC, WAL2JSON_CODEC
from bridge.wal2json import Wal2JsonDecoder, encoding_problem
from bridge.wal2json import start_options as wal2json_options
from bridge.writer import EventWriter

log = structlog.get_logger()

LOGGED_TABLES = 20
"""How many subscribed tables the log names at the start."""

_LOOK = """select pg_current_wal_lsn()::text, extract(epoch from clock_timestamp())::float8"""
_LOOK_AT_SLOT = f"""{_LOOK}, greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint), safe_wal_size
from pg_replication_slots where slot_name = %s"""


Decoder = Wal2JsonDecoder | PgOutputDecoder


class SourceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a session needs to know; the config's values, plain."""

    connection: str
    slot: str
    plugin: str
    publication: str | None = None
    include: tuple[str, ...] = ("*.*",)
    exclude: tuple[str, ...] = ()
    judge: str = "record"
    judging_connection: str | None = None
    max_record_bytes: int = 1 << 20
    on_failure: str = "dead_letter"
    leave: bool = False


class Session:
    """Open it, load the subscriptions, `start` it; then `stream`, `decode` and `judging` are the loop's."""

    def __init__(
        self,
        settings: SourceSettings,
        tally: Tally,
        on_wait: Callable[[], None],
        wait: Callable[[float], None],
        *,
        follow: bool = True,
    ) -> None:
        """`follow`: changes to realtime.subscription in the stream take effect. Raises SourceUnreachable, SourceRefused,
        InRecovery."""
        self._settings = settings
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            self.connection, self._judging_connection = opening.enter_context(
                both_connections(settings.connection, settings.judging_connection)
            )
            # First: a standby that is promoted between the two would write under the timeline that it has left.
            _require_primary(self.connection)
            self.stream = opening.enter_context(contextlib.closing(ReplicationStream(settings.connection)))
            self.identity: Identity = self.stream.identify()
            self._stack = opening.pop_all()
        self.connection.on_wait = self._judging_connection.on_wait = on_wait
        self.guard: Guard
        self.subscriptions = Subscriptions()
        lossy = settings.plugin == "wal2json"
        self.writer = EventWriter(self.identity, self.connection.info.dbname)
        self.judging = make_judging(
            self.connection,
            self._judging_connection,
            self.subscriptions,
            WAL2JSON_CODEC if lossy else PGOUTPUT_CODEC,
            self.writer,
            tally,
            wait,
            judge=settings.judge,
            lossy=lossy,
            max_record_bytes=settings.max_record_bytes,
            stop_on_failure=settings.on_failure == "stop",
            leave=settings.leave,
            follow=follow,
        )
        self._streams = streams(settings.include, settings.exclude)
        self._decoder = make_decoder(settings)

    def check_server(self) -> None:
        """What must hold before anything moves. Raises SourceRefused with what to do."""
        try:
            row = self.connection.execute(
                "select current_setting('wal_level'), current_setting('synchronous_standby_names')"
            ).fetchone()
        except psycopg.Error as error:
            raise translate(error, "asking for the server's settings") from error
        assert row is not None
        encoding = self.connection.info.parameter_status("server_encoding") or "UTF8"
        if self._settings.plugin == "wal2json" and (found := encoding_problem(encoding)):
            raise found
        same_database(self.connection, self._judging_connection)
        wal_level, standbys = row
        if wal_level != "logical":
            raise SourceRefused(
                f"the server's wal_level is {wal_level}. What to do: set wal_level = logical in postgresql.conf and"
                f" restart the server"
            )
        if matches_standby_names(standbys, APPLICATION_NAME):
            raise SourceRefused(
                f"synchronous_standby_names ({standbys}) matches this bridge, {APPLICATION_NAME}, so each commit would"
                f" wait for the bridge, and the bridge for each commit. What to do: name the standbys there"
            )

    def find_slot(self) -> Slot | None:
        """The slot, if there is one. Raises SlotError, SlotActive."""
        settings = self._settings
        try:
            slot = find(self.connection, settings.slot)
        except psycopg.Error as error:
            raise translate(error, f"reading slot {settings.slot}") from error
        found = None if slot is None else problem(slot, settings.plugin)
        if found is not None:
            raise found
        return slot

    def open_guard(self) -> Guard:
        """Read what is known of the slot; its table is the migrations'."""
        self.guard = Guard(self.connection, self._settings.slot, self._settings.plugin, self.identity)
        return self.guard

    def make_slot(self, *, accept_gap: bool) -> Slot:
        """Raises GapError where it has been used before, SlotError, SourceRefused."""
        settings = self._settings
        self.guard.may_create(accept_gap=accept_gap)
        create(self.connection, settings.slot, settings.plugin)
        log.info("slot created", slot=settings.slot, plugin=settings.plugin)
        slot = self.find_slot()
        if slot is None:
            raise self.slot_gone()
        return slot

    def slot_gone(self) -> GapError:
        return GapError(
            f"slot {self._settings.slot} is gone: it was dropped, or a standby without it has taken the server's place."
            f" Changes since its last confirmed position cannot be had from it. What to do: find out why;"
            f" `walrus-bridge run --accept-gap` makes a new slot and goes on from now"
        )

    def load_subscriptions(self, entities: Sequence[int] | None = None) -> list[tuple[str, str]]:
        """Read them, or those of the tables `entities` (OIDs), and give the subscribed tables (schema, name)."""
        try:
            self.subscriptions.load(self.connection, entities=entities)
        except psycopg.Error as error:
            raise translate(error, "reading realtime.subscription") from error
        return self.subscriptions.tables()

    def start(self, lsn: int) -> None:
        """Begin streaming."""
        settings = self._settings
        options = start_options(settings, self.connection, list(self.subscriptions.entities()))
        self.stream.start(settings.slot, lsn, options)
        tables = [table for table in self.subscriptions.tables() if self._streams(*table)]
        log.info(
            "streaming",
            system=self.identity.system_identifier,
            timeline=self.identity.timeline,
            slot=settings.slot,
            position=format_lsn(lsn),
            plugin=settings.plugin,
            subscriptions=len(self.subscriptions),
            tables=[f"{schema}.{table}" for schema, table in tables[:LOGGED_TABLES]],
        )

    def decode(self, data: list[tuple[int, bytes]]) -> list[Message]:
        """The messages, less the changes of tables that are not to be streamed (pgoutput knows no such list)."""
        decode, streams = self._decoder.decode, self._streams
        return [
            message
            for lsn, payload in data
            for message in decode(lsn, payload)
            if not isinstance(message, Change) or streams(message.schema, message.table)
        ]

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction's Begin has been decoded, and its Commit not yet."""
        return self._decoder.in_transaction

    def heartbeat(self) -> None:
        """A logical message through the stream: moves the position of an idle slot, and proves the way."""
        try:
            self.connection.execute("select pg_logical_emit_message(false, 'walrus-bridge', 'heartbeat')")
        except psycopg.Error as error:
            raise translate(error, "sending the heartbeat") from error

    def look(self, *, slot: bool) -> Look:
        """The end of the server's WAL, and its clock; with `slot` also what that retains: in the same question, so that the
        loop waits no longer for it."""
        try:
            if slot:
                found = self.connection.execute(_LOOK_AT_SLOT, (self._settings.slot,)).fetchone()
                if found is not None:
                    return Look(parse_lsn(found[0]), found[1], Retained(found[2], found[3]))
            row = self.connection.execute(_LOOK).fetchone()
        except psycopg.Error as error:
            raise translate(error, "asking for the end of the WAL") from error
        assert row is not None
        return Look(parse_lsn(row[0]), row[1])

    def close(self) -> None:
        """End the stream so that the last status arrives, then the other connections."""
        self._stack.close()


def _require_primary(connection: Connection) -> None:
    """Raises InRecovery."""
    try:
        row = connection.execute("select pg_is_in_recovery()").fetchone()
    except psycopg.Error as error:
        raise translate(error, "asking whether the server is a standby") from error
    if row != (False,):
        raise InRecovery("the server is a standby in recovery. What to do: connect to the primary")


def make_decoder(settings: SourceSettings) -> Decoder:
    return Wal2JsonDecoder() if settings.plugin == "wal2json" else PgOutputDecoder()


def start_options(settings: SourceSettings, connection: Connection, subscribed: list[int]) -> dict[str, str]:
    """START_REPLICATION's options. With pgoutput, raises SourceRefused where the publication lacks a table of `subscribed`
    (OIDs), or does not tell of the subscriptions."""
    if settings.plugin == "wal2json":
        return wal2json_options(settings.include, settings.exclude)
    assert settings.publication is not None
    try:
        require_publication(connection, settings.publication, subscribed)
    except psycopg.Error as error:
        raise translate(error, f"reading publication {settings.publication}") from error
    return pgoutput_options(settings.publication, connection.info.server_version)


def same_server(before: Identity, now: Identity) -> None:
    """Raises GapError where a reconnect has reached another server than before."""
    if before.system_identifier != now.system_identifier:
        raise GapError(
            f"the connection now leads to another server (system identifier {now.system_identifier}, before"
            f" {before.system_identifier}). What to do: check where it leads; start the bridge again if that is right"
        )


def matches_standby_names(setting: str, application: str) -> bool:
    """Whether synchronous_standby_names names `application`: in any case, or by ``*``. Pure."""
    listed = re.search(r"\((.*)\)", setting)
    names = re.findall(r'"((?:[^"]|"")*)"|([^\s,()"]+)', listed[1] if listed else setting)
    given = {(quoted or plain).lower() for quoted, plain in names}
    return "*" in given or application.lower() in given

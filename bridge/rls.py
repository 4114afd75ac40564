"""Row level security: which of a batch's rows do which claims show?

The row that is judged is the one that the change carries, made into a row of the table's type from its texts, with
the policies' expressions as PostgreSQL prints them; the rest of the database is as it is now. One query for each
claims and set of rows, all in one pipeline, in the snapshot that the policies were read in.

Policies are other people's code. They run as the subscriber's role, read-only, with a time limit, on a connection of
their own (`rls.connection`), whose login should have no rights but to become those roles; afterwards the role and
the settings must be as they were set, or the answer does not count.
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import psycopg
from psycopg import sql

from bridge.errors import SourceRefused
from bridge.row_queries import Question, statement
from bridge.sql import Connection, first_line, is_transient
from bridge.tally import Tally

STATEMENT_TIMEOUT = "5s"
LOCK_TIMEOUT = "1s"
"""Shorter than the other, so that waiting for a lock is told from a policy that is slow: it is retried."""

SET_LIMITS = (
    f"select set_config('statement_timeout', '{STATEMENT_TIMEOUT}', true),"
    f" set_config('lock_timeout', '{LOCK_TIMEOUT}', true)"
)

SETTINGS = {"plan_cache_mode": "force_generic_plan", "default_transaction_read_only": "off"}
"""What the judging session needs besides FIXED_SETTINGS. Its search_path stays the login's own: policies may need it. They run
read-only whatever the default; our temporary tables need to be written."""


class Answer(msgspec.Struct, frozen=True):
    shown: frozenset[int]
    """Indexes of the lines that are shown."""
    undecided: dict[int, str]
    """Indexes of the lines for which a policy raised, with the reason."""


Cursor = psycopg.Cursor[tuple[Any, ...]]
Asked = tuple[Cursor, Cursor, Cursor]
"""Where the answers are: that role and claims were taken, which lines are shown, and how the session stood after that."""

FEW_LINES = 8
"""So few lines may be judged in vain."""

BEGIN_JUDGING = "begin isolation level repeatable read, read only"
CURRENT_SNAPSHOT = "select pg_current_snapshot()::text"


class Shared(Protocol):
    """The catalog's transaction, whose snapshot another session may take."""

    @property
    def snapshot(self) -> str:
        """As pg_current_snapshot() tells it."""

    def export(self) -> str:
        """A name by which another session takes it."""


def begin_judging(connection: Connection, catalog: Shared) -> bool:
    """Begin a transaction that sees what the catalog's sees; whether a new one did. Raises Outdated, psycopg.Error as
    `take_snapshot`.

    Where nothing has begun or ended since, a new snapshot is the same. That is asked first, for an exported one takes the
    server a file, which it makes and removes: slow on some file systems once there were many.
    """
    with connection.pipeline():
        connection.execute(BEGIN_JUDGING)
        cursor = connection.execute(CURRENT_SNAPSHOT)
    if cursor.fetchone() == (catalog.snapshot,):
        return True
    connection.execute("rollback")
    take_snapshot(connection, catalog.export())
    return False


def take_snapshot(connection: Connection, snapshot: str) -> None:
    """Begin a transaction with a snapshot that another session has exported.

    Raises Outdated where that has ended, as when its connection was lost; psycopg.Error where it is transient. In a
    statement of its own, so that this is never taken for a policy's error.
    """
    try:
        connection.execute(
            sql.SQL("{}; set transaction snapshot {}").format(sql.SQL(BEGIN_JUDGING), sql.Literal(snapshot))
        )
    except psycopg.Error as error:
        if is_transient(error):
            raise
        raise Outdated from error


class Outdated(Exception):
    """The catalog's snapshot is too old: it still has a role that is gone, or lacks claims that were put into a table
    since. Ask again, all of it."""


class Judge:
    """The judging connection."""

    def __init__(self, connection: Connection, catalog: Shared, tally: Tally) -> None:
        # psycopg would count a statement as prepared that never was, where its pipeline failed before it.
        connection.prepare_threshold = None
        self._connection = connection
        self._catalog = catalog
        self._tally = tally
        self._was_the_same = True
        """Whether a new snapshot was the catalog's the last time: then it may be again."""

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer all.

        Raises Outdated; psycopg.Error where it is transient (retry with a fresh snapshot); SourceRefused where
        the login may not take a role.
        """
        rows: Counter[tuple[str, str]] = Counter()
        for question in questions:
            rows[question.table.schema, question.table.name] += len(question.lines)
        begun = time.monotonic()
        try:
            answers = self._answer(list(questions), again=True)
        finally:
            self._tally.judged(rows, time.monotonic() - begun)
        self._tally.single_decisions += sum(len(question.lines) for question in questions)
        return answers

    def _answer(self, questions: list[Question], *, again: bool = False) -> list[Answer]:
        """All at once. Where a policy raises, by halves of the questions, then of a question's rows. With `again` a
        row that was alone has a second try where time was up: a backend or a server that stood still is not its policy's
        fault."""
        if not questions:
            return []
        try:
            return [Answer(shown, {}) for shown in self._run(questions)]
        except psycopg.Error as error:
            if is_transient(error):
                raise
            if again and isinstance(error, psycopg.errors.QueryCanceled) and _is_one_row(questions):
                return self._answer(questions)
            reason = f"{error.sqlstate}: {first_line(error)}"
        except Tampered as error:
            reason = str(error)
        if len(questions) > 1:
            half = len(questions) // 2
            return self._answer(questions[:half]) + self._answer(questions[half:])
        question = questions[0]
        if len(question.lines) == 1:
            self._may_take(question.role)
            return [Answer(frozenset(), {0: reason})]
        half = len(question.lines) // 2
        first, second = (
            self._answer([msgspec.structs.replace(question, lines=lines)])[0]
            for lines in (question.lines[:half], question.lines[half:])
        )
        return [
            Answer(
                first.shown | {half + index for index in second.shown},
                first.undecided | {half + index: why for index, why in second.undecided.items()},
            )
        ]

    def _run(self, questions: Sequence[Question]) -> list[frozenset[int]]:
        connection = self._connection
        few = sum(len(question.lines) for question in questions) <= FEW_LINES
        try:
            asked = self._asked_at_once(questions) if few and self._was_the_same else None
            if asked is None:
                self._was_the_same = begin_judging(connection, self._catalog)
                with connection.pipeline():
                    asked = self._send_all(questions)
            answers = []
            for question, (taken, cursor, after) in zip(questions, asked, strict=True):
                taken.fetchone()
                shown = frozenset(n - 1 for (n,) in cursor.fetchall())
                verify(question.role, question.claims, after.fetchone())
                answers.append(shown)
            return answers
        except (psycopg.Error, Outdated):
            self._roll_back()
            raise

    def _asked_at_once(self, questions: Sequence[Question]) -> list[Asked] | None:
        """Along with whether a new snapshot is the catalog's, which saves a way to the server; None: it is another."""
        connection, seen = self._connection, None
        try:
            with connection.pipeline():
                connection.execute(BEGIN_JUDGING)
                seen = connection.execute(CURRENT_SNAPSHOT)
                asked = self._send_all(questions)
        except psycopg.Error:
            if self._connection.closed or self._is_the_catalogs(seen):
                raise
            self._roll_back()
            return None
        return asked if self._is_the_catalogs(seen) else None

    def _is_the_catalogs(self, seen: Cursor | None) -> bool:
        return seen is not None and seen.description is not None and seen.fetchone() == (self._catalog.snapshot,)

    def _roll_back(self) -> None:
        if not self._connection.closed:
            self._connection.execute("rollback")

    def _send_all(self, questions: Sequence[Question]) -> list[Asked]:
        """And the transaction's end, with which goes what a policy may have set for the session."""
        self._connection.execute(SET_LIMITS)
        asked = [self._send(question) for question in questions]
        self._connection.execute("rollback")
        return asked

    def _send(self, question: Question) -> Asked:
        taken = self._connection.execute(
            "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)",
            (question.role, question.claims),
        )
        cursor = self._connection.execute(statement(question), (list(question.lines),))
        return taken, cursor, self._connection.execute(STATE)

    def _may_take(self, role: str) -> None:
        """Raises SourceRefused where the login may not SET ROLE to it, Outdated where it has just been dropped."""
        try:
            with self._connection.transaction(force_rollback=True):
                self._connection.execute("select set_config('role', %s, true)", (role,))
        except psycopg.errors.InsufficientPrivilege as error:
            raise SourceRefused(
                f"the judging login may not SET ROLE {role}: {first_line(error)}. "
                f"What to do: grant it membership in that role (deploy/roles.sql shows how)"
            ) from error
        except psycopg.errors.InvalidParameterValue as error:
            raise Outdated from error


def _is_one_row(questions: Sequence[Question]) -> bool:
    return len(questions) == 1 and len(questions[0].lines) == 1


class Tampered(Exception):
    """A policy changed the role or the settings that it was run under."""


STATE = """select current_setting('role'), current_setting('request.jwt.claims', true),
  current_setting('transaction_read_only'), current_setting('statement_timeout'), pg_current_xact_id_if_assigned() is null"""


def verify(role: str, claims: str, state: tuple[object, ...] | None) -> None:
    """Raises Tampered unless all is as it was set. A transaction id means that something was written: read-only, that can
    only be a temporary table, as those with the claims are (key_tables.py)."""
    if state != (role, claims, "on", STATEMENT_TIMEOUT, True):
        raise Tampered("a policy changed the role or the settings that it runs under, or wrote to a temporary table")

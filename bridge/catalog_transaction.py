"""The read-only transaction in which a batch asks the catalog: one snapshot for all of it.

A way to the server and back costs as much as most of these queries, and one batch asks what the last one did: so that is
asked along with the beginning of the transaction. An answer counts only for exactly the question that comes later.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from bridge.snapshot import Snapshot
from bridge.sql import Connection

Rows = list[tuple[Any, ...]]
Parameters = Mapping[str, Any]
_Cursor = psycopg.Cursor[tuple[Any, ...]]


class CatalogTransaction:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.snapshot = ""
        """As pg_current_snapshot() tells it."""
        self._is_open = False
        self._exported: str | None = None
        self._asked: dict[str, Parameters] = {}
        """What this transaction has asked, by query, and the next one will."""
        self._ahead: dict[str, tuple[Parameters, _Cursor]] = {}
        """What has been asked ahead, and where its answers are."""

    def begin(self, certain: Mapping[str, Parameters] | None = None) -> Snapshot:
        """`certain`: questions that will come."""
        self.end()
        expected = {**self._asked, **(certain or {})}
        self._asked = {}
        self._is_open = True
        with self._connection.pipeline():
            self._connection.execute("begin isolation level repeatable read, read only")
            cursor = self._connection.execute("select pg_current_snapshot()::text")
            self._ahead = {
                query: (parameters, self._connection.execute(query, parameters))
                for query, parameters in expected.items()
            }
        row = cursor.fetchone()
        assert row is not None
        self.snapshot = str(row[0])
        return Snapshot.parse(self.snapshot)

    def export(self) -> str:
        """The transaction's snapshot, for another session to take: policies are judged in the state that they were read
        in. Not inside a savepoint: PostgreSQL exports none there."""
        if self._exported is None:
            row = self._connection.execute("select pg_export_snapshot()").fetchone()
            assert row is not None
            self._exported = str(row[0])
        return self._exported

    def end(self) -> None:
        """Where one is open, and its connection still there: whoever asks that next is told."""
        if self._is_open and not self._connection.closed:
            self._is_open = False
            self._exported = None
            self._ahead = {}
            self._connection.execute("rollback")

    def ask(self, query: str, **parameters: Any) -> Rows:
        """What one batch asks in the same words as the next."""
        return self.ask_all([(query, parameters)])[0]

    def ask_all(self, questions: Sequence[tuple[str, Parameters]]) -> list[Rows]:
        """The same of several different queries, on one way."""
        self._asked.update(questions)
        ahead = [self._ahead.pop(query, None) for query, _ in questions]
        if all(
            known is not None and known[0] == parameters
            for known, (_, parameters) in zip(ahead, questions, strict=True)
        ):
            return [known[1].fetchall() for known in ahead if known is not None]
        with self._connection.pipeline():
            cursors = [self._connection.execute(query, parameters) for query, parameters in questions]
        return [cursor.fetchall() for cursor in cursors]

    def fetch(self, query: str, **parameters: Any) -> Rows:
        """What few batches ask."""
        return self._connection.execute(query, parameters).fetchall()

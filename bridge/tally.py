"""How batches have been judged, in numbers. It outlives the connections that judge."""

from collections import defaultdict
from collections.abc import Mapping


class Tally:
    def __init__(self) -> None:
        self.judging_seconds = 0.0
        """How long batches were judged, all that it takes included: the catalog, filters, values, and waiting for locks."""
        self.joined_rows = 0
        """How many rows were judged by a join."""
        self.single_decisions = 0
        """How many rows times claims were asked for by themselves."""
        self.rows: defaultdict[tuple[str, str], int] = defaultdict(int)
        """By schema and table: rows asked for by a join, and rows times claims by themselves."""
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        """By schema and table: how long the answers took."""
        self.ways: dict[tuple[str, str, str], str | None] = {}
        """By schema, table and role with enough claims for a join: why there is none; None: there is one."""

    def judged(self, rows: Mapping[tuple[str, str], int], seconds: float) -> None:
        """So many rows of each table were asked for, all together in that time: a table has its share by its rows."""
        total = sum(rows.values())
        for table, count in rows.items() if total else ():
            self.rows[table] += count
            self.seconds[table] += seconds * count / total

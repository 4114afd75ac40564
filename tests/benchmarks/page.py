"""`python -m tests.benchmarks.page bench.json`: docs/performance.md and its picture, from what was measured."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.chart import Bar, Panel, svg
from tests.benchmarks.report import sections

DOCS = Path(__file__).parents[2] / "docs"
SINKS = ("stdout", "kafka", "rabbitmq")

HEAD = """\
# Performance

This page is made by the benchmark: `make bench MODE=full`, then `make bench-page`. What it says holds for the machine below, with
PostgreSQL, the bridge, the broker and the consumer all on it, on {measured_at} ({name} mode; rows: {rows:,}; rounds: {rounds}). Speeds are
compared as ratios between programs that took turns in one run. Another machine has other speeds.

![Throughput and row level security](performance.svg)
"""
BUSY = 0.5
BUSY_TEXT = """\
**The machine was busy with other work** (load {load} when the run began), so these numbers are a first look: ratios move by as much as the other work does.
"""
READING = {
    "Throughput": """\
How fast a backlog is read, from when the program streams (starting it is not part of it) until the slot's confirmed position has reached the
backlog's end: so every event is in the pipe, or acknowledged by the broker. pg_recvlogical, a C program that writes the same plugin's output with the same
options to /dev/null, is the most that PostgreSQL gives. RabbitMQ is compared as well with a bare publisher with confirms, in the same turn. Rows have 8 columns:
bigint, uuid, text, numeric, integer, boolean, timestamptz and jsonb. That as many events arrived as there were rows is counted.""",
    "Where the time goes": """\
Microseconds of CPU time of the bridge's own stages for a change, with one subscriber and no row level security: the real loop over a stream as it was
recorded, in one process without servers. Kafka is without librdkafka here, and nothing is read from a socket. All includes handing over and acknowledging. The profile is flat: no
function of the interpreter or of a library takes a fifth of it, so what is left is Python's own price for touching each change once.

That, and not PostgreSQL, holds the throughput: pg_recvlogical does nothing with a change, and the walsender, the bridge, the broker and the consumer share the
machine's cores. The goals were 1.0 and 0.75 of pg_recvlogical for wal2json to Kafka over TCP (1-row, 1,000-row transactions), 0.9 and 0.5 for pgoutput. For a ratio of 0.75 on two cores, the
bridge, the broker and the consumer together may take 1.7 times what the walsender takes for a change; for 0.5 three times, for 1.0 as much as it. Tried, and no better: a pattern for each table in place of msgspec (1.4 µs a message; msgspec and the
columns together take 1.7); handing over in batches, which has no headers; one callback for several events, which is unsound across partitions. Better, and kept: what the changes of
a kind share is made once, records are filled into templates, the collector of cycles looks seldom, a busy socket is let fill for a millisecond, frames to RabbitMQ leave together.""",
    "Row level security": """\
Every subscriber has claims of its own and subscribes to the whole table. A change costs what the whole bridge takes for it, to stdout and confirmed; a decision is
that by the number of subscribers. That each event reached as many subscribers as may see the row is counted. The original (supabase/walrus) is measured by what it does for
each row and subscriber and nothing else: role and claims are set, and a prepared query looks for the row. It is asked of a sample of rows. Where time was up after
{cap:.0f} s nothing is said.""",
    "Goals": """\
What two cores are to give, with the real broker beside. What holds those that are not reached: throughput, see where the time goes. RabbitMQ's own work for a message is
more than the bridge's, and they share the cores; what is left of the bridge's is mostly pika's writing of headers. Row level security: each change is made into text for PostgreSQL and
its answers into an audience; a change by itself takes two ways to PostgreSQL and back before its event leaves, and the bridge's own time for asking is as long as PostgreSQL's for answering. Where
transactions begin or end meanwhile, the snapshot is exported, which is slow on file systems that look for a free inode (ext4: most of a millisecond).""",
    "Latency": """\
From the INSERT, by the server's clock just before its commit, until the consumer has the event, at a steady rate of single-row transactions (Poisson arrivals).""",
    "Start and rest": """\
From the start of the process, migrations applied already, until it streams, and until the event of a waiting change is in the pipe (pg_recvlogical: its first byte). Then
CPU and memory with nothing to do.""",
}


def page(results: dict[str, Any]) -> str:
    plan = results["plan"]
    parts = [HEAD.format(measured_at=results["measured_at"], **plan)]
    load = results["machine"].get("load before", "0")
    if float(load) > BUSY:
        parts.append(BUSY_TEXT.format(load=load))
    for title, table in sections(results):
        parts.append(f"## {title}\n")
        if title in READING:
            parts.append(READING[title].format(cap=plan["cap_seconds"]) + "\n")
        parts.append(table)
    return "\n".join(parts)


def picture(results: dict[str, Any]) -> str:
    panels = []
    for size in (1, 1_000):
        bars = [
            _bar(f"{cell['to']}, {cell['plugin']}, {cell['transport']}", cell.get("ratio"), 2, SINKS.index(cell["to"]))
            for cell in results.get("throughput", ())
            if cell["rows_per_transaction"] == size and cell["against"] == "pg_recvlogical"
        ]
        if bars:
            panels.append(Panel(f"Ratio to pg_recvlogical, {size:,}-row transactions", bars, mark=1.0))
    cells = sorted(results.get("rls", ()), key=lambda cell: (cell["policy"], cell["subscribers"]))
    bars = [
        _bar(f"{cell['policy']}, {cell['subscribers']:,} subscribers", cell.get("changes_per_second"), 0, len(SINKS))
        for cell in cells
    ]
    if bars:
        panels.append(Panel("Row level security: changes a second (logarithmic)", bars, logarithmic=True))
    return svg(panels, (*SINKS, "RLS"))


def _bar(label: str, value: float | None, digits: int, kind: int) -> Bar:
    return Bar(label, value or 0.0, "time was up" if value is None else f"{value:,.{digits}f}", kind)


def main() -> None:
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    (DOCS / "performance.svg").write_text(picture(results), encoding="utf-8")
    (DOCS / "performance.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()

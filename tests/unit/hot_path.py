"""The hot path without servers: the real loop from the bytes of a batch to an acknowledged event, and what it counts.

All wiring to the stages is here. What stands in for PostgreSQL and Kafka only answers: a table, its rights, "delivered".
"""

import contextlib
import gc
import os
import pathlib
import sys
import tracemalloc
import types
from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgspec

from bridge.audience import Audiences
from bridge.catalog import Lookup
from bridge.config import Kafka
from bridge.filtering import Filtering
from bridge.filters import Comparer
from bridge.health import Health
from bridge.judged import Subscription
from bridge.judging import Judging
from bridge.lsn import Identity
from bridge.opening import Settings
from bridge.patterns import streams
from bridge.pgoutput import PgOutputDecoder
from bridge.pipeline import Pipeline
from bridge.replication import Batch
from bridge.rls import Judge
from bridge.securing import Securing
from bridge.session import Session
from bridge.sinks.base import Sink
from bridge.sinks.kafka import KafkaSink
from bridge.sinks.stdout import StdoutSink
from bridge.snapshot import Snapshot
from bridge.subscriptions import Subscriptions
from bridge.table import Rights, Table
from bridge.tally import Tally
from bridge.valuemaker import ValueMaker
from bridge.values import PGOUTPUT_CODEC, WAL2JSON_CODEC
from bridge.wal2json import Wal2JsonDecoder
from bridge.writer import EventWriter
from tests.unit.hot_path_stream import OID, RIGHTS, TABLE, Messages, stream

# -- the loop ------------------------------------------------------------------------------------------------------------


class Loop:
    """`Pipeline`'s own, with one subscription and no row security, over the given batches."""

    def __init__(self, plugin: str, sink: Sink, batches: Sequence[Messages]) -> None:
        self._batches = list(batches)
        self._readable, write = os.pipe()
        os.write(write, b"x")
        os.close(write)
        self._session = self._make_session(plugin)
        self._stop = _Stop()
        settings = Settings(connection="", slot="", plugin=plugin)
        self._pipeline = Pipeline(settings, sink, Health(), cast("Any", self._stop), lambda: None)
        self._pipeline._heartbeat_at = self._pipeline._looked_at = float("inf")

    def run(self) -> None:
        """Read, judge and send all, until all is acknowledged."""
        self._pipeline._stream(cast("Session", self._session))
        self._pipeline._tick()

    @property
    def confirmed(self) -> int:
        return self._pipeline._confirmable()

    def close(self) -> None:
        os.close(self._readable)

    def _make_session(self, plugin: str) -> Any:
        codec = WAL2JSON_CODEC if plugin == "wal2json" else PGOUTPUT_CODEC
        nobody: Any = types.SimpleNamespace()
        catalog: Any = _Catalog()
        subscriptions = Subscriptions()
        subscriptions.apply([Subscription(1, "2f6ab6a0-26f5-4d39-8a5a-2f9bb4b63a8c", OID, 10, "{}", (), "*", None)])
        judging = Judging(
            (nobody, nobody),
            catalog,
            Audiences(
                catalog,
                Filtering(Comparer(nobody), codec),
                Securing(Judge(nobody, nobody, Tally()), None, codec, current=False, lossy=plugin == "wal2json"),
            ),
            ValueMaker(nobody, codec, 1 << 20),
            subscriptions,
            codec,
            EventWriter(Identity("7309470000000000000", 1)),
            Tally(),
            stop_on_failure=False,
            leave=False,
            wait=lambda _: None,
        )
        decoding: Any = types.SimpleNamespace(
            _decoder=Wal2JsonDecoder() if plugin == "wal2json" else PgOutputDecoder(), _streams=streams(["*.*"], [])
        )
        return types.SimpleNamespace(
            stream=types.SimpleNamespace(read=self._read, fileno=lambda: self._readable),
            decode=types.MethodType(Session.decode, decoding),
            judging=judging,
            guard=types.SimpleNamespace(needs_raising=lambda _: False),
            in_transaction=False,
        )

    def _read(self, _messages: int, _size: int) -> Batch:
        data = self._batches.pop(0)
        self._stop.requested = not self._batches
        return Batch(data)


class _Stop:
    requested = False

    def requested_for(self, _seconds: float) -> bool:
        return False

    def fileno(self) -> int:
        return 0


class _Catalog:
    """One table, which everybody may read."""

    def open(self, _names: Sequence[Any]) -> Snapshot:
        return Snapshot(1 << 31, 1 << 31, frozenset())

    def end(self) -> None:
        pass

    def look_up(self, names: Sequence[Any]) -> list[Lookup]:
        return [Lookup(OID, ()) for _ in names]

    def tables(self, oids: Sequence[int]) -> dict[int, Table]:
        return dict.fromkeys(oids, TABLE)

    def rights(self, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Rights]:
        return dict.fromkeys(pairs, RIGHTS)


class _Producer:
    """librdkafka's, as far as the sink calls it; `poll` delivers what is held unless it is to keep it."""

    def __init__(self, keep: bool) -> None:
        self.held: list[Any] = []
        self._keep = keep

    def produce(self, topic: str, value: bytes, key: bytes, *, on_delivery: Any, headers: Any) -> None:
        self.held.append((value, key, on_delivery, headers))

    def poll(self, _seconds: float) -> None:
        if not self._keep:
            held, self.held = self.held, []
            for _, _, on_delivery, _ in held:
                on_delivery(None, None)


@contextlib.contextmanager
def sink(name: str, *, keep: bool = False) -> Iterator[Sink]:
    """`stdout` into /dev/null, or `kafka` without a broker. `keep`: nothing is acknowledged."""
    if name == "kafka":
        made = KafkaSink(Kafka())
        made._producer = cast("Any", _Producer(keep))
        made._topics = cast("Any", types.SimpleNamespace(poll=lambda: None, lost={}, limit=lambda _: None))
        made._routes = {("public", "item"): "realtime.public.item"}
        yield made
        return
    with pathlib.Path(os.devnull).open("wb") as nowhere:
        yield StdoutSink(nowhere.fileno(), nowhere.fileno())


# -- counting ------------------------------------------------------------------------------------------------------------


class Cost(msgspec.Struct, frozen=True):
    """Of one change."""

    calls: float
    """Calls of functions, Python's and C's. Comprehensions are none, as from Python 3.12 on."""
    held_bytes: float
    """What the bridge holds of an event while the broker has not acknowledged it."""


def cost(plugin: str, to: str, per_transaction: int, changes: int = 1_000) -> Cost:
    """The same on each machine. What is made once counts in both runs, and so in neither's difference."""
    few, many = (
        (_counted(plugin, to, per_transaction, count), _remembered(plugin, per_transaction, count))
        for count in (changes, 2 * changes)
    )
    return Cost(*((more - less) / changes for less, more in zip(few, many, strict=True)))


def _counted(plugin: str, to: str, per_transaction: int, changes: int) -> int:
    count = 0

    def profile(frame: types.FrameType, event: str, _argument: object) -> None:
        nonlocal count
        if event == "c_call" or (event == "call" and frame.f_code.co_name not in _COMPREHENSIONS):
            count += 1

    with _loop(plugin, to, per_transaction, changes) as loop:
        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            loop.run()
        finally:
            sys.setprofile(before)
    return count


_COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>"}


def _remembered(plugin: str, per_transaction: int, changes: int) -> int:
    with _loop(plugin, "kafka", per_transaction, changes, keep=True) as loop:
        gc.collect()
        tracemalloc.start()
        try:
            loop.run()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()


@contextlib.contextmanager
def _loop(plugin: str, to: str, per_transaction: int, changes: int, *, keep: bool = False) -> Iterator[Loop]:
    batch = stream(plugin, changes, per_transaction)
    with sink(to, keep=keep) as into, contextlib.closing(Loop(plugin, into, [batch])) as loop:
        yield loop
        assert loop.confirmed == (0 if keep else batch[-1][0])


# -- for counting instructions: `python -m tests.unit.hot_path wal2json kafka 1000 2000` or `… yardstick 2000` ------------


def yardstick(times: int) -> None:
    """Work of the loop's kind, that never changes: instructions are counted in it, as Pythons differ by a third."""
    names = TABLE.names
    for n in range(times):
        row = dict(zip(names, [b"%d" % n] * len(names), strict=True))
        parts = [b'"%s":%s' % (name.encode(), value) for name, value in row.items()]
        made = _Made(f"{n:016X}/{n:08X}", b"{%s}" % b",".join(parts), [(name, str(n)) for name in names])
        assert made.value.isascii() and made.headers[0][0] == "id"


class _Made(msgspec.Struct):
    id: str
    value: bytes
    headers: list[tuple[str, str]]


def main(arguments: Sequence[str]) -> None:
    if arguments[0] == "yardstick":
        yardstick(int(arguments[1]))
        return
    plugin, to, per_transaction, changes = arguments
    with _loop(plugin, to, int(per_transaction), int(changes)) as loop:
        loop.run()


if __name__ == "__main__":
    main(sys.argv[1:])

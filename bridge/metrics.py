"""The numbers of Health in Prometheus' text format. They are read when they are asked for: the loop only counts."""

import math
import platform
import time
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from bridge import __version__
from bridge.acknowledging import BOUNDS
from bridge.health import MOST_TABLES, Health, bounded

__all__ = ["CONTENT_TYPE", "exposition"]

_PREFIX: Final = "walrus_bridge"


def exposition(health: Health) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Numbers(health))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Numbers(Collector):
    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        health, tally = self._health, self._health.tally
        now = time.monotonic()
        built = (__version__, platform.python_version(), health.slot, health.sink)
        text = "What this bridge is."
        yield _labelled(GaugeMetricFamily, "info", text, ("version", "python", "slot", "sink"), [(built, 1)])
        yield _gauge("streaming", "1 while changes stream, as /ready.", int(health.ready))
        yield _counter("reconnects", "Streams started again after a lost connection to PostgreSQL.", health.reconnects)
        by_table = ("schema", "table")
        text = "Events handed to the sink; one that goes in parts counts once."
        yield _labelled(CounterMetricFamily, "events", text, by_table, bounded(health.events).items())
        text = "Dead letters handed to the sink."
        yield _labelled(CounterMetricFamily, "dead_letters", text, by_table, bounded(health.dead_letters).items())
        sent = health.in_flight.sent_bytes
        yield _counter("sent_bytes", "Bytes of events handed to the sink, as limits.in_flight counts them.", sent)
        yield _gauge("in_flight_events", "Events that the sink has not acknowledged.", health.in_flight.events)
        yield _gauge("in_flight_bytes", "Their bytes, as limits.in_flight counts them.", health.in_flight.bytes)
        if health.progress_at is not None:
            confirmed = health.confirmed_lsn
            yield _gauge("confirmed_lsn", "The LSN confirmed to PostgreSQL, as a number of bytes.", confirmed)
            received = max(health.received_lsn, confirmed)
            yield _gauge("received_lsn", "The LSN up to which the stream was read, in bytes.", received)
            yield _gauge(
                "lag_bytes", "WAL from the confirmed LSN to its end, as last looked at.", health.lag_bytes or 0
            )
            lag = health.lag_seconds
            if lag is not None:
                yield _gauge("lag_seconds", "Since all that was committed was delivered; 0 where it is.", lag)
            text = "Since the confirmed position last moved, or nothing was left to confirm."
            yield _gauge("progress_age_seconds", text, max(0.0, now - health.progress_at))
        yield from self._acknowledging(now)
        yield from self._slot()
        yield from _replay(health)
        text = "How long limits on the rate have held the stream back."
        yield _counter("held_back_seconds", text, health.held_back_seconds)
        text = (
            "How long batches were judged: catalog, filters, row level security and values, waiting for locks included."
        )
        yield _counter("judging_seconds", text, tally.judging_seconds)
        text = "Rows that row level security was asked about: by a join, and one by one for each claims value."
        yield _labelled(CounterMetricFamily, "row_security_rows", text, by_table, bounded(tally.rows).items())
        text = "How long the answers took. Tables that are asked about together have their shares by their rows."
        yield _labelled(CounterMetricFamily, "row_security_seconds", text, by_table, bounded(tally.seconds).items())
        text = "Rows, distinct in what policies read, that row level security judged by a join, for all claims at once."
        yield _counter("row_security_joined_rows", text, tally.joined_rows)
        text = "Such rows times claims that row level security judged one by one."
        yield _counter("row_security_single_decisions", text, tally.single_decisions)
        ways = [
            ((*of, "join" if reason is None else "one_by_one", reason or ""), 1)
            for of, reason in list(tally.ways.copy().items())[:MOST_TABLES]
        ]
        text = "Which way a table's row level security was last asked for a role, and why not by a join."
        labels = (*by_table, "role", "way", "reason")
        yield _labelled(GaugeMetricFamily, "row_security_way", text, labels, ways)

    def _acknowledging(self, now: float) -> Iterator[Metric]:
        acknowledging = self._health.acknowledging
        counts = accumulate(acknowledging.counts.copy())
        buckets = [
            ("+Inf" if bound == math.inf else str(bound), count)
            for bound, count in zip((*BOUNDS, math.inf), counts, strict=True)
        ]
        text = "From a batch's last transaction handed to the sink, to its acknowledgement."
        yield HistogramMetricFamily(
            f"{_PREFIX}_acknowledgement_seconds", text, buckets=buckets, sum_value=acknowledging.seconds
        )
        text = "How long the oldest batch waits for its acknowledgement; 0 where none does."
        yield _gauge("acknowledgement_wait_seconds", text, acknowledging.waiting_seconds(now))
        if self._health.acknowledged_at is not None:
            text = "Since the sink was last seen to acknowledge an event."
            yield _gauge("acknowledgement_age_seconds", text, max(0.0, now - self._health.acknowledged_at))

    def _slot(self) -> Iterator[Metric]:
        retained = self._health.retained
        if retained is not None and retained.retained_bytes is not None:
            text = "WAL that the slot makes the server keep, as last looked at."
            yield _gauge("slot_retained_bytes", text, retained.retained_bytes)
        if retained is not None and retained.safe_bytes is not None:
            text = "WAL that may still be written before the slot is in danger; only where there is a limit."
            yield _gauge("slot_safe_bytes", text, retained.safe_bytes)


def _replay(health: Health) -> Iterator[Metric]:
    text = "Replay windows that were dropped and begun anew."
    yield _counter("replay_restarts", text, health.replay_restarts)
    window = health.replay
    if window is None:
        return
    yield _gauge(
        "replay_retained_bytes", "WAL that the server keeps for the replay window.", window.retained_bytes or 0
    )
    text = "Transactions since the oldest whose dead catalog rows the server keeps for the replay window."
    yield _gauge("replay_catalog_xmin_age", text, window.catalog_xmin_age or 0)
    yield _gauge(
        "replay_oldest_lsn", "The LSN from which on everything can be replayed, in bytes.", window.oldest_lsn or 0
    )
    if window.oldest_at is not None:
        text = "What was committed since this time, in seconds since 1970, can be replayed."
        yield _gauge("replay_oldest_timestamp_seconds", text, window.oldest_at.timestamp())


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{_PREFIX}_{name}", text, value=value)


def _labelled(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Iterable[tuple[tuple[str, ...], float]],
) -> Metric:
    family = kind(f"{_PREFIX}_{name}", text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family

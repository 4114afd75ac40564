"""Bridges that are broken on purpose, each in one of the ways in which events get lost: what a torture must find.

`python -m tests.torture.broken VARIANT run --config …` is `walrus-bridge run` with that fault in it.
"""

import sys
from collections.abc import Callable

from confluent_kafka import KafkaError

from bridge.checkpoint import Checkpoint, Ticket
from bridge.cli import main
from bridge.event import Event
from bridge.lsn import parse_lsn
from bridge.sending import Sender
from bridge.sinks.kafka import KafkaSink


def confirm_before_acknowledgement() -> None:
    """The position moves with what was handed to the sink."""

    def commit(self: Checkpoint, end_lsn: int) -> None:
        self.confirmed = max(self.confirmed, end_lsn)

    Checkpoint.commit = Checkpoint.keepalive = commit  # type: ignore[method-assign]


def confirm_a_keepalive_at_once() -> None:
    """A keepalive's position does not wait for what is in flight."""

    def keepalive(self: Checkpoint, lsn: int) -> None:
        self.confirmed = max(self.confirmed, lsn)

    Checkpoint.keepalive = keepalive  # type: ignore[method-assign, assignment]


def confirm_inside_a_transaction() -> None:
    """An acknowledged event moves the position past its commit, though others of the transaction are under way."""
    delivered, advance = KafkaSink._delivered, Checkpoint.advance
    acknowledged = [0]

    def noted(self: KafkaSink, event: Event, ticket: Ticket, error: KafkaError | None, message: object) -> None:
        delivered(self, event, ticket, error, message)
        if error is None:
            acknowledged.append(parse_lsn(dict(event.headers)["commit_lsn"]) + 1)

    def hasty(self: Checkpoint) -> int:
        acknowledged[:] = [max(acknowledged)]
        self.confirmed = max(advance(self), acknowledged[0])
        return self.confirmed

    KafkaSink._delivered = noted  # type: ignore[method-assign]
    Checkpoint.advance = hasty  # type: ignore[method-assign]


def swallow_a_full_queue() -> None:
    """An event that the sink does not take now is forgotten."""

    def hand_over(self: Sender, event: Event, ticket: Ticket) -> None:
        self._sink.send(event, ticket)

    Sender._hand_over = hand_over  # type: ignore[method-assign]
    send = KafkaSink.send

    def often_full(self: KafkaSink, event: Event, ticket: Ticket) -> bool:
        return self._producer is not None and len(self._producer) < 200 and send(self, event, ticket)

    KafkaSink.send = often_full  # type: ignore[method-assign]


VARIANTS: dict[str, Callable[[], None]] = {
    variant.__name__: variant
    for variant in (
        confirm_before_acknowledgement,
        confirm_a_keepalive_at_once,
        confirm_inside_a_transaction,
        swallow_a_full_queue,
    )
}

if __name__ == "__main__":
    VARIANTS[sys.argv.pop(1)]()
    main()

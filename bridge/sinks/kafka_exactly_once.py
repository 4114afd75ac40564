"""Exactly once to Kafka: groups of events as Kafka transactions, each with the position that it brings the topics to.

A group ends between two changes, anywhere in a transaction of PostgreSQL. What is not committed is never seen by
consumers that read committed messages only, and comes again: whenever anything fails, the stream starts again at the
position that Kafka holds. A new producer with the same transactional id then fences off the old one and whatever it
left open; so does a second instance.
"""

import time
from collections.abc import Sequence
from typing import Final

import structlog
from confluent_kafka import KafkaError, KafkaException

from bridge.checkpoint import Ticket
from bridge.config import Kafka as KafkaConfig
from bridge.errors import NameRefused, SinkAborted, SinkRefused, SinkUnreachable
from bridge.event import Event
from bridge.lsn import Identity
from bridge.sinks import kafka_position
from bridge.sinks.base import Position, Rejection
from bridge.sinks.kafka import FORBIDDEN, GONE, KafkaSink
from bridge.sinks.kafka_settings import admin_settings

log = structlog.get_logger()

GROUP_SECONDS: Final = 0.02
"""A transaction takes events for so long. Longer is cheaper, and later for the consumers."""
GROUP_BYTES: Final = 8 << 20
IDLE_SECONDS: Final = 1.0
"""How often the position is written when there are no events."""
_COMMIT_SECONDS: Final = 0.05
_INIT_SECONDS: Final = 10.0
# Not _DESTROY, which a producer that is given up may say of its own: the next one finds out whether the topic is there.
_PERSISTENT: Final = (
    FORBIDDEN | (GONE - {KafkaError._DESTROY}) | {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD}
)
"""Errors that the next transaction would meet too."""


class _Group:
    """An open Kafka transaction."""

    def __init__(self) -> None:
        self.opened_at = time.monotonic()
        self.events: list[tuple[Ticket, int]] = []
        """Each event's ticket and size: acknowledged when the transaction is committed."""
        self.bytes = 0
        self.position: Position | None = None
        """Set when the transaction takes no more events."""

    @property
    def is_due(self) -> bool:
        return self.bytes >= GROUP_BYTES or time.monotonic() - self.opened_at >= GROUP_SECONDS


class ExactlyOnceSink(KafkaSink):
    forgets = True

    def __init__(self, config: KafkaConfig, slot: str) -> None:
        """Raises ConfigError for settings that cannot be. Connects to nothing yet."""
        super().__init__(config)
        self._slot = slot
        self._position_topic = self._destinations.positions(slot)
        self._own_topics[self._position_topic] = kafka_position.TOPIC_CONFIG
        # Of the slot, whose events must never be written by two.
        self._settings["transactional.id"] = f"walrus-bridge-{config.prefix}{slot}"
        del self._settings["message.timeout.ms"]  # librdkafka gives up with the transaction, which comes again
        self._identity = Identity("", 0)
        self._position: Position | None = None
        """As committed."""
        self._forget()

    def _forget(self) -> None:
        """What was not committed."""
        self._group: _Group | None = None
        self._aborted: KafkaError | None = None
        self._is_told = False
        self._is_between = True
        """Between two changes: all events of the last one have been offered."""
        self._rejections.clear()
        self._owed = 0
        """Rejected events whose parts or dead letters belong into the same transaction, and are not all in it yet."""
        self._ticket: Ticket | None = None
        self._last_event = self._position.last_event if self._position else ""
        self._end_lsn = self._position.end_lsn if self._position else 0
        self._written_at = time.monotonic()

    def _produce_anew(self) -> None:
        """Only when the stream starts: it fences off whoever has the slot's transactions."""

    def resume(self, identity: Identity) -> Position | None:
        if self._producer is None or self._group is not None or self._aborted is not None:
            self._identity = identity
            self._begin_anew()
        self._forget()
        return self._position

    def go_on_from(self, position: Position) -> None:
        self._position = position
        self._forget()

    def _begin_anew(self) -> None:
        """A new producer, and the position that the old one has left."""
        if self._producer is not None:
            self._producer.purge(blocking=False)
        self._producer = None
        super()._produce_anew()
        assert self._producer is not None
        try:
            self._producer.init_transactions(_INIT_SECONDS)
        except KafkaException as error:
            self._producer = None
            reason = error.args[0]
            if reason.code() in FORBIDDEN:
                raise SinkRefused(
                    f"Kafka does not let this login use transactions: {reason.str()}. What to do: grant it Write and"
                    f" Describe on the transactional id {self._settings['transactional.id']}"
                ) from error
            raise SinkUnreachable(f"Kafka's transactions cannot be had: {reason.str()} ({reason.name()})") from error
        self._position = kafka_position.read(admin_settings(self._settings), self._position_topic, self._slot)

    def confirmable(self, lsn: int) -> int:
        self._end_lsn = max(self._end_lsn, lsn)
        return lsn if self._position is None else min(lsn, self._position.end_lsn)

    def send(self, event: Event, ticket: Ticket) -> bool:
        if self._producer is None or self._aborted is not None:
            return False
        group = self._group
        self._is_between = event.order != self._last_event
        if group is not None and group.position is None and self._is_between and group.is_due:
            self._end(group)
        if group is None and self._is_known(event):
            group = self._begin()
        rejected = len(self._rejections)
        if group is None or group.position is not None or not super().send(event, ticket):
            return False
        self._is_between = True
        if len(self._rejections) > rejected:
            self._owed += 1
        else:
            group.events.append((ticket, event.size))
            group.bytes += event.size
        if ticket is not self._ticket:
            self._note_end()
            self._ticket = ticket
        self._last_event = max(self._last_event, event.order)
        return True

    def poll(self, timeout_seconds: float) -> Sequence[Rejection]:
        rejections = super().poll(timeout_seconds)
        if self._producer is not None and self._aborted is None:
            self._drive()
        if self._aborted is not None and not self._is_told:
            self._is_told = True
            raise SinkAborted(f"Kafka's transaction is given up: {self._aborted.str()} ({self._aborted.name()})")
        return rejections

    def replaced(self, rejection: Rejection) -> None:
        self._owed -= 1

    # -- a transaction's life --------------------------------------------------------------------------------------

    def _drive(self) -> None:
        """Whatever is the transaction's next step, if it is time."""
        group = self._group
        if group is None:
            behind = self._position is not None and self._end_lsn > self._position.end_lsn
            if behind and time.monotonic() - self._written_at >= IDLE_SECONDS and (group := self._begin()):
                self._end(group)
        elif group.position is None:
            if group.is_due and self._is_between:
                self._end(group)
        elif self._producer is not None and len(self._producer) == 0:  # all is delivered
            self._commit(group)

    def _begin(self) -> _Group | None:
        assert self._producer is not None
        try:
            self._producer.begin_transaction()
        except KafkaException as error:
            self._give_up(error.args[0])
            return None
        self._group = _Group()
        return self._group

    def _end(self, group: _Group) -> None:
        """Between two changes: what is in the group is all that there is up to its last event."""
        if self._owed:
            return
        assert self._producer is not None
        self._note_end()
        identity = self._identity
        position = Position(identity.system_identifier, identity.timeline, self._end_lsn, self._last_event)
        try:
            self._producer.produce(
                self._position_topic,
                kafka_position.encode(position),
                self._slot,
                partition=0,
                on_delivery=self._position_delivered,
            )
        except BufferError:
            return
        except KafkaException as error:
            self._give_up(error.args[0])
            return
        group.position = position

    def _commit(self, group: _Group) -> None:
        """Once all messages are delivered. Called again until there is an answer."""
        assert self._producer is not None
        try:
            self._producer.commit_transaction(_COMMIT_SECONDS)
        except KafkaException as error:
            reason = error.args[0]
            if reason.code() != KafkaError._TIMED_OUT and not reason.retriable():
                self._give_up(reason)
            return
        self._position = group.position
        self._written_at = time.monotonic()
        self._group = None
        for ticket, size in group.events:
            ticket.acknowledge(size)

    def _note_end(self) -> None:
        if self._ticket is not None and self._ticket.end_lsn is not None:
            self._end_lsn = max(self._end_lsn, self._ticket.end_lsn)

    def _give_up(self, reason: KafkaError) -> None:
        if self._aborted is None:
            self._aborted = reason

    def _is_known(self, event: Event) -> bool:
        """Whether its topic is there, or is known never to be."""
        try:
            return self._topic(event) is not None
        except NameRefused:
            return True

    def _is_too_large(self, event: Event, topic: str) -> bool:
        # Refused by the broker, it would spoil the transaction.
        return self._share(event, topic) is not None

    # -- callbacks -------------------------------------------------------------------------------------------------

    def _delivered(self, event: Event, ticket: Ticket, error: KafkaError | None, _message: object) -> None:
        """An event counts when its transaction does."""
        if error is not None:
            self._undelivered(error, event, ticket, alone=False)

    def _undelivered(self, error: KafkaError, event: Event, ticket: Ticket, *, alone: bool) -> None:
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE and not alone:
            # Refused by the broker, and the transaction with it: it would be again.
            self._failure = self._failure or self._refusal(error, event)
        elif error.code() in _PERSISTENT:
            super()._undelivered(error, event, ticket, alone=alone)
        else:
            self._give_up(error)

    def _position_delivered(self, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            self._give_up(error)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() and error.code() not in FORBIDDEN:
            self._give_up(error)
        else:
            super()._on_error(error)

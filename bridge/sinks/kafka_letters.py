"""Dead letters in their Kafka topic: the newest of each key, without those that a tombstone follows."""

import time
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from bridge.config import Kafka as KafkaConfig
from bridge.errors import BridgeError, SinkRefused, SinkUnreachable
from bridge.naming import Destinations
from bridge.sinks.kafka_log import LibraryLog
from bridge.sinks.kafka_refusals import connection_refusal
from bridge.sinks.kafka_settings import admin_settings, bootstrap_servers, passes, producer_settings, reader_settings
from bridge.sinks.letters import Letters, Stored

_ANSWER_SECONDS: Final = 10.0
_FORBIDDEN: Final = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
_MISSING: Final = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}

_Place = tuple[int, bytes]
"""Partition and key. One key is in two partitions where their number was raised in between."""


class KafkaLetters(Letters):
    def __init__(self, config: KafkaConfig) -> None:
        """Raises ConfigError for settings that cannot be."""
        self._settings = producer_settings(config.client)
        self._servers = bootstrap_servers(config.client)
        names = Destinations("sink.kafka.topic", config.topic, config.prefix, config.topics, kafka=True)
        self._topic = names.dead_letters
        self.place = f"topic {self._topic}"
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._trouble: KafkaError | None = None
        self._next: dict[int, int] = {}
        """By partition: the offset to read from."""
        self._newest: dict[_Place, Message] = {}
        """Tombstones too."""
        self._failure: KafkaError | None = None

    def read(self) -> list[Stored]:
        self._catch_up()
        found: dict[tuple[bytes, bytes], Stored] = {}
        for (_, key), message in self._newest.items():
            value = message.value()
            if value is not None:
                found.setdefault((key, value), Stored(value, [])).messages.append(message)
        return list(found.values())

    def count(self) -> int:
        return len(self.read())

    def settle(self, outcomes: Sequence[tuple[Stored, bytes | None]]) -> list[Stored]:
        self._catch_up()
        changed = [each for each, _ in outcomes if any(self._is_anew(one) for one in each.messages)]
        if self._producer is None:
            self._producer = Producer(self._settings | {"error_cb": self._on_error, "logger": LibraryLog("letters")})
        for stored, instead in outcomes:
            for message in stored.messages if stored not in changed else ():
                if self._newest[_place(message)] is message:  # else somebody else is done with it
                    self._produce(message, instead)
        while len(self._producer):
            self._producer.poll(0.1)
            if self._failure is not None:
                self._producer.purge()
                raise self._refused(self._failure)
        return changed

    def keep_alive(self) -> None:
        """Nothing is due."""

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
        if self._producer is not None:
            self._producer.purge()
        self._consumer = self._producer = None

    def _is_anew(self, message: Message) -> bool:
        """Another letter has taken its place."""
        newest = self._newest[_place(message)]
        return newest is not message and newest.value() is not None

    def _produce(self, message: Message, instead: bytes | None) -> None:
        """Into the partition that the letter is in: a tombstone in another one would leave it there."""
        assert self._producer is not None
        headers: Any = message.headers() if instead is not None else None
        partition = message.partition()
        assert partition is not None
        while True:
            try:
                self._producer.produce(
                    self._topic, instead, message.key(), partition, on_delivery=self._delivered, headers=headers
                )
                return
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise self._refused(error.args[0]) from error

    def _delivered(self, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            self._failure = self._failure or error

    def _on_error(self, error: KafkaError) -> None:
        # All brokers being down follows from what was said before, and explains less.
        if error.code() != KafkaError._ALL_BROKERS_DOWN or self._trouble is None:
            self._trouble = error
        if error.fatal():
            self._failure = self._failure or error

    # -- reading ---------------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Read all that is committed and was not read yet."""
        if self._consumer is None:
            self._consumer = Consumer(
                {
                    **admin_settings(self._settings),
                    **reader_settings("letters"),
                    "auto.offset.reset": "earliest",
                    "fetch.wait.max.ms": 50,
                    "error_cb": self._on_error,
                }
            )
        try:
            self._read_on(self._consumer)
        except KafkaException as error:
            raise self._cannot_read(error.args[0]) from error

    def _read_on(self, consumer: Consumer) -> None:
        topic = consumer.list_topics(self._topic, timeout=_ANSWER_SECONDS).topics[self._topic]
        if topic.error is not None:
            if topic.error.code() in _MISSING:
                return
            raise KafkaException(topic.error)
        open_partitions = set(topic.partitions)
        consumer.assign(
            [TopicPartition(self._topic, each, self._next.get(each, OFFSET_BEGINNING)) for each in topic.partitions]
        )
        last_seconds = time.monotonic()
        while open_partitions:
            message = consumer.poll(0.2)
            if message is None:
                if time.monotonic() > last_seconds + _ANSWER_SECONDS:
                    raise KafkaException(self._trouble or KafkaError(KafkaError._TIMED_OUT))
                continue
            last_seconds = time.monotonic()
            error, partition, offset = message.error(), message.partition(), message.offset()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                if not passes(error):
                    raise KafkaException(error)
                continue
            assert partition is not None
            assert offset is not None
            if error is None:
                self._next[partition] = offset + 1
                self._newest[_place(message)] = message
            else:
                self._next[partition] = max(offset, self._next.get(partition, 0))
                open_partitions.discard(partition)

    def _cannot_read(self, error: KafkaError) -> BridgeError:
        trouble = self._trouble or error
        if error.code() in _FORBIDDEN:
            return SinkRefused(
                f"Kafka does not let this login read {self.place}: {error.str()}. What to do: grant it Read and Describe on"
                " it"
            )
        return connection_refusal(trouble.code(), trouble.str(), self._servers) or SinkUnreachable(
            f"Kafka at {self._servers} does not give {self.place}: {trouble.str()}. What to do: check"
            " sink.kafka.client.bootstrap.servers, that the broker runs, and that security.protocol is its listener's"
        )

    def _refused(self, error: KafkaError) -> SinkRefused:
        what = "grant the login Write on the topic" if error.code() in _FORBIDDEN else "mend the cause"
        return SinkRefused(
            f"Kafka does not take what is to follow a dead letter in {self.place}: {error.str()} ({error.name()}). The letter"
            f" stays. What to do: {what}; then again, which sends its events under the same ids"
        )


def _place(message: Message) -> _Place:
    partition = message.partition()
    assert partition is not None
    return partition, bytes(message.key() or b"")

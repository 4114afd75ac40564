"""Reading topics of Kafka without being a consumer that anyone notices: no group is joined, no offset committed."""

import contextlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Self

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from bridge.config import Kafka as KafkaConfig
from bridge.errors import BridgeError, SinkRefused, SinkUnreachable
from bridge.lsn import parse_lsn
from bridge.naming import Destinations
from bridge.offsets import Message, Stamp
from bridge.sinks.kafka_refusals import connection_refusal
from bridge.sinks.kafka_settings import admin_settings, bootstrap_servers, passes, producer_settings, reader_settings

ANSWER_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 30.0
"""For so long a broker may not answer while a topic is read to its end."""
_POLL_SECONDS: Final = 0.5
_FORBIDDEN: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Read and Describe on the topics",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "Read and Describe on the group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "Describe on the cluster",
}
_ID = re.compile(r"([0-9]+)-[0-9]+/")

Headers = dict[str, str]


class Reader:
    """A connection that reads: closed at the end of its `with` block."""

    def __init__(self, config: KafkaConfig, *, follows: bool = False) -> None:
        """`follows`: it waits for what comes. Raises ConfigError. Connects when it is first asked for something."""
        self._trouble: list[KafkaError] = []
        self.servers = bootstrap_servers(config.client)
        self.settings = admin_settings(producer_settings(config.client))
        self._consumer = Consumer(
            {
                # A broker that waits for more at the end of a partition holds up the look at another place.
                "fetch.wait.max.ms": 500 if follows else 5,
                "queued.max.messages.kbytes": 16 << 10,
                **self.settings,
                **reader_settings("reader"),
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",  # retention may take what was there a moment ago
                "error_cb": self._trouble.append,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def topics(self) -> Mapping[str, Sequence[int]]:
        """The topics that the login may see, each with the numbers of its partitions."""
        with self.errors("list its topics"):
            found = self._consumer.list_topics(timeout=ANSWER_SECONDS).topics
        return {name: sorted(topic.partitions) for name, topic in sorted(found.items())}

    def partitions(self, names: Iterable[str]) -> "list[KafkaPartition]":
        """Those of these topics. Raises SinkRefused for a topic that is not there."""
        known = self.topics()
        found = []
        for name in dict.fromkeys(names):
            if name not in known:
                raise SinkRefused(
                    f"there is no topic {name} in Kafka at {self.servers}, or this login may not see it. What to do: correct"
                    " the name, or grant the login Describe on it"
                )
            for number in known[name]:
                with self.errors(f"tell how far {name} goes"):
                    low, end = self._consumer.get_watermark_offsets(
                        TopicPartition(name, number), timeout=ANSWER_SECONDS
                    )
                found.append(KafkaPartition(self, name, number, low, end))
        return found

    def read(self, places: Iterable[tuple["KafkaPartition", int]]) -> "Iterator[Read | KafkaPartition | None]":
        """Messages from these offsets on, without end; a partition whenever its end is reached; None for half a second
        in which nothing came."""
        starts = list(places)
        by_place = {(each.topic, each.number): each for each, _ in starts}
        with self.errors("read"):
            self._consumer.assign([TopicPartition(each.topic, each.number, start) for each, start in starts])
        while True:
            got = self._consumer.poll(_POLL_SECONDS)
            if got is None:
                self._raise_trouble("read")
                yield None
                continue
            error = got.error()
            partition = by_place.get((got.topic() or "", _number(got.partition())))
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                if not passes(error):
                    raise self._translated(error, f"read {got.topic() or 'topics'}")
            elif partition is not None:
                yield partition if error else Read(partition, got)

    def sent_since(self, partition: "KafkaPartition", ms: int) -> int:
        place = TopicPartition(partition.topic, partition.number, max(ms, 0))
        with self.errors(f"tell the offset of a time in {partition.name}"):
            (found,) = self._consumer.offsets_for_times([place], timeout=ANSWER_SECONDS)
            if found.error is not None:
                raise KafkaException(found.error)
        return found.offset if found.offset >= 0 else partition.end

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Raises SinkUnreachable or SinkRefused in place of Kafka's exceptions."""
        try:
            yield
        except KafkaException as error:
            with contextlib.suppress(KafkaException):
                self._consumer.poll(0)  # so that the cause is heard of
            self._raise_trouble(what)
            raise self._translated(error.args[0], what) from error

    def _raise_trouble(self, what: str) -> None:
        """What does not pass by waiting."""
        for error in self._trouble:
            refused = connection_refusal(error.code(), error.str(), self.servers)
            if refused is not None or error.fatal():
                raise refused or self._translated(error, what)

    def _translated(self, error: KafkaError, what: str) -> BridgeError:
        code = error.code()
        if code in _FORBIDDEN:
            return SinkRefused(
                f"Kafka at {self.servers} does not let this login {what}: {error.str()}. What to do: grant it"
                f" {_FORBIDDEN[code]}"
            )
        if code in {KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN} or error.retriable():
            reason = next((each.str() for each in self._trouble), error.str())
            return SinkUnreachable(
                f"Kafka at {self.servers} does not answer: {reason}. What to do: check sink.kafka.client.bootstrap.servers,"
                " that the broker runs, and that security.protocol is its listener's"
            )
        return SinkRefused(
            f"Kafka at {self.servers} does not {what}: {error.str()} ({error.name()}). What to do: see the broker's log"
        )


class KafkaPartition:
    """As `offsets.Partition`: as far as it went when it was looked at."""

    def __init__(self, reader: Reader, topic: str, number: int, low: int, end: int) -> None:
        self._reader = reader
        self.topic = topic
        self.number = number
        self.name = f"{topic} partition {number}"
        self.low = low
        self.end = end
        """Past the last committed message."""

    def as_of(self, reader: Reader) -> "KafkaPartition":
        """The same, read by another."""
        return KafkaPartition(reader, self.topic, self.number, self.low, self.end)

    def read(self, start: int) -> Iterator[Message]:
        """Raises SinkUnreachable where the broker falls silent."""
        if start >= self.end:
            return
        silent_since = time.monotonic()
        for got in self._reader.read([(self, start)]):
            if isinstance(got, Read):
                if got.offset >= self.end:
                    return
                yield Message(got.offset, got.stamp)
                silent_since = time.monotonic()
            elif got is not None:
                return
            elif time.monotonic() - silent_since > SILENCE_SECONDS:
                raise SinkUnreachable(
                    f"{self.name} could not be read to its end: Kafka at {self._reader.servers} does not answer. What to do: see"
                    " whether the partition has a leader, then do it again"
                )

    def sent_since(self, ms: int) -> int:
        return min(self._reader.sent_since(self, ms), self.end)


class Read:
    """A message that was read."""

    def __init__(self, partition: KafkaPartition, message: "confluent_kafka.Message") -> None:
        self.partition = partition
        self.offset = message.offset() or 0
        self.sent_ms = message.timestamp()[1]
        self.key = message.key()
        self.value = message.value() or b""
        self._headers: Any = message.headers() or []

    @property
    def headers(self) -> Headers:
        return {name: (value or b"").decode(errors="replace") for name, value in self._headers}

    @property
    def stamp(self) -> Stamp | None:
        return stamp(self.headers, self.sent_ms)


def stamp(headers: Headers, sent_ms: int) -> Stamp | None:
    """What an event's headers say of its place (docs/events.md); None where they are not of a bridge. Pure."""
    found = _ID.match(headers.get("id", ""))
    if found is None:
        return None
    try:
        commit_lsn = parse_lsn(headers["commit_lsn"])
        committed_at = datetime.fromisoformat(headers["commit_timestamp"])
    except (KeyError, ValueError):
        return None
    again = "replayed" in headers or "/retry-" in headers["id"]
    return Stamp(commit_lsn, found[1], int(committed_at.timestamp() * 1000), sent_ms, again)


def topic_names(config: KafkaConfig) -> Destinations:
    return Destinations("sink.kafka.topic", config.topic, config.prefix, config.topics, kafka=True)


def topics_of(config: KafkaConfig, reader: Reader) -> list[str]:
    """The topics that are there and are, by their names, those of tables of this configuration.

    Raises SinkRefused where there is none.
    """
    names = topic_names(config)
    found = [name for name in reader.topics() if names.may_be_a_tables(name)]
    if not found:
        raise SinkRefused(
            f"Kafka at {reader.servers} has no topic of a table, by sink.kafka.topic ({config.topic}, with the prefix"
            f" {config.prefix!r}), or this login may see none. What to do: name topics, or correct the configuration"
        )
    return found


def _number(partition: int | None) -> int:
    return -1 if partition is None else partition

"""A consumer group of Kafka: where it is, who is in it, and setting it elsewhere."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from bridge.errors import SinkRefused
from bridge.kafka_reading import ANSWER_SECONDS, Reader
from bridge.sinks.kafka_log import LibraryLog

T = TypeVar("T")
Place = tuple[str, int]
"""Topic and partition."""

_MEMBERS_SHOWN: Final = 5
_AGAIN_SECONDS: Final = 0.2
_OCCUPIED: Final = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.NON_EMPTY_GROUP,
    KafkaError.REBALANCE_IN_PROGRESS,
}
"""What a broker says when offsets are set of a group that has members."""
_PASSING: Final = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}
"""A broker that has just begun to look after the group."""


class Group:
    """Offsets are read and set by a consumer that is of the group, but never joins it: the library's admin client crashes
    where the broker does not look after the group yet (librdkafka 2.16, ListConsumerGroupOffsets)."""

    def __init__(self, reader: Reader, name: str) -> None:
        """Over the connection settings of `reader`, which also translates errors."""
        self._reader = reader
        self._name = name
        library_log: Any = LibraryLog("group")
        library_log.is_quiet = True
        own = {"group.id": name, "enable.auto.commit": False, "log_level": 5, "logger": library_log}
        self._consumer = Consumer({**reader.settings, **own})
        self._admin = AdminClient({"log_level": 5} | reader.settings | {"logger": library_log})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def committed(self, places: Iterable[Place]) -> dict[Place, int]:
        """The group's offsets, of those partitions that it has one for."""
        wanted = [TopicPartition(*place) for place in places]
        with self._reader.errors(f"tell the offsets of group {self._name}"):
            found = self._patiently(lambda: self._consumer.committed(wanted, timeout=ANSWER_SECONDS))
            for each in found:
                if each.error is not None:
                    raise KafkaException(each.error)
        return {(each.topic, each.partition): each.offset for each in found if each.offset >= 0}

    def members(self) -> list[str]:
        """Those that are in the group now, as an operator would know them."""

        def describe() -> Any:
            answer = self._admin.describe_consumer_groups([self._name], request_timeout=ANSWER_SECONDS)
            return answer[self._name].result()

        with self._reader.errors(f"tell who is in group {self._name}"):
            try:
                described = self._patiently(describe)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                    return []
                raise
        return [f"{each.client_id} at {each.host.lstrip('/')} ({each.member_id})" for each in described.members]

    def check_empty(self) -> None:
        """Raises SinkRefused, naming the members: Kafka takes no offsets from others while there are any."""
        if members := self.members():
            raise self._occupied(members)

    def set(self, offsets: Mapping[Place, int]) -> None:
        """Set the group there, and see that it is. Raises SinkRefused where it is not, for some or all."""
        self.check_empty()
        wanted = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        with self._reader.errors(f"set the offsets of group {self._name}"):
            try:
                done = self._patiently(lambda: self._consumer.commit(offsets=wanted, asynchronous=False))
                errors = [each.error for each in done or [] if each.error is not None]
            except KafkaException as error:
                errors = [error.args[0]]
            if any(each.code() in _OCCUPIED for each in errors):
                raise self._occupied(self.members())
            if errors:
                raise KafkaException(errors[0])
        found = self.committed(offsets)
        wrong = [place for place, offset in offsets.items() if found.get(place) != offset]
        if wrong:
            topic, partition = wrong[0]
            raise SinkRefused(
                f"group {self._name} is not where it was set: {topic} partition {partition} is at {found.get(wrong[0])}, not at"
                f" {offsets[wrong[0]]} ({len(wrong)} of {len(offsets)} partitions). What to do: stop whatever else commits"
                " for the group, then do it again"
            )

    def _occupied(self, members: list[str]) -> SinkRefused:
        shown = ", ".join(members[:_MEMBERS_SHOWN]) or "which have just left"
        more = f" and {len(members) - _MEMBERS_SHOWN} more" if len(members) > _MEMBERS_SHOWN else ""
        return SinkRefused(
            f"group {self._name} has members: {shown}{more}. Kafka does not let it be set while it has any. Nothing is changed."
            " What to do: stop these consumers, then do it again (one that was killed leaves after its session.timeout.ms)"
        )

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Again and again while the broker has just begun to look after the group."""
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                return ask()
            except KafkaException as error:
                if error.args[0].code() not in _PASSING or time.monotonic() > end:
                    raise
                time.sleep(_AGAIN_SECONDS)

"""A consumer group of Kafka: where it is, who is in it, and setting it elsewhere."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from bridge.errors import SinkRefused
from bridge.kafka_reading import ANSWER_SECONDS, Reader
from bridge.sinks.kafka_log import LibraryLog

Place = tuple[str, int]
"""Topic and partition."""

_MEMBERS_SHOWN: Final = 5
_OCCUPIED: Final = {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.NON_EMPTY_GROUP, KafkaError.REBALANCE_IN_PROGRESS}
"""What a broker says when offsets are set of a group that has members."""


class Group:
    def __init__(self, reader: Reader, name: str) -> None:
        """Over the connection settings of `reader`, which also translates errors."""
        self._reader = reader
        self._name = name
        library_log: Any = LibraryLog("admin")
        library_log.is_quiet = True
        self._admin = AdminClient({"log_level": 5} | reader.settings | {"logger": library_log})

    def committed(self, places: Iterable[Place]) -> dict[Place, int]:
        """The group's offsets, of those partitions that it has one for."""
        wanted = [TopicPartition(*place) for place in places]
        with self._reader.errors(f"tell the offsets of group {self._name}"):
            request = [ConsumerGroupTopicPartitions(self._name, wanted)]
            answer = self._admin.list_consumer_group_offsets(request, request_timeout=ANSWER_SECONDS)
            found = answer[self._name].result().topic_partitions or []
            for each in found:
                if each.error is not None:
                    raise KafkaException(each.error)
        return {(each.topic, each.partition): each.offset for each in found if each.offset >= 0}

    def members(self) -> list[str]:
        """Those that are in the group now, as an operator would know them."""
        with self._reader.errors(f"tell who is in group {self._name}"):
            try:
                answer = self._admin.describe_consumer_groups([self._name], request_timeout=ANSWER_SECONDS)
                described = answer[self._name].result()
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
            request = [ConsumerGroupTopicPartitions(self._name, wanted)]
            answer = self._admin.alter_consumer_group_offsets(request, request_timeout=ANSWER_SECONDS)
            for each in answer[self._name].result().topic_partitions or []:
                if each.error is not None and each.error.code() in _OCCUPIED:
                    raise self._occupied(self.members())
                if each.error is not None:
                    raise KafkaException(each.error)
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
        shown = ", ".join(members[:_MEMBERS_SHOWN])
        more = f" and {len(members) - _MEMBERS_SHOWN} more" if len(members) > _MEMBERS_SHOWN else ""
        return SinkRefused(
            f"group {self._name} has members: {shown}{more}. Kafka does not let it be set while it has any. Nothing is changed."
            " What to do: stop these consumers, then do it again (one that was killed leaves after its session.timeout.ms)"
        )

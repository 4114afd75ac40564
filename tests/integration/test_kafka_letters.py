"""Dead letters in a Kafka topic that others write to as well."""

from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.cimpl import NewPartitions, NewTopic

from bridge.config import Kafka as KafkaConfig
from bridge.sinks.kafka_letters import KafkaLetters
from tests.servers.kafka import Kafka
from tests.servers.waiting import wait_until


class Topic:
    def __init__(self, kafka: Kafka, prefix: str) -> None:
        self.kafka = kafka
        self.name = f"{prefix}dead-letter"
        self.config = KafkaConfig(prefix=prefix, client={"bootstrap.servers": kafka.servers})
        admin = kafka.admin
        admin.create_topics([NewTopic(self.name, 1, 1, config={"cleanup.policy": "compact"})])[self.name].result()
        self._producer = Producer({"bootstrap.servers": kafka.servers, "partitioner": "murmur2_random"})

    def put(self, key: str, value: bytes | None) -> None:
        self._producer.produce(self.name, value, key, headers=[("id", key.encode())])
        assert self._producer.flush(10) == 0

    def letters(self) -> "KafkaLetters":
        return KafkaLetters(self.config)

    def values(self) -> set[bytes]:
        letters = self.letters()
        try:
            return {each.value for each in letters.read()}
        finally:
            letters.close()


@pytest.fixture
def topic(kafka: Kafka, prefix: str) -> Topic:
    return Topic(kafka, prefix)


@pytest.fixture
def letters(topic: Topic) -> Iterator[KafkaLetters]:
    made = topic.letters()
    yield made
    made.close()


def test_the_newest_of_each_key_is_there_unless_it_is_done_with(topic: Topic, letters: KafkaLetters) -> None:
    for key, value in (("a", b"1"), ("b", b"2"), ("a", b"3"), ("c", b"4"), ("b", None)):
        topic.put(key, value)
    assert {each.value for each in letters.read()} == {b"3", b"4"}
    assert letters.count() == 2


def test_what_the_bridge_has_written_anew_since_it_was_read_stays(topic: Topic, letters: KafkaLetters) -> None:
    for key in "abc":
        topic.put(key, b"old " + key.encode())
    found = {each.value: each for each in letters.read()}
    topic.put("a", b"new a")
    topic.put("b", None)  # by another operator

    changed = letters.settle([(each, None) for each in found.values()])

    assert changed == [found[b"old a"]]
    assert topic.values() == {b"new a"}
    assert [each.value for each in letters.read()] == [b"new a"]


def test_another_value_takes_its_place_with_its_headers(topic: Topic, letters: KafkaLetters) -> None:
    topic.put("a", b"old")
    (stored,) = letters.read()
    assert letters.settle([(stored, b"less")]) == []
    (again,) = letters.read()
    assert again.value == b"less"
    assert again.messages[0].headers() == [("id", b"a")]


def test_a_letter_goes_though_the_topic_has_more_partitions_now(topic: Topic, letters: KafkaLetters) -> None:
    keys = [str(number) for number in range(20)]
    for key in keys:
        topic.put(key, b"1")
    admin = topic.kafka.admin
    admin.create_partitions([NewPartitions(topic.name, 7)])[topic.name].result()
    wait_until(lambda: topic.kafka.topics()[topic.name] == 7, "the partitions")
    assert letters.settle([(each, None) for each in letters.read()]) == []
    assert topic.values() == set()

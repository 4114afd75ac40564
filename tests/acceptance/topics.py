"""What the tests of `offsets` and `tail` share: topics made by hand, and consumers of a group."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.cimpl import NewTopic

from bridge.lsn import format_lsn, parse_lsn
from tests.servers.kafka import Kafka

SERVER = "7409000000000000001"
COMMITTED = "2026-03-01T10:00:00.123456Z"


def config(kafka: Kafka, prefix: str, **client: Any) -> str:
    return (
        f"sink: {{kafka: {{prefix: {prefix}, client: {{bootstrap.servers: '{kafka.servers}'"
        + "".join(f", {name}: {value}" for name, value in client.items())
        + "}}}\n"
    )


def make(kafka: Kafka, topic: str, partitions: int = 1, **settings: str) -> str:
    new = NewTopic(topic, partitions, 1, config={name.replace("_", "."): value for name, value in settings.items()})
    admin = kafka.admin
    admin.create_topics([new])[topic].result()
    return topic


def headers(
    lsn: str, *, system: str = SERVER, timeline: int = 1, suffix: str = "", **more: str
) -> list[tuple[str, Any]]:
    """As the bridge writes them."""
    number = parse_lsn(lsn)
    found = {
        "id": f"{system}-{timeline}/{number:016X}/{number - 1:016X}/00000000/public.book/authenticated{suffix}",
        "commit_lsn": format_lsn(number),
        "commit_timestamp": COMMITTED,
        **more,
    }
    return [(name, value.encode()) for name, value in found.items()]


@contextmanager
def producing(kafka: Kafka, **settings: Any) -> Iterator[Producer]:
    producer = Producer({"bootstrap.servers": kafka.servers, "linger.ms": 5, **settings})
    yield producer
    assert producer.flush(20) == 0


def write(kafka: Kafka, topic: str, lsns: Sequence[str | None], partition: int = 0, **how: str) -> None:
    """An event for each LSN; None: another program's message."""
    with producing(kafka) as producer:
        for lsn in lsns:
            told = [] if lsn is None else headers(lsn, **how)
            producer.produce(topic, b'{"wal":{}}', b"key", partition, headers=told)


def consumer(kafka: Kafka, group: str, **settings: Any) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": kafka.servers,
            "group.id": group,
            "client.id": "billing-1",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            **settings,
        }
    )


def consume(kafka: Kafka, group: str, topic: str) -> list[Message]:
    """What a member of the group gets until it is at the end of each partition; it commits that and leaves."""
    member = consumer(kafka, group)
    found: list[Message] = []
    try:
        partitions = len(member.list_topics(topic, timeout=10).topics[topic].partitions)
        member.subscribe([topic])
        ended: set[int | None] = set()
        while len(ended) < partitions:
            message = member.poll(20)
            assert message is not None
            if message.error():
                ended.add(message.partition())
            else:
                found.append(message)
                member.commit(message, asynchronous=False) if len(found) % 500 == 0 else None
        if found:
            member.commit(asynchronous=False)
    finally:
        member.close()
    return found


def committed(kafka: Kafka, group: str, topic: str, partitions: int = 1) -> list[int]:
    reader = consumer(kafka, group)
    try:
        places = reader.committed([TopicPartition(topic, number) for number in range(partitions)], timeout=10)
        return [place.offset for place in places]
    finally:
        reader.close()


def a_group() -> str:
    return f"group-{uuid.uuid4()}"


def header(message: Message, name: str) -> str:
    found: dict[str, Any] = dict(message.headers() or [])
    return str(found[name].decode())

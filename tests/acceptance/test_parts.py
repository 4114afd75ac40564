"""An event for 100,000 subscribers arrives whole: in as many parts as the broker's limits need, with the bridge as a process."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from bridge.errors import Exit
from tests.acceptance.test_rabbitmq_limits import IMPATIENT
from tests.servers.kafka import Kafka
from tests.servers.postgres import Database
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.waiting import wait_until

MANY = 100_000


class Message(msgspec.Struct):
    """As it arrived."""

    headers: dict[str, Any]
    value: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.headers["id"])

    @property
    def title(self) -> Any:
        return self.value["wal"]["record"].get("title")


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def subscribe(database: Database, count: int) -> None:
    """So many subscriptions to `book`; not one by one, as the table's triggers would have it."""
    database.execute("create table book (id int primary key, title text)")
    database.execute("alter table book alter title set storage external")
    database.execute("set session_replication_role = replica")
    database.execute(
        "insert into realtime.subscription (subscription_id, entity, claims)"
        " select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'book', '{\"role\": \"postgres\"}'"
        " from generate_series(0, %s) n",
        (count - 1,),
    )
    database.execute("reset session_replication_role")


def config(database: Database, sink: dict[str, Any], **sections: Any) -> dict[str, Any]:
    source = {"connection": database.dsn, "slot": database.slot}
    return {"source": source, "sink": sink, "http": {"listen": None}, **sections}


def kafka_sink(kafka: Kafka, prefix: str, **client: Any) -> dict[str, Any]:
    return {"kafka": {"prefix": prefix, "client": {"bootstrap.servers": kafka.servers, **client}}}


def rabbitmq_sink(rabbitmq: RabbitMQ, prefix: str, url: str = "", **more: Any) -> dict[str, Any]:
    queues = [{"name": f"{prefix}inbox", "bindings": {f"{prefix}public.book": "public.book.*"}}]
    queues += [{"name": f"{prefix}mine", "bindings": {f"{prefix}public.book": uuid(7)}}]
    return {"rabbitmq": {"prefix": prefix, "url": rabbitmq.url + url, "queues": queues, **more}}


def from_kafka(kafka: Kafka, topic: str) -> list[Message]:
    """What a consumer of committed messages gets, partition by partition."""
    settings = {"bootstrap.servers": kafka.servers, "group.id": "reader", "isolation.level": "read_committed"}
    consumer = Consumer({**settings, "enable.partition.eof": True})
    found: list[Message] = []
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        for partition in partitions:
            consumer.assign([TopicPartition(topic, partition, 0)])
            while (message := consumer.poll(10)) is not None and (error := message.error()) is None:
                headers = {name: value.decode() for name, value in message.headers() or []}
                found.append(Message(headers, msgspec.json.decode(message.value() or b"")))
            assert message is not None and error.code() == KafkaError._PARTITION_EOF
    finally:
        consumer.close()
    return found


def ends(kafka: Kafka, topic: str) -> int:
    """How much the topic's partitions hold together, committed or not."""
    consumer = Consumer({"bootstrap.servers": kafka.servers, "group.id": "reader"})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return sum(consumer.get_watermark_offsets(TopicPartition(topic, each), timeout=10)[1] for each in partitions)
    finally:
        consumer.close()


def from_rabbitmq(rabbitmq: RabbitMQ, queue: str) -> list[Message]:
    """All that the queue holds; it is empty then."""
    found = []
    with rabbitmq.connect() as connection:
        channel = connection.channel()
        while (message := channel.basic_get(queue, auto_ack=True))[0] is not None:
            found.append(Message(message[1].headers, json.loads(message[2])))
    return found


def assert_whole(messages: list[Message], count: int) -> None:
    """The parts of one event: each with the whole record, everybody in one of them."""
    assert len({each.id for each in messages}) == len(messages)
    assert sorted(one for each in messages for one in each.value["subscription_ids"]) == [*map(uuid, range(count))]
    assert all(each.value["wal"] == messages[0].value["wal"] and not each.value["errors"] for each in messages)
    number = len(messages)
    parts = [f"{index}/{number}" for index in range(1, number + 1)] if number > 1 else [None]
    assert [each.headers.get("part") for each in messages] == parts


@pytest.mark.parametrize(
    "case", ["kafka", "kafka exactly once", "kafka compressed", "rabbitmq", "rabbitmq by subscription"]
)
def test_an_event_for_100000_subscribers_arrives_whole(
    request: pytest.FixtureRequest, database: Database, prefix: str, bridge: Any, case: str
) -> None:
    subscribe(database, MANY)
    broker = request.getfixturevalue(case.split(maxsplit=1)[0])
    if isinstance(broker, Kafka):
        sink = kafka_sink(broker, prefix, **({"compression.type": "lz4"} if "compressed" in case else {}))
    else:
        sink = rabbitmq_sink(broker, prefix, route_by="subscription" if "subscription" in case else "event")
    settings = config(database, sink, delivery="exactly_once" if "once" in case else "at_least_once")
    running = bridge(config=settings)
    running.wait_until_streaming()

    database.execute("insert into book values (1, 'a')")
    database.execute("begin; update book set title = 'b'; update book set title = repeat('c', 300000); commit")
    database.wait_until_confirmed(120)

    if isinstance(broker, Kafka):
        messages = from_kafka(broker, f"{prefix}public.book")
        assert from_kafka(broker, f"{prefix}dead-letter") == []
    else:
        messages = from_rabbitmq(broker, f"{prefix}inbox")
        assert from_rabbitmq(broker, f"{prefix}dead-letter") == []
    titles = [each.title for each in messages]
    assert titles == sorted(titles), "in the order of the changes"
    assert {*titles} == {"a", "b", "c" * 300_000}
    for title, count in Counter(titles).items():
        assert_whole([each for each in messages if each.title == title], MANY)
        assert count == 1 if case == "rabbitmq" else count > 3
    if case == "rabbitmq by subscription":
        mine = from_rabbitmq(broker, f"{prefix}mine")
        assert [each.title[0] for each in mine] == ["a", "b", "c"]
        assert all(uuid(7) in each.value["subscription_ids"] for each in mine)
    assert running.stop() == Exit.OK


def test_a_limit_that_rabbitmq_has_told_once_is_known_and_a_large_record_is_shrunk_besides(
    database: Database, rabbitmq: RabbitMQ, prefix: str, bridge: Any
) -> None:
    subscribe(database, 3000)
    rabbitmq.control("eval", "application:set_env(rabbit, max_message_size, 20000).")
    try:
        running = bridge(config=config(database, rabbitmq_sink(rabbitmq, prefix)))
        running.wait_until_streaming()
        database.execute("insert into book select n, 'a' from generate_series(1, 5) n")
        database.wait_until_confirmed()
        assert running.stderr.count("rabbitmq closed the channel") == 1
        database.execute("insert into book values (6, repeat('x', 30000))")
        database.wait_until_confirmed()
    finally:
        rabbitmq.control("eval", "application:set_env(rabbit, max_message_size, 134217728).")

    messages = from_rabbitmq(rabbitmq, f"{prefix}inbox")
    for row in range(1, 6):
        assert_whole([each for each in messages if each.value["wal"]["record"]["id"] == row], 3000)
    shrunk = [each for each in messages if each.value["errors"]]
    assert {each.value["errors"][0] for each in shrunk} == {"Error 413: Payload Too Large"}
    assert all(each.value["wal"]["record"] == {"id": 6} for each in shrunk)
    assert sorted(one for each in shrunk for one in each.value["subscription_ids"]) == [*map(uuid, range(3000))]
    assert len(messages) == 6 * 6
    assert running.stop() == Exit.OK


def test_where_kafka_s_limit_is_not_known_it_is_found_by_halving(
    database: Database, kafka: Kafka, prefix: str, bridge: Any
) -> None:
    subscribe(database, 3000)
    running = bridge(config=config(database, kafka_sink(kafka, prefix, **{"batch.size": 20_000})))
    running.wait_until_streaming()
    topic = f"{prefix}public.book"
    lowered = ConfigEntry("max.message.bytes", "20000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[lowered])
    admin = kafka.admin
    admin.incremental_alter_configs([resource])[resource].result()

    database.execute("insert into book values (1, 'a')")
    database.wait_until_confirmed()
    parts = from_kafka(kafka, topic)
    assert [each.headers["part"] for each in parts] == [f"{number}/8" for number in range(1, 9)]
    assert_whole(parts, 3000)
    assert running.stop() == Exit.OK


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_after_a_kill_among_the_parts_they_come_again_with_the_same_ids(
    database: Database, kafka: Kafka, prefix: str, bridge: Any, delivery: str
) -> None:
    subscribe(database, 20_000)
    settings = config(database, kafka_sink(kafka, prefix, **{"message.max.bytes": 20_000}), delivery=delivery)
    running = bridge(config=settings)
    running.wait_until_streaming()

    topic = f"{prefix}public.book"
    for number in range(1, 4):
        before = ends(kafka, topic)
        database.execute(
            "insert into book select n, 'x' from generate_series(%s::int, %s) n", (number * 3, number * 3 + 2)
        )
        running.wait_for(lambda before=before: ends(kafka, topic) > before, "some parts")
        running.kill()
        running = bridge(config=settings)
    database.wait_until_confirmed(120)

    messages = from_kafka(kafka, topic)
    times = Counter(each.id for each in messages)
    assert delivery == "at_least_once" or {*times.values()} == {1}
    first = {each.id: each for each in reversed(messages)}
    for row in range(3, 12):
        parts = [each for each in first.values() if each.value["wal"]["record"]["id"] == row]
        assert_whole(sorted(parts, key=lambda each: int(each.headers["part"].split("/")[0])), 20_000)
    assert all(each.value == first[each.id].value for each in messages)
    assert running.stop() == Exit.OK


def test_a_part_that_is_refused_holds_the_position_and_its_dead_letter_names_who_did_not_get_it(
    database: Database, rabbitmq: RabbitMQ, prefix: str, bridge: Callable[..., Any]
) -> None:
    subscribe(database, 1000)
    sink = rabbitmq_sink(rabbitmq, prefix, "?frame_max=16384", route_by="subscription")
    del sink["rabbitmq"]["queues"][1]
    with rabbitmq.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare(f"{prefix}public.book", "topic", durable=True)
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare(f"{prefix}mine", durable=True, arguments=full)
        channel.queue_bind(f"{prefix}mine", f"{prefix}public.book", uuid(7))
    running = bridge(config=config(database, sink))
    running.wait_until_streaming()
    database.execute("insert into book values (1, 'a')")
    database.wait_until_confirmed()
    whole = from_rabbitmq(rabbitmq, f"{prefix}inbox")
    assert_whole(whole, 1000)
    assert len(whole) > 1

    position = database.commit("insert into book values (2, 'b')")
    running.wait_for(lambda: "rabbitmq refuses messages" in running.stderr, "a refusal")
    assert not database.is_past(position)
    running.kill()
    running = bridge(config=config(database, sink), program=("-c", IMPATIENT))
    database.wait_until_confirmed()

    # RabbitMQ may give a refused message to those queues that take it.
    wait_until(lambda: "event quarantined" in running.stderr, "the dead letter")
    (letter,) = from_rabbitmq(rabbitmq, f"{prefix}dead-letter")
    body = letter.value["dead_letter"]
    refused = next(each for each in whole if uuid(7) in each.value["subscription_ids"])
    assert body["undelivered"] == refused.value["subscription_ids"]
    assert letter.id == body["id"]
    assert "/public.book/part-" in letter.id
    assert body["change"]["record"] == {"id": 2, "title": "b"}
    others = {one for each in from_rabbitmq(rabbitmq, f"{prefix}inbox") for one in each.value["subscription_ids"]}
    assert others | {*body["undelivered"]} == {*map(uuid, range(1000))}
    assert running.stop() == Exit.OK

"""`walrus-bridge offsets`: a consumer group goes to an LSN, on real topics."""

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from bridge.config import Kafka as KafkaConfig
from bridge.errors import Exit
from bridge.group_offsets import Place, plan
from bridge.kafka_reading import Reader
from bridge.lsn import format_lsn, parse_lsn
from tests.acceptance.topics import (
    a_group,
    committed,
    config,
    consume,
    consumer,
    header,
    headers,
    make,
    producing,
    write,
)
from tests.command import Done
from tests.servers.kafka import Kafka
from tests.servers.postgres import Database
from tests.servers.waiting import wait_until

Command = Callable[..., Done]
ConfigFile = Callable[[str], str]


@pytest.fixture
def offsets(walrus_bridge: Command, config_file: ConfigFile, kafka: Kafka, prefix: str) -> Command:
    """`offsets("--group", …)` with a configuration for the test's prefix."""
    path = config_file(config(kafka, prefix))
    return lambda *arguments: walrus_bridge("offsets", "--config", path, *arguments)


def places(done: Done) -> dict[tuple[str, int], dict[str, Any]]:
    assert done.status == Exit.OK, done.stderr
    return {(each["topic"], each["partition"]): each for each in json.loads(done.stdout)}


def at(kafka: Kafka, prefix: str, topic: str, lsn: str, **how: Any) -> list[Place]:
    settings = KafkaConfig(prefix=prefix, client={"bootstrap.servers": kafka.servers})
    arguments = {"system": None, "scan": False, "forward": False, "apply": False, **how}
    return plan(settings, a_group(), parse_lsn(lsn), [topic], arguments.pop("system"), **arguments)


# -- the main job -------------------------------------------------------------------------------------------------


def test_a_group_goes_back_to_an_lsn_after_the_bridge_was_killed_in_a_transaction(
    database: Database, kafka: Kafka, prefix: str, bridge: Any, offsets: Command
) -> None:
    topic, group = f"{prefix}public.note", a_group()
    database.execute("create table note (id int primary key, body text)")
    database.subscribe("note")
    settings = {
        "source": {"connection": database.dsn, "slot": database.slot},
        "sink": {"kafka": {"prefix": prefix, "client": {"bootstrap.servers": kafka.servers}}},
        "http": {"listen": None},
    }
    first = bridge(config=settings | {"limits": {"events_per_second": 200}})
    first.wait_until_streaming()
    for number in range(20):
        database.execute("insert into note values (%s)", (number,))
    database.wait_until_confirmed()
    database.execute("insert into note select generate_series(100, 30099)")
    first.wait_for(lambda: sum(ends(kafka, topic)) > 300, "a part of the transaction")
    first.kill()
    second = bridge(config=settings)
    second.wait_until_streaming()
    for number in range(50, 70):
        database.execute("insert into note values (%s)", (number,))
    database.wait_until_confirmed()
    second.stop()
    consume(kafka, group, topic)

    messages = kafka.read(topic)
    assert len({header(each, "id") for each in messages}) < len(messages)  # the kill made duplicates
    lsns = sorted({parse_lsn(header(each, "commit_lsn")) for each in messages})
    assert len(lsns) == 41
    for lsn in [lsns[0] - 1, *lsns[::8], lsns[20], lsns[21], lsns[-1], lsns[-1] + 1]:
        found = at(kafka, prefix, topic, format_lsn(lsn))
        for place in found:
            wanted = (each.offset() for each in messages if each.partition() == place.partition and is_from(each, lsn))
            assert place.found.offset == next(wanted, place.end)

    chosen = lsns[20]  # the large transaction's
    done = offsets("--group", group, "--lsn", format_lsn(chosen), "--apply")
    assert done.status == Exit.OK, done.stderr
    assert "the group is set there" in done.stdout
    again = Counter(header(each, "id") for each in consume(kafka, group, topic))
    assert again >= Counter(header(each, "id") for each in messages if is_from(each, chosen))
    assert len(again) < len({header(each, "id") for each in messages})


def is_from(message: Any, lsn: int) -> bool:
    return parse_lsn(header(message, "commit_lsn")) >= lsn


def ends(kafka: Kafka, topic: str) -> list[int]:
    if topic not in kafka.topics():
        return []
    reader = consumer(kafka, "nobody")
    try:
        return [reader.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1] for n in range(6)]
    finally:
        reader.close()


def test_it_prints_the_places_and_changes_nothing_until_it_is_told_to(
    kafka: Kafka, prefix: str, offsets: Command
) -> None:
    topic, group = make(kafka, f"{prefix}public.book", 2), a_group()
    write(kafka, topic, ["0/10", "0/20", "0/30"])
    write(kafka, topic, ["0/15"], partition=1)
    consume(kafka, group, topic)

    done = offsets("--group", group, "--lsn", "0/20")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1] == ["topic", "partition", "offset", "commit_lsn", "committed", "set", "to", "end", "lag"]
    assert rows[2] == [topic, "0", "1", "0/20", "3", "1", "3", "2"]
    assert rows[3] == [topic, "1", "1", "-", "1", "1", "1", "0"]
    assert "nothing is changed" in done.stdout
    assert f"no event at or after that LSN yet, so the end: {topic} 1" in done.stdout
    assert committed(kafka, group, topic, 2) == [3, 1]

    done = offsets("--group", group, "--lsn", "0/20", "--apply", "--json")
    assert places(done)[topic, 0] == {
        "topic": topic,
        "partition": 0,
        "offset": 1,
        "commit_lsn": "0/20",
        "is_oldest": False,
        "committed": 3,
        "target": 1,
        "end": 3,
        "lag": 2,
    }
    assert committed(kafka, group, topic, 2) == [1, 1]


def test_a_group_is_not_moved_past_what_it_has_not_read_unless_that_is_wanted(
    kafka: Kafka, prefix: str, offsets: Command
) -> None:
    topic, group = make(kafka, f"{prefix}public.book"), a_group()
    write(kafka, topic, ["0/10"])
    consume(kafka, group, topic)
    write(kafka, topic, ["0/20", "0/30"])

    done = offsets("--group", group, "--lsn", "0/30", "--apply")
    assert "stays where it is, as it has not read that far yet" in done.stdout
    assert committed(kafka, group, topic) == [1]

    offsets("--group", group, "--lsn", "0/30", "--apply", "--forward")
    assert committed(kafka, group, topic) == [2]


def test_a_new_group_begins_there(kafka: Kafka, prefix: str, offsets: Command) -> None:
    topic, group = make(kafka, f"{prefix}public.book"), a_group()
    write(kafka, topic, ["0/10", "0/20", "0/30"])
    assert places(offsets("--group", group, "--lsn", "0/20", "--apply", "--json"))[topic, 0]["committed"] is None
    assert [header(each, "commit_lsn") for each in consume(kafka, group, topic)] == ["0/20", "0/30"]


def test_the_topics_are_those_of_tables_by_the_configurations_names(
    kafka: Kafka, prefix: str, offsets: Command
) -> None:
    names = [
        "public.book",
        "Any-20thing.my-2Dtable",
        "dead-letter",
        "position-realtime",
        "public",
        "public.book.x",
        "public.a-b",
    ]
    for name in names:
        make(kafka, f"{prefix}{name}")
    make(kafka, f"x{prefix}public.book")
    found = places(offsets("--group", a_group(), "--lsn", "0/20", "--json"))
    assert {topic for topic, _ in found} == {f"{prefix}public.book", f"{prefix}Any-20thing.my-2Dtable"}

    found = places(
        offsets(
            "--group", "g", "--lsn", "0/20", "--json", "--topic", f"{prefix}public", "--topic", f"{prefix}dead-letter"
        )
    )
    assert {topic for topic, _ in found} == {f"{prefix}public", f"{prefix}dead-letter"}


# -- what a topic may hold ----------------------------------------------------------------------------------------


def test_transactions_and_other_programs_messages(kafka: Kafka, prefix: str) -> None:
    topic = make(kafka, f"{prefix}public.book")
    with producing(kafka, **{"transactional.id": prefix}) as producer:
        producer.init_transactions(20)
        for lsns, keep in ((["0/10", "0/20"], True), (["0/30", "0/40"], False), (["0/30", "0/40"], True)):
            producer.begin_transaction()
            for lsn in lsns:
                producer.produce(topic, b"{}", partition=0, headers=headers(lsn))
            producer.flush(20)
            (producer.commit_transaction if keep else producer.abort_transaction)(20)
        assert [(each.offset(), header(each, "commit_lsn")) for each in kafka.read(topic)] == [
            (0, "0/10"),
            (1, "0/20"),
            (6, "0/30"),
            (7, "0/40"),
        ]
        assert at(kafka, prefix, topic, "0/21")[0].found.offset == 6
        assert at(kafka, prefix, topic, "0/41")[0].found.offset == 9
        write(kafka, topic, [None] * 200)
        assert at(kafka, prefix, topic, "0/40")[0].found.offset == 7

        producer.begin_transaction()
        producer.produce(topic, b"{}", partition=0, headers=headers("0/50"))
        producer.flush(20)
        (open_one,) = at(kafka, prefix, topic, "0/50")
        assert open_one.found.offset == open_one.end == 209  # it may still be committed: not past it
        producer.commit_transaction(20)
        assert wait_until(lambda: at(kafka, prefix, topic, "0/50")[0].found.commit_lsn, "the commit") == 0x50


def test_compaction_leaves_holes(kafka: Kafka, prefix: str) -> None:
    topic = make(
        kafka,
        f"{prefix}public.book",
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.01",
        max_compaction_lag_ms="200",
        min_compaction_lag_ms="0",
    )

    def offsets_left() -> list[int]:
        write(kafka, topic, ["0/40"])  # a new segment, so that the one before it is closed
        return [each.offset() or 0 for each in kafka.read(topic)]

    write(kafka, topic, ["0/10", "0/20", "0/30"])
    wait_until(lambda: offsets_left()[0] > 2, "the compaction")
    place = at(kafka, prefix, topic, "0/20")[0].found
    assert place.offset > 2
    assert place.commit_lsn == 0x40


def test_what_was_deleted_is_told(kafka: Kafka, prefix: str, offsets: Command) -> None:
    topic = make(kafka, f"{prefix}public.book")
    write(kafka, topic, ["0/10", "0/20", "0/30", "0/40"])
    admin = kafka.admin
    for deleted in admin.delete_records([TopicPartition(topic, 0, 2)]).values():
        deleted.result()
    done = offsets("--group", a_group(), "--lsn", "0/20")
    assert f"the oldest that is left; events from that LSN on may have been deleted before it: {topic} 0" in done.stdout
    assert "oldest that is left" not in offsets("--group", a_group(), "--lsn", "0/40").stdout


@pytest.mark.parametrize("stamped", ["CreateTime", "LogAppendTime"])
def test_replays_retries_and_a_new_timeline(kafka: Kafka, prefix: str, stamped: str) -> None:
    topic = make(kafka, f"{prefix}public.book", message_timestamp_type=stamped)
    write(kafka, topic, ["0/10", "0/20", "0/30", "0/40"])
    write(kafka, topic, ["0/10", "0/20"], replayed="true")
    write(kafka, topic, ["0/25"], suffix="/retry-0a1b2c3d")
    write(kafka, topic, ["0/35", "0/45"], timeline=2)  # a standby that had not got as far
    for lsn, offset in (("0/10", 0), ("0/21", 2), ("0/35", 3), ("0/40", 3), ("0/41", 8), ("0/46", 9)):
        assert at(kafka, prefix, topic, lsn)[0].found.offset == offset
        assert at(kafka, prefix, topic, lsn, scan=True)[0].found.offset == offset


def test_kafka_tells_the_first_offset_of_a_time_whatever_the_order_of_the_times(kafka: Kafka, prefix: str) -> None:
    """What the search rests on."""
    topic = make(
        kafka, f"{prefix}public.book", segment_ms="1", retention_ms="-1"
    )  # each batch has a segment of its own
    times = [random.Random(7).randrange(1, 10_000) * 1000 + 1_700_000_000_000 for _ in range(400)]
    with producing(kafka) as producer:
        for number, ms in enumerate(times):
            producer.produce(topic, b"{}", partition=0, timestamp=ms)
            if number % 23 == 0:
                producer.flush(20)
    with Reader(KafkaConfig(client={"bootstrap.servers": kafka.servers})) as reader:
        (partition,) = reader.partitions([topic])
        for asked in [*times, 0, *(ms + 1 for ms in times)]:
            right = next((offset for offset, ms in enumerate(times) if ms >= asked), 400)
            assert partition.sent_since(asked) == right


def test_another_server_is_asked_about(kafka: Kafka, prefix: str, offsets: Command) -> None:
    topic, group = make(kafka, f"{prefix}public.book"), a_group()
    write(kafka, topic, ["5/10", "5/20"], system="111")
    write(kafka, topic, ["0/10", "0/20"], system="222")
    offsets("--group", group, "--lsn", "0/10", "--apply").refused(Exit.USAGE, "--system", "111", "222", topic)
    found = places(offsets("--group", group, "--lsn", "0/10", "--system", "222", "--json"))
    assert found[topic, 0]["offset"] == 2
    offsets("--group", group, "--lsn", "0/10", "--system", "333").refused(Exit.USAGE, "333", "111")


def test_a_clock_that_is_far_behind_is_an_error_and_a_scan_finds_it(
    kafka: Kafka, prefix: str, offsets: Command
) -> None:
    topic, group = make(kafka, f"{prefix}public.book", retention_ms="-1"), a_group()
    with producing(kafka) as producer:
        for lsn in ("0/10", "0/20", "0/30"):
            producer.produce(topic, b"{}", partition=0, headers=headers(lsn), timestamp=1_600_000_000_000)
    offsets("--group", group, "--lsn", "0/20", "--apply").refused(Exit.SINK_REFUSED, "clock", "--scan", topic)
    assert places(offsets("--group", group, "--lsn", "0/20", "--scan", "--json"))[topic, 0]["offset"] == 1


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_group_with_members_is_left_alone_and_they_are_named(
    kafka: Kafka, prefix: str, offsets: Command, protocol: str
) -> None:
    topic, group = make(kafka, f"{prefix}public.book"), a_group()
    write(kafka, topic, ["0/10", "0/20"])
    member = consumer(kafka, group, **{"group.protocol": protocol})
    try:
        member.subscribe([topic])
        wait_until(lambda: member.poll(1) is not None, "the member's joining")
        member.commit(asynchronous=False)
        before = committed(kafka, group, topic)
        assert offsets("--group", group, "--lsn", "0/10").status == Exit.OK
        offsets("--group", group, "--lsn", "0/10", "--apply").refused(
            Exit.SINK_REFUSED, group, "billing-1 at 127.0.0.1", "stop these consumers"
        )
        assert committed(kafka, group, topic) == before
    finally:
        member.close()
    assert offsets("--group", group, "--lsn", "0/10", "--apply").status == Exit.OK
    assert committed(kafka, group, topic) == [0]


def test_topics_that_are_not_there(kafka: Kafka, prefix: str, offsets: Command) -> None:
    offsets("--group", "g", "--lsn", "0/10").refused(Exit.SINK_REFUSED, "no topic of a table", prefix)
    offsets("--group", "g", "--lsn", "0/10", "--topic", "none").refused(Exit.SINK_REFUSED, "no topic none")
    assert "none" not in kafka.topics()


@pytest.mark.parametrize("sink", ["rabbitmq: {}", "stdout: {}"])
def test_other_sinks_have_no_offsets(walrus_bridge: Command, config_file: ConfigFile, sink: str) -> None:
    done = walrus_bridge("offsets", "--config", config_file(f"sink: {{{sink}}}"), "--group", "g", "--lsn", "0/10")
    done.refused(Exit.CONFIG, "offsets are Kafka's")


def test_arguments_that_are_wrong(offsets: Command, walrus_bridge: Command) -> None:
    for arguments, word in (
        (("--lsn", "0/10"), "--group"),
        (("--group", "g"), "--lsn"),
        (("--group", "g", "--lsn", "15"), "not an LSN"),
        (("--group", "", "--lsn", "0/10"), "a group has a name"),
    ):
        done = offsets(*arguments)
        assert (done.status, word in done.stderr) == (Exit.USAGE, True)
    done = walrus_bridge("offsets", "--group", "g", "--lsn", "0/10")
    assert (done.status, "--config" in done.stderr) == (Exit.USAGE, True)


def test_a_broker_that_is_away(walrus_bridge: Command, config_file: ConfigFile) -> None:
    path = config_file("sink: {kafka: {client: {bootstrap.servers: '127.0.0.1:1'}}}")
    walrus_bridge("offsets", "--config", path, "--group", "g", "--lsn", "0/10").refused(
        Exit.SINK_UNREACHABLE, "127.0.0.1:1", "What to do"
    )

"""The consumers' guide's examples as consumers of a torture: they read meanwhile, and die as well."""

import json
import pathlib
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import NewTopic

from tests.servers.example import EXAMPLES, Program, ask, compiled
from tests.servers.kafka import Kafka
from tests.servers.rabbitmq import RabbitMQ
from tests.torture.checker import Audiences, Message, Op
from tests.torture.kept import Entry, copy_faults, entry_faults, right_copy
from tests.torture.workload import KEYS, SUBSCRIPTIONS

LIFE, LONGER_LIFE = (1.0, 8.0), (6.0, 14.0)
DEAD = (0.0, 1.0)
"""Seconds, from and to. Who takes some to start lives longer, to have work to die at."""


class Consumer(Protocol):
    """An example, and what it is to do with a table's events."""

    name: str
    program: Program
    ends_by_itself: bool
    """Where it says that an error ends it."""
    life: tuple[float, float]

    def is_ready(self) -> bool:
        """What is sent from now on comes to it."""

    def has_read(self, messages: Sequence[Message]) -> bool:
        """All that the broker holds."""

    def faults(self, ops: Sequence[Op], messages: Sequence[Message], audiences: Callable[[Op], Audiences]) -> list[str]:
        """What it keeps, compared with what it must."""


class Consumers:
    """All of a torture's, each of which is killed at random and started again."""

    def __init__(self, consumers: Sequence[Consumer], seed: int) -> None:
        self._consumers = consumers
        self._random = random.Random(f"consumers {seed}")
        self._next = dict.fromkeys(range(len(consumers)), 0.0)
        self._living: set[int] = set()
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        for each in self._consumers:
            each.program.wait_for(each.is_ready, f"{each.name}'s start")

    def live(self) -> None:
        """Called often. Whose time has come dies, or comes to life again."""
        for number, each in enumerate(self._consumers):
            if number in self._living:
                self._keep(each)
            if time.monotonic() < self._next[number]:
                continue
            if number in self._living:
                self._living.remove(number)
                self._next[number] = time.monotonic() + self._random.uniform(*DEAD)
                self.counts["consumers killed"] += 1
                each.program.kill()
            else:
                self._living.add(number)
                self._next[number] = time.monotonic() + self._random.uniform(*each.life)
                each.program.keep()

    def verdict(
        self, ops: Sequence[Op], messages: Sequence[Message], audiences: Callable[[Op], Audiences]
    ) -> list[str]:
        """What they keep and should not, or lack, once they have read everything."""
        faults = []
        for each in self._consumers:
            each.program.keep()
        for each in self._consumers:
            each.program.wait_for(lambda each=each: each.has_read(messages), f"{each.name}'s reading all")
            faults += [f"{each.name}: {fault}" for fault in each.faults(ops, messages, audiences)]
        return faults

    def end(self) -> None:
        for each in self._consumers:
            each.program.kill()

    def _keep(self, each: Consumer) -> None:
        status = each.program.keep()
        if status is not None:
            said = each.program.log.read_text(errors="replace")[-3000:]
            assert each.ends_by_itself, f"{each.name} has ended with {status}\n{said}"
            self.counts["consumers ended"] += 1


class KafkaCopy:
    """One subscription's rows, and how often each has changed."""

    ends_by_itself = True
    life = LIFE

    def __init__(self, folder: pathlib.Path, servers: str, prefix: str, name: str, ids: Mapping[str, str]) -> None:
        self.name = f"kafka_copy.py of {name}"
        self._table, self._role = SUBSCRIPTIONS[name][:2]
        self._topic, self._id = f"{prefix}public.{self._table}", ids[name]
        home = folder / f"copy {name}"
        home.mkdir(parents=True)
        self._store = home / "copy.db"
        program = str(EXAMPLES / "kafka_copy.py")
        self.program = Program(home / "log", sys.executable, program, servers, self._topic, self._id, str(self._store))

    def is_ready(self) -> bool:
        return True  # whenever it starts, it reads from the beginning

    def has_read(self, messages: Sequence[Message]) -> bool:
        places = dict(ask(self._store, "select partition, next_offset from place"))
        return all(places.get(partition, 0) >= end for partition, end in _ends(self._topic, messages).items())

    def faults(self, ops: Sequence[Op], messages: Sequence[Message], audiences: Callable[[Op], Audiences]) -> list[str]:
        columns = KEYS[self._table]
        ours = [op for op in ops if op.table == self._table]
        copy = {}
        for key, record, changes in ask(self._store, "select key, record, changes from copy"):
            values = json.loads(key)
            copy[tuple(values[name] for name in columns)] = (json.loads(record), changes)
        return copy_faults(right_copy(ours, audiences, self._role, self._id, columns), copy)


class KafkaInboxes:
    """A table's events, to each of their subscribers, by transactions."""

    ends_by_itself = True
    life = LONGER_LIFE

    def __init__(self, folder: pathlib.Path, nodes: Sequence[Kafka], servers: str, prefix: str, table: str) -> None:
        self.name = f"KafkaInboxes.java of {table}"
        self._nodes = nodes
        self._topic, self._inboxes = f"{prefix}public.{table}", f"{prefix}inboxes"
        home = folder / "inboxes"
        home.mkdir(parents=True)
        command = compiled("KafkaInboxes", home / "classes")
        self.program = Program(home / "log", *command, servers, self._topic, self._inboxes)
        admin = nodes[0].admin
        admin.create_topics([NewTopic(self._inboxes, 3)])[self._inboxes].result()

    def is_ready(self) -> bool:
        return True

    def has_read(self, messages: Sequence[Message]) -> bool:
        ends = _ends(self._topic, messages)
        consumer = KafkaConsumer(
            {"bootstrap.servers": ",".join(node.servers for node in self._nodes), "group.id": self._inboxes}
        )
        try:
            done = consumer.committed([TopicPartition(self._topic, partition) for partition in ends], timeout=10)
        except KafkaException:
            return False
        finally:
            consumer.close()
        return all(each.offset >= ends[each.partition] for each in done)

    def faults(self, ops: Sequence[Op], messages: Sequence[Message], audiences: Callable[[Op], Audiences]) -> list[str]:
        entries = [
            Entry(str(_text(each.key())), _text(dict(each.headers() or [])["id"]), json.loads(_text(each.value())))
            for each in self._nodes[0].read(self._inboxes)
        ]
        ours = [message for message in messages if message.place[0] == self._topic]
        return entry_faults(ours, entries, apart=True)


class RabbitMQJournal:
    """A table's events, in the order in which they have come."""

    ends_by_itself = False
    life = LIFE

    def __init__(self, folder: pathlib.Path, server: RabbitMQ, url: str, prefix: str, table: str) -> None:
        self.name = f"rabbitmq_journal.py of {table}"
        self._server, self._table, self._queue = server, table, f"{prefix}journal.{table}"
        home = folder / f"journal {table}"
        home.mkdir(parents=True)
        self._store = home / "journal.db"
        program = str(EXAMPLES / "rabbitmq_journal.py")
        exchange = f"{prefix}public.{table}"
        self.program = Program(home / "log", sys.executable, program, url, exchange, self._queue, str(self._store))

    def is_ready(self) -> bool:
        return f"{self._queue}\t1" in self._server.control("list_queues", "-q", "name", "consumers")

    def has_read(self, messages: Sequence[Message]) -> bool:
        with self._server.connect() as connection:
            if connection.channel().queue_declare(self._queue, passive=True).method.message_count:
                return False
        # Nor is any under way to it.
        return f"{self._queue}\t0" in self._server.control("list_queues", "-q", "name", "messages").splitlines()

    def faults(self, ops: Sequence[Op], messages: Sequence[Message], audiences: Callable[[Op], Audiences]) -> list[str]:
        entries = [
            Entry(",".join(sorted(json.loads(ids))), id_, json.loads(wal))
            for id_, wal, ids in ask(self._store, "select id, wal, subscription_ids from journal order by rowid")
        ]
        return entry_faults([each for each in messages if each.table == self._table], entries, apart=False)


def _ends(topic: str, messages: Sequence[Message]) -> dict[int, int]:
    """By partition, what follows its last message."""
    ends: dict[int, int] = {}
    for message in messages:
        if message.place[0] == topic:
            _, partition, offset = message.place
            ends[partition] = max(ends.get(partition, 0), offset + 1)
    return ends


def _text(value: Any) -> str:
    assert isinstance(value, bytes)
    return value.decode()

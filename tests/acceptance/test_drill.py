"""A drill: a consumer's store is lost and comes back from a backup of a known LSN. Once the bridge sends the events since then
again, once the consumer group goes back to them. Both stores must then be what the table is."""

import copy
import json
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import Consumer, Message

from bridge.errors import Exit
from tests.acceptance.replaying import config
from tests.servers.kafka import Kafka
from tests.servers.postgres import Database

PATIENCE_SECONDS = 20.0

Record = dict[str, Any]


class Shop:
    """A consumer as the guide has it: the latest state of each row, older and known events dropped, offsets committed."""

    def __init__(self, kafka: Kafka, topic: str, group: str) -> None:
        self._kafka, self._topic, self.group = kafka, topic, group
        self.rows: dict[int, tuple[str, Record | None]] = {}
        """By key: the place in the order of all changes, and the row, None once it is deleted."""

    def read(self, wanted: int) -> None:
        """Process messages until so many have come, and commit."""
        settings = {
            "bootstrap.servers": self._kafka.servers,
            "group.id": self.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
        consumer = Consumer(settings)
        consumer.subscribe([self._topic])
        try:
            came = 0
            while came < wanted:
                message = consumer.poll(PATIENCE_SECONDS)
                assert message is not None, f"{came} of {wanted} messages"
                assert message.error() is None, message.error()
                self._process(message)
                came += 1
            assert consumer.poll(0.5) is None, f"more than {wanted} messages"
            consumer.commit(asynchronous=False)
        finally:
            consumer.close()

    def _process(self, message: Message) -> None:
        headers = {name: bytes(value or b"").decode() for name, value in message.headers() or []}
        order = headers["id"].split("/", 1)[1][:42]
        wal = json.loads(message.value() or b"")["wal"]
        states = [(wal["record"]["id"], wal["record"])] if "record" in wal else []
        if "old_record" in wal and wal["old_record"]["id"] not in dict(states):
            states.append((wal["old_record"]["id"], None))
        for key, row in states:
            if key not in self.rows or self.rows[key][0] < order:
                self.rows[key] = (order, row)

    @property
    def table(self) -> list[Record]:
        return [row for _, (_, row) in sorted(self.rows.items()) if row is not None]


def test_what_was_lost_since_a_known_lsn_comes_back_both_ways(
    database: Database, kafka: Kafka, prefix: str, bridge: Any, walrus_bridge: Any, tmp_path: Path
) -> None:
    database.execute("create table item (id int primary key, name text, stock int)")
    database.subscribe("item")
    sink = {"kafka": {"prefix": prefix, "client": {"bootstrap.servers": kafka.servers}}}
    settings = config(database, sink, source={"replay_window": "1h"})
    path = tmp_path / "drill.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    running = bridge(config=settings)
    running.wait_for(lambda: "replay window begun" in running.stderr, "the window")
    by_replay, by_offsets = (Shop(kafka, f"{prefix}public.item", f"{prefix}{name}") for name in ("replay", "offsets"))

    # Two consumers have all there is; their stores are backed up, and the LSN is noted.
    database.execute("insert into item select n, 'item ' || n, 0 from generate_series(1, 50) n")
    database.wait_until_confirmed()
    for shop in (by_replay, by_offsets):
        shop.read(50)
    ((lsn,),) = database.execute("select pg_current_wal_lsn()::text")
    backups = [copy.deepcopy(shop.rows) for shop in (by_replay, by_offsets)]

    # Life goes on: every kind of change, some of them to one row again and again.
    for number in range(10):
        database.execute("update item set stock = %s where id <= 20", (number,))
    database.execute("update item set id = id + 100 where id between 21 and 25")
    database.execute("delete from item where id between 26 and 30")
    database.execute("insert into item select n, 'late ' || n, 1 from generate_series(31, 60) n on conflict do nothing")
    database.wait_until_confirmed()
    since = 200 + 5 + 5 + 10
    for shop in (by_replay, by_offsets):
        shop.read(since)

    # The stores are lost, and restored from the backup.
    by_replay.rows, by_offsets.rows = backups
    assert by_replay.table != rows(database)

    # One has the bridge send the events again, for the other the group goes back.
    done = walrus_bridge("replay", "--config", str(path), "--from-lsn", lsn)
    assert done.status == Exit.OK, done.stderr
    by_replay.read(since)

    done = walrus_bridge("offsets", "--config", str(path), "--group", by_offsets.group, "--lsn", lsn, "--apply")
    assert done.status == Exit.OK, done.stderr
    by_offsets.read(2 * since)  # the replay's as well, which it drops

    assert by_replay.table == by_offsets.table == rows(database)
    assert by_replay.rows == by_offsets.rows
    assert running.stop() == Exit.OK


def rows(database: Database) -> list[Record]:
    return [
        dict(zip(("id", "name", "stock"), row, strict=True))
        for row in database.execute("select id, name, stock from item order by id")
    ]

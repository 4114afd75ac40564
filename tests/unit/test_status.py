"""`walrus-bridge status` without a server: what the facts mean, and how they are shown."""

import json
import time
import urllib.request
from typing import Any

import msgspec
import pytest

from bridge import live
from bridge.config import Config, Http, Sink, Source, Stdout
from bridge.health import Health
from bridge.listener import Listener
from bridge.status import Status, asked, together
from bridge.status_facts import DatabaseFacts, LockHolder, SlotFacts, Subscribers
from bridge.status_text import duration, screen, size
from bridge.units import Address, Window

SLOT = SlotFacts(
    name="realtime", plugin="wal2json", database="app", wal_status="extended", invalidation_reason=None, active_pid=7,
    application="walrus-bridge", user="walrus_source", address="10.0.0.1", inactive_seconds=None, restart_lsn="0/100",
    confirmed_lsn="0/200", wal_end_lsn="0/900", lag_bytes=0x700, lag_seconds=0.5, retained_bytes=3 << 20,
    limit_bytes=1 << 30, safe_bytes=900 << 20, catalog_xmin_age=12,
    wait_event=None,
)  # fmt: skip
FACTS = DatabaseFacts(
    "15.20", "app", False, "2026-11-25T12:00:00Z", SLOT, None, None, None, None, [],
    [
        Subscribers("public", "book", "authenticated", 1200, 800, "unknown"),
        Subscribers("public", "note", "authenticated", 2, 2, "one_by_one", "fewer than 4 distinct claims"),
        Subscribers(None, None, "ghost", 1, 1, "no_table"),
    ],
)  # fmt: skip
CONFIG = Config(sink=Sink(stdout=Stdout()), source=Source(slot="realtime"))


@pytest.fixture
def health() -> Health:
    health = Health("realtime", "kafka")
    now = time.monotonic()
    health.streaming = True
    health.reconnects = 2
    health.events["public", "book"] = 5
    health.dead_letters["public", "odd"] = 1
    health.in_flight.events, health.in_flight.bytes = 2, 4096
    health.lag.looked(0x900, 1e9, now)
    health.received(0x900)
    health.confirmed(0x900, now)
    health.acknowledged_at = now - 3
    health.tally.ways["public", "book", "authenticated"] = None
    return health


def changed(facts: DatabaseFacts = FACTS, **slot: Any) -> DatabaseFacts:
    return msgspec.structs.replace(facts, slot=msgspec.structs.replace(SLOT, **slot))


def shown(status: Status) -> dict[str, str]:
    lines = [line.split("  ", 1) for line in screen(status).split("\n\n")[0].splitlines()]
    return {name: rest.strip() for name, rest in lines}


def test_one_screen(health: Health) -> None:
    status = together(CONFIG, FACTS, live.live(health), None)
    told = shown(status)

    assert told["slot"] == (
        "realtime, plugin wal2json, streamed by pid 7 (walrus-bridge, user walrus_source, from 10.0.0.1)"
    )
    assert told["position"] == "0/200 of 0/900"
    assert told["lag"] == "1.8 KiB, 0 s"
    assert told["WAL retained"] == "3.0 MiB, limit 1.0 GiB, 900.0 MiB may still be written (extended)"
    assert told["bridge"].startswith("streaming, version ")
    assert told["bridge"].endswith("reconnected 2 times")
    assert told["in flight"] == "2 events, 4.0 KiB"
    assert told["last acknowledgement"] == "3.0 s ago"
    assert told["rate"].endswith("5 events since the start")
    assert told["dead letters"] == "public.odd 1 since the start"
    assert told["replay window"] == "none"
    table = screen(status).split("\n\n")[1].splitlines()
    assert table[0].split() == ["table", "role", "subscriptions", "claims", "judged"]
    assert table[1].split(maxsplit=4) == ["public.book", "authenticated", "1,200", "800", "by a join"]
    assert table[2].endswith("one by one: fewer than 4 distinct claims")
    assert table[3].endswith("the table is gone")
    assert "! 1 dead letter since the bridge started" in screen(status)
    assert max(map(len, screen(status).splitlines())) < 160
    assert len(screen(status).splitlines()) < 25


def test_of_dead_letters_it_tells_what_the_broker_holds_where_that_is_known(health: Health) -> None:
    status = together(CONFIG, FACTS, live.live(health), None, letters=3)

    assert shown(status)["dead letters"] == "3 in the broker; public.odd 1 since the start"
    assert "! 3 dead letters wait for somebody to do something: `walrus-bridge dead-letter list`" in screen(status)
    assert shown(together(CONFIG, FACTS, None, "gone", letters=0))["dead letters"] == "0 in the broker"


def test_without_the_bridge_the_database_tells_what_it_can() -> None:
    status = together(CONFIG, FACTS, None, "nothing answers at 127.0.0.1:1: refused")
    told = shown(status)

    assert told["bridge"] == "not reachable: nothing answers at 127.0.0.1:1: refused. The rest is the database's part"
    assert told["lag"] == "1.8 KiB, 0.5 s"
    assert "rate" not in told
    assert "dead letters" not in told
    assert status.dead_letters is None


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (msgspec.structs.replace(FACTS, slot=None), "there is no slot realtime"),
        (msgspec.structs.replace(FACTS, slot_problem="slot realtime is lost: …"), "slot realtime is lost"),
        (changed(wal_status="unreserved"), "about to be lost"),
        (changed(wait_event="WaitForStandbyConfirmation"), "the standbys of synchronized_standby_slots"),
        (changed(active_pid=None), "nobody streams from the slot"),
        (msgspec.structs.replace(FACTS, in_recovery=True), "a standby in recovery"),
        (
            msgspec.structs.replace(FACTS, lock_holders=[LockHolder(9, None, "deploy")]),
            "waits for a lock: pid 9 (unnamed client, user deploy) is in the way",
        ),
        (
            msgspec.structs.replace(FACTS, lock_holders=[LockHolder(0, None, None)]),
            "waits for a lock: a prepared transaction",
        ),
        (
            msgspec.structs.replace(FACTS, subscribers=[Subscribers("public", "book", "ghost", 1, 1, "no_role")]),
            "a role that does not exist",
        ),
    ],
)
def test_what_an_operator_should_look_at_is_said(facts: DatabaseFacts, words: str) -> None:
    status = together(CONFIG, facts, None, "gone")

    assert any(words in note for note in status.notes)
    assert f"! {next(note for note in status.notes if words in note)}" in screen(status)


def test_a_bridge_that_is_stuck_or_does_not_stream(health: Health) -> None:
    health.streaming = False
    assert any("does not stream" in note for note in together(CONFIG, FACTS, live.live(health), None).notes)
    health.loop_at -= 60
    status = together(CONFIG, FACTS, live.live(health), None)
    assert any("has not moved" in note for note in status.notes)
    assert shown(status)["bridge"].startswith("stuck")


def test_the_listener_tells_and_is_understood(health: Health) -> None:
    listener = Listener(Address("127.0.0.1:0"), health)
    try:
        address = Address(f"127.0.0.1:{listener.port}")
        told = live.ask(address)
        with urllib.request.urlopen(f"http://{address}/status", timeout=5) as answer:
            assert answer.headers["Content-Type"] == "application/json"
            assert msgspec.json.decode(answer.read())["slot"] == "realtime"
        assert live.ask(Address(f":{listener.port}")).slot == "realtime"

        other = Config(sink=Sink(stdout=Stdout()), source=Source(slot="another"), http=Http(listen=address))
        assert asked(other) == (None, f"the bridge that listens at {address} streams from another slot, realtime")
    finally:
        listener.close()
    assert (told.sink, told.streaming, told.reconnects, told.confirmed_lsn) == ("kafka", True, 2, "0/900")
    assert (told.lag_bytes, told.lag_seconds) == (0, 0)
    assert [msgspec.structs.astuple(each) for each in told.tables] == [
        ("public", "book", 5, 0),
        ("public", "odd", 0, 1),
    ]
    assert told.row_security[0].way == "join"
    with pytest.raises(live.NotReachable, match="nothing answers"):
        live.ask(address)


def test_before_it_streams_positions_are_not_known() -> None:
    told = live.live(Health("realtime", "stdout"))

    assert (told.confirmed_lsn, told.received_lsn, told.lag_bytes, told.lag_seconds) == (None, None, None, None)
    assert msgspec.json.decode(live.tell(Health("realtime", "stdout")), type=live.Live).streaming is False


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.04, "0.0 s"), (9.96, "10.0 s"), (42.4, "42 s"), (59.7, "1 min 0 s"), (3599, "59 min 59 s"),
        (3600, "1 h 0 min"), (86_399, "23 h 59 min"), (86_400, "1 d 0 h"), (1e6, "11 d 13 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB"), (1 << 52, "4,096.0 TiB")],
)
def test_sizes(number: int, text: str) -> None:
    assert size(number) == text


def test_the_replay_window_tells_its_cost_and_can_be_written_as_json() -> None:
    config = Config(sink=CONFIG.sink, source=Source(slot="realtime", replay_window=Window.parse("24h")))
    kept = msgspec.structs.replace(SLOT, name="realtime_replay")
    status = together(
        config,
        msgspec.structs.replace(FACTS, replay_slot=kept, replay_since="2026-11-24T12:00:00Z"),
        None,
        "not reachable",
    )

    assert shown(status)["replay window"] == (
        "24h: slot realtime_replay holds 3.0 MiB from 0/200 on, committed since 2026-11-24T12:00:00Z,"
        " catalog_xmin is 12 transactions old"
    )
    told = json.loads(msgspec.json.encode(status))["replay"]
    assert (told["window"], told["slot"]["retained_bytes"], told["slot"]["catalog_xmin_age"]) == ("24h", 3 << 20, 12)

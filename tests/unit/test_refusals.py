"""PostgreSQL's errors as ours: what waiting mends and what it does not, and what to do."""

import traceback

import pytest

from bridge.errors import BridgeError, GapError, SlotActive, SlotError, SourceRefused, SourceUnreachable
from bridge.guard import SLACK_BYTES, gap, set_back
from bridge.lsn import Identity
from bridge.replication import refusal
from bridge.session import matches_standby_names, same_server
from bridge.sinks.base import Position
from bridge.slot import Slot, problem
from bridge.sql import connection_error, connection_fault, conninfo_with, describe

DSN = "postgresql://alice:s3cret@db.example:5433/shop"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('FATAL:  password authentication failed for user "alice"', SourceRefused),
        ('FATAL:  database "shop" does not exist', SourceRefused),
        ('FATAL:  role "alice" does not exist', SourceRefused),
        ('FATAL:  no pg_hba.conf entry for replication connection from host "10.0.0.1"', SourceRefused),
        ("FATAL:  must be superuser or replication role to start walsender", SourceRefused),
        ("connection refused\n\tIs the server running on that host?", SourceUnreachable),
        ("FATAL:  the database system is starting up", SourceUnreachable),
        ("FATAL:  sorry, too many clients already", SourceUnreachable),
        ("timeout expired", SourceUnreachable),
    ],
)
def test_a_failed_connection_tells_whether_waiting_helps(text: str, kind: type[BridgeError]) -> None:
    error = connection_error(DSN, text)
    assert type(error) is kind
    assert "db.example:5433/shop as alice" in str(error)
    assert "s3cret" not in str(error)


def test_a_connection_is_described_without_its_password() -> None:
    assert describe("host=h port=1 dbname=d user=u password=p") == "h:1/d as u"
    assert describe("not a conninfo") == "an unreadable connection"


@pytest.mark.parametrize(
    "conninfo",
    [
        "host=h password=it's s3cret",
        "host=h password=much s3cret",
        "host=h password='s3cret",
        "host=h s3cret=h",
        "postgresql://u:s3cret%zz@h/d",
        "postgresql://u:s3cret%00@h/d",
        "postgresql://u:a@s3cret@h/d",
        "postgresql://u:a/s3cret@h/d",
        "postgresql://u:s3cret/a@h/d",
        "postgresql://u:a?b/s3cret@h/d",
        "postgresql://u:s3cret@[::1/d",
        "postgresql://u:s3cret@[::1]h/d",
        "postgresql://u:s3cret",
        "postgresql://u:s3cret/d",
        "s3cret",
    ],
)
def test_what_is_wrong_with_a_connection_is_told_without_a_part_of_its_password(conninfo: str) -> None:
    with pytest.raises(SourceRefused, match="What to do: write postgresql://user:password@") as raised:
        conninfo_with(conninfo, {})

    assert "s3cret" not in "".join(traceback.format_exception(raised.value, limit=0))


@pytest.mark.parametrize(
    "conninfo",
    [
        "",
        "host=@abstract dbname=a@b password='a@/b'",
        "postgresql://u:p%40s%2Fs@h:1,i:2/d%40e?application_name=a@b",
        "postgresql:///d?host=/run/postgresql&port=5433",
        "postgres://u:a?b@h",
        "postgresql://[::1]:5432/d",
    ],
)
def test_what_libpq_takes_rightly_is_taken(conninfo: str) -> None:
    assert connection_fault(conninfo) is None


@pytest.mark.parametrize(
    ("state", "text", "kind"),
    [
        ("55006", 'replication slot "realtime" is active for PID 7', SlotActive),
        ("42704", 'replication slot "realtime" does not exist', SlotError),
        ("42704", 'publication "p" does not exist', SourceRefused),
        ("42501", 'library "wal2json" may not be used as an output plugin', SourceRefused),
        ("55000", 'can no longer get changes from replication slot "realtime"', SlotError),
        ("58P01", "requested WAL segment 000000010000000000000001 has already been removed", SlotError),
        ("42501", "permission denied", SourceRefused),
        ("57P01", "terminating connection due to administrator command", SourceUnreachable),
        ("22023", 'option "nonsense" is unknown', SourceRefused),
    ],
)
def test_a_refused_stream_tells_whether_waiting_helps(state: str, text: str, kind: type[BridgeError]) -> None:
    error = refusal(state, text, "START_REPLICATION")
    assert type(error) is kind
    assert text in str(error)


def slot(**changes: object) -> Slot:
    facts: dict[str, object] = {
        "name": "realtime",
        "plugin": "wal2json",
        "database": "shop",
        "temporary": False,
        "active_pid": None,
        "restart_lsn": 1,
        "confirmed_lsn": 2,
        "wal_status": "reserved",
        "safe_wal_size": None,
        "invalidation_reason": None,
        "failover": False,
        "current_database": "shop",
        "application": None,
        "address": None,
        "user": None,
    }
    return Slot(**(facts | changes))  # type: ignore[arg-type]


def test_a_slot_that_fits_has_no_problem() -> None:
    assert problem(slot(), "wal2json") is None


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"plugin": "pgoutput"}, SlotError, "pgoutput"),
        ({"plugin": None}, SlotError, "physical"),
        ({"database": "other"}, SlotError, "other"),
        ({"wal_status": "lost"}, SlotError, "max_slot_wal_keep_size"),
        ({"wal_status": "lost", "invalidation_reason": "idle_timeout"}, SlotError, "idle_replication_slot_timeout"),
        ({"wal_status": "lost", "invalidation_reason": "anything"}, SlotError, "invalidated"),
        (
            {"active_pid": 42, "application": "worker", "address": "10.0.0.9", "user": "bob"},
            SlotActive,
            "pid 42 (worker, user bob, from 10.0.0.9)",
        ),
    ],
)
def test_a_slot_that_cannot_be_streamed_says_why(
    changes: dict[str, object], kind: type[BridgeError], told: str
) -> None:
    found = problem(slot(**changes), "wal2json")
    assert type(found) is kind
    assert told in str(found)
    assert "What to do" in str(found)


@pytest.mark.parametrize(
    ("setting", "matches"),
    [
        ("", False),
        ("*", True),
        ("walrus-bridge", True),
        ('"walrus-bridge"', True),
        ('FIRST 2 (a, "Walrus-Bridge")', True),
        ("ANY 1 (standby1, standby2)", False),
        ("2 (standby1, *)", True),
    ],
)
def test_a_bridge_that_commits_would_wait_for_is_noticed(setting: str, matches: bool) -> None:
    assert matches_standby_names(setting, "walrus-bridge") is matches


IDENTITY = Identity("7000", 1)


def test_a_slot_below_its_ceiling_has_no_gap() -> None:
    assert gap(None, IDENTITY, "realtime", 5) is None
    assert gap(("7000", 1, SLACK_BYTES), IDENTITY, "realtime", SLACK_BYTES) is None


def test_a_slot_beyond_its_ceiling_was_moved_by_someone_else() -> None:
    assert "re-created or moved" in (gap(("7000", 1, 100), IDENTITY, "realtime", 101) or "")


def test_another_server_is_a_gap() -> None:
    assert "another server" in (gap(("6999", 1, 100), IDENTITY, "realtime", 5) or "")
    with pytest.raises(GapError, match="another server"):
        same_server(Identity("6999", 1), IDENTITY)


def test_a_promoted_standby_is_safe_only_where_it_left_after_what_was_confirmed() -> None:
    promoted = Identity("7000", 2, ((1, 1000),))
    assert gap(("7000", 1, 5000), promoted, "realtime", 1000) is None
    assert "timeline" in (gap(("7000", 1, 5000), promoted, "realtime", 1001) or "")
    assert "timeline" in (gap(("7000", 3, 5000), promoted, "realtime", 10) or "")


def test_what_was_delivered_is_within_the_server_s_wal_unless_it_was_set_back() -> None:
    assert set_back(1000, 1000) is None
    assert "set back" in (set_back(1001, 1000) or "")


def test_a_part_of_a_transaction_reaches_past_the_start_of_its_commit() -> None:
    """So a timeline that left exactly there does not hold it."""
    part = Position("7000", 1, 900, f"{1000:016X}/{950:016X}/00000000")
    promoted = Identity("7000", 2, ((1, 1000),))
    assert "timeline" in (gap(("7000", 1, part.reached), promoted, "realtime", part.reached) or "")
    assert Position("7000", 1, 900, "").reached == 0

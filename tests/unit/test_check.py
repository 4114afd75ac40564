"""What the preflight check makes of the facts that it reads."""

import msgspec
import pytest

from bridge.check import line
from bridge.check_logins import JudgingRights, judged
from bridge.check_server import ServerFacts, settings
from bridge.check_tables import TableFacts, tables
from bridge.errors import SourceRefused
from bridge.finding import Finding, of_error, ok, warning
from bridge.slot import Slot

SERVER = ServerFacts(
    version="15.20",
    version_number=150020,
    in_recovery=False,
    wal_level="logical",
    max_slots=10,
    slots=2,
    max_senders=10,
    senders=1,
    max_slot_wal_keep_size="10GB",
    synchronous_standby_names="",
    synchronized_standby_slots="",
)
SLOT = Slot(
    name="realtime",
    plugin="wal2json",
    database="d",
    temporary=False,
    active_pid=None,
    restart_lsn=1,
    confirmed_lsn=1,
    wal_status="reserved",
    safe_wal_size=None,
    invalidation_reason=None,
    failover=False,
    current_database="d",
    application=None,
    address=None,
    user=None,
)
LOGIN = JudgingRights(
    user="judge",
    superuser=False,
    replication=False,
    bypassrls=False,
    createrole=False,
    createdb=False,
    inherited=(),
    others=(),
    powerful=(),
    owned=(),
    granted=(),
)
TABLE = TableFacts(
    oid=16384,
    schema="public",
    name="book",
    kind="r",
    persistence="p",
    identity="d",
    has_key=True,
    has_identity_index=False,
    has_floats=False,
    has_generated=False,
    subscribed=True,
)


def bad(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.level for finding in findings if finding.level != "ok"}


def test_a_server_that_is_set_up_is_all_ok() -> None:
    assert bad(settings(SERVER, None)) == {}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"version_number": 130014}, {"version": "error"}),
        ({"version_number": 140015}, {}),
        ({"version_number": 180001}, {}),
        ({"version_number": 190000}, {"version": "warning"}),
        ({"in_recovery": True}, {"primary": "error"}),
        ({"wal_level": "replica"}, {"wal_level": "error"}),
        ({"slots": 10}, {"max_replication_slots": "error"}),
        ({"senders": 10}, {"max_wal_senders": "error"}),
        ({"synchronous_standby_names": "*"}, {"synchronous_standby_names": "error"}),
        ({"synchronous_standby_names": "other"}, {}),
    ],
)
def test_each_setting_that_does_not_do_is_named(facts: dict[str, object], expected: dict[str, str]) -> None:
    findings = settings(msgspec.structs.replace(SERVER, **facts), None)

    assert bad(findings) == expected
    assert all(finding.remedy for finding in findings if finding.level != "ok")


@pytest.mark.parametrize(
    ("standbys", "slot", "expected"),
    [
        ("", SLOT, {}),
        ("standby", None, {}),
        ("standby", SLOT, {"failover": "warning"}),
        ("standby", msgspec.structs.replace(SLOT, failover=True), {}),
    ],
)
def test_a_slot_that_a_failover_would_lose_is_named_where_failovers_are_meant(
    standbys: str, slot: Slot | None, expected: dict[str, str]
) -> None:
    facts = msgspec.structs.replace(SERVER, synchronized_standby_slots=standbys)

    assert bad(settings(facts, slot)) == expected


def test_a_slot_that_is_there_needs_no_free_one_and_a_running_bridge_no_free_sender() -> None:
    full = msgspec.structs.replace(SERVER, slots=10, senders=10)

    assert bad(settings(full, SLOT)) == {"max_wal_senders": "error"}
    assert bad(settings(full, msgspec.structs.replace(SLOT, active_pid=7))) == {}


def test_a_judging_login_that_may_only_become_the_claims_roles_is_ok() -> None:
    assert bad(judged(LOGIN)) == {}


@pytest.mark.parametrize(
    ("rights", "level", "says"),
    [
        ({"superuser": True}, "error", "SUPERUSER"),
        ({"replication": True}, "error", "REPLICATION"),
        ({"bypassrls": True}, "error", "BYPASSRLS"),
        ({"createrole": True}, "error", "CREATEROLE"),
        ({"createdb": True}, "error", "CREATEDB"),
        ({"inherited": ("anon",)}, "error", "INHERIT"),
        ({"powerful": ("admin",)}, "error", "may become admin"),
        ({"others": ("reader",)}, "warning", "may become reader"),
        ({"owned": ("table book",)}, "error", "owns table book"),
        ({"granted": ("table book",)}, "error", "rights of its own on table book"),
    ],
)
def test_whatever_else_the_judging_login_may_do_is_named(rights: dict[str, object], level: str, says: str) -> None:
    (finding,) = judged(msgspec.structs.replace(LOGIN, **rights))

    assert finding.level == level
    assert says in finding.what
    assert finding.remedy


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"has_key": False}, ["no primary key", "UPDATE and DELETE do not arrive"]),
        ({"has_key": False, "identity": "f"}, ["no primary key"]),
        ({"has_key": False, "identity": "i", "has_identity_index": True}, ["no primary key"]),
        ({"identity": "n"}, ["UPDATE and DELETE do not arrive"]),
        ({"identity": "i"}, ["UPDATE and DELETE do not arrive"]),
        ({"persistence": "u"}, ["not logged"]),
        ({"kind": "v"}, ["not a table"]),
        ({"name": "secret"}, ["source.tables leaves it out"]),
        ({"kind": "p", "identity": "n"}, []),
        ({"has_floats": True}, ["NaN"]),
        ({"has_generated": True}, []),
    ],
)
def test_what_subscribers_of_a_table_will_not_get_is_a_warning(facts: dict[str, object], says: list[str]) -> None:
    found = tables([msgspec.structs.replace(TABLE, **facts)], "wal2json", 15, ["*.*"], ["*.secret"])

    warnings = [finding for finding in found if finding.level != "ok"]
    assert len(warnings) == len(says)
    for finding, words in zip(warnings, says, strict=True):
        assert finding.level == "warning"
        assert words in finding.what
        assert finding.remedy


def test_pgoutput_fails_updates_without_identity_and_keeps_nan() -> None:
    table = msgspec.structs.replace(TABLE, identity="n", has_floats=True, has_generated=True)

    before_18, from_18 = (tables([table], "pgoutput", major, ["*.*"], []) for major in (17, 18))

    assert [finding.name for finding in before_18] == ["table public.book", "values"]
    assert "fail in the application" in before_18[0].what
    assert "generated columns" in before_18[1].what
    assert [finding.name for finding in from_18] == ["table public.book"]


def test_an_error_becomes_a_finding_with_its_remedy() -> None:
    finding = of_error("source.connection", SourceRefused("no entry. What to do: allow it in pg_hba.conf"))

    assert finding == Finding("source.connection", "error", "no entry", "allow it in pg_hba.conf")


def test_findings_are_aligned_and_coloured_only_on_terminals() -> None:
    assert line(ok("wal_level", "logical")) == f"ok       {'wal_level':25}  logical"
    assert line(warning("x", "y", "z")).endswith("\n         → z")
    assert "\x1b[" not in line(ok("x", "y"))
    assert line(ok("x", "y"), coloured=True).startswith("\x1b[32mok")

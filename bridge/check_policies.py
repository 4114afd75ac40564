"""The preflight check of row level security: which way each subscribed table goes, and what the judging login needs for it."""

from collections.abc import Iterator, Sequence

from bridge.finding import Finding, ok, warning
from bridge.sql import Connection
from bridge.subscriptions import Subscriptions
from bridge.ways import MANY_CLAIMS, Found, Ways, subscribers_of

_TEMPORARY = """
select has_database_privilege(current_database(), 'TEMPORARY'), format('%I', current_database()), format('%I', current_user)
"""


def may_make_temporary_tables(judging: Connection) -> bool:
    row = judging.execute(_TEMPORARY).fetchone()
    return row is not None and bool(row[0])


def grant_temporary(judging: Connection) -> str:
    """The statement that lets the judging login make temporary tables."""
    row = judging.execute(_TEMPORARY).fetchone()
    assert row is not None
    return f"grant temporary on database {row[1]} to {row[2]}"


def temporary_tables(judging: Connection) -> Finding:
    if may_make_temporary_tables(judging):
        return ok("temporary tables", "the judging login may make them, so policies can be joined")
    what = "the judging login may not make them: policies are asked about each subscriber's claims by themselves"
    return warning("temporary tables", what, f"{grant_temporary(judging)}; deploy/roles.sql does so")


def row_security(source: Connection, judging: Connection, *, current: bool) -> Iterator[Finding]:
    """A finding for each subscribed table under row level security and each role that it binds."""
    subscriptions = Subscriptions()
    subscriptions.load(source)
    wanted = {entity: subscribers_of(subscriptions, entity) for entity in subscriptions.entities()}
    found = Ways(source, judging, current=current).look(wanted)
    yield from judged([each for each in found if each.kind not in {"open", "exempt"}])


def judged(found: Sequence[Found]) -> Iterator[Finding]:
    """What is to be said of each. Pure."""
    for each in found:
        name = f"table {each.label}"
        role, count = each.rights.role, len(each.subscribers.claims)
        if each.kind == "nobody":
            yield ok(name, f"row security shows {role} nothing: {each.reason}")
        elif each.kind == "joined":
            few = "" if each.joins_now else ", once there are more"
            yield ok(name, f"row security for {role}: as a join of all claims ({count} now){few}")
        elif each.is_slow:
            what = f"row security for {role}: for each of {count} claims by itself, because {each.reason}"
            yield warning(name, what, f"walrus-bridge explain {each.label} shows what makes it a join")
        else:
            what = f"row security for {role}: for each claims value by itself ({count} now, slow from {MANY_CLAIMS} on)"
            yield ok(name, f"{what}: {each.reason}")

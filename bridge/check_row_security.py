"""The preflight check of row level security: which way each subscribed table goes, and what that costs."""

from collections.abc import Iterable, Sequence

from bridge.finding import Finding, ok, warning
from bridge.row_security import Looking, RoleWay
from bridge.sql import Connection

MANY_CLAIMS = 100
"""From so many distinct claims on, asking for each by itself is worth a warning."""

_MAY_MAKE_TABLES = """
select has_database_privilege(current_database(), 'TEMPORARY'), format('%I', current_database()), format('%I', current_user)
"""


def missing_right(judging: Connection) -> str | None:
    """The statement that lets the judging login make temporary tables; None: it may."""
    row = judging.execute(_MAY_MAKE_TABLES).fetchone()
    assert row is not None
    may, database, user = row
    return None if may else f"grant temporary on database {database} to {user}"


def row_security(source: Connection, judging: Connection, *, current: bool) -> Iterable[Finding]:
    """One finding for each subscribed table that has policies, and one for the right that joins need."""
    looking = Looking(source, judging, current=current)
    ways = [way for way in looking.ways(looking.subscribed()) if way.rights.subject]
    if not ways:
        return
    if statement := missing_right(judging):
        yield warning(
            "row level security",
            "the judging login may make no temporary tables, so each claims value is asked for by itself",
            f"{statement}; deploy/roles.sql does so",
        )
    yield from findings(ways)


def findings(ways: Sequence[RoleWay]) -> Iterable[Finding]:
    """Pure."""
    for way in ways:
        name = f"table {way.table.schema}.{way.table.name}"
        if way.rows is not None:
            yield ok(name, f"row level security is asked by a join for role {way.rights.role}")
            continue
        what = f"row level security is asked for each claims value by itself for role {way.rights.role}"
        if way.reason is None or len(way.claims) < MANY_CLAIMS:
            yield ok(name, what)
        else:
            yield warning(
                name,
                f"{what}, and there are {len(way.claims)}: {way.reason}",
                f"`walrus-bridge explain {way.table.schema}.{way.table.name}` says what would make it a join",
            )

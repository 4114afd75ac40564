"""The preflight check of row level security: which way each subscribed table goes, and what that costs."""

from collections.abc import Iterable, Sequence

from bridge.finding import Finding, ok, warning
from bridge.row_security import Looking, RoleWay
from bridge.sql import Connection

MANY_CLAIMS = 100
"""From so many distinct claims on, asking for each by itself is worth a warning."""

_MAY_MAKE_TABLES = "select current_user, current_database(), has_database_privilege(current_database(), 'TEMPORARY')"


def row_security(source: Connection, judging: Connection) -> Iterable[Finding]:
    """One finding for each subscribed table that has policies, and one for the right that joins need."""
    looking = Looking(source, judging)
    ways = [way for way in looking.ways(looking.subscribed()) if way.rights.subject]
    if not ways:
        return
    row = judging.execute(_MAY_MAKE_TABLES).fetchone()
    assert row is not None
    user, database, may = row
    if not may:
        yield warning(
            "row level security",
            f"{user} may make no temporary tables, so each claims value is asked for by itself",
            f'grant temporary on database "{database}" to "{user}"',
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

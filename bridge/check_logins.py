"""The preflight check of the two logins: that the source's may do enough, and the judging one no more than that."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from bridge.finding import Finding, error, ok, warning
from bridge.sql import Connection, first_line

JUDGING = "rls.connection"
GRANTS = "deploy/roles.sql has the grants"

_SOURCE = """
select current_user::text, r.rolsuper, r.rolreplication,
  (select has_schema_privilege(n.oid, 'USAGE') and has_table_privilege(c.oid, 'SELECT')
   from pg_class c join pg_namespace n on n.oid = c.relnamespace
   where n.nspname = 'realtime' and c.relname = 'subscription'),
  array(select format('%I.%I', n.nspname, c.relname)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'walrus_bridge' and c.relkind in ('r', 'p')
          and not (has_schema_privilege(n.oid, 'USAGE') and has_table_privilege(c.oid, 'SELECT')
                   and has_table_privilege(c.oid, 'INSERT') and has_table_privilege(c.oid, 'UPDATE')
                   and has_table_privilege(c.oid, 'DELETE'))
        order by c.relname),
  array(select relname::text from pg_class
        where oid = any (array['pg_class', 'pg_attribute', 'pg_type', 'pg_index', 'pg_policy', 'pg_constraint',
                               'pg_roles', 'pg_auth_members', 'pg_namespace', 'pg_inherits']::regclass[])
          and not has_table_privilege(oid, 'SELECT'))
from pg_roles r where r.rolname = current_user
"""

# Schemas of the subscribed columns' types: making values and testing filters takes their use.
_CLOSED_SCHEMAS = """
select distinct n.nspname::text
from realtime.subscription s
join pg_attribute a on a.attrelid = s.entity and a.attnum > 0 and not a.attisdropped
join pg_type t on t.oid = a.atttypid
join pg_class c on c.oid = a.attrelid
join pg_namespace n on n.oid in (t.typnamespace, c.relnamespace)
where not has_schema_privilege(n.oid, 'USAGE')
order by 1
"""

# pg_has_role's MEMBER: may become it, directly or by way of others. A running bridge's claims are temporary tables of this login.
_JUDGING = """
with other as (
    select o.rolname::text as name, o.rolname = any (%(claimed)s) as claimed,
      o.rolsuper or o.rolreplication or o.rolbypassrls or o.rolcreaterole or o.rolcreatedb as powerful,
      pg_has_role(r.oid, o.oid, 'USAGE') as inherited
    from pg_roles r join pg_roles o on o.oid <> r.oid and pg_has_role(r.oid, o.oid, 'MEMBER')
    where r.rolname = current_user
), thing as (
    select d.deptype, pg_describe_object(d.classid, d.objid, d.objsubid) as description
    from pg_shdepend d join pg_roles r on r.oid = d.refobjid
    where d.refclassid = 'pg_authid'::regclass and r.rolname = current_user
      and (d.dbid = (select oid from pg_database where datname = current_database())
           or (d.dbid = 0 and (d.deptype = 'o' or d.classid <> 'pg_database'::regclass)))
      and not exists (select from pg_class c where d.classid = 'pg_class'::regclass and c.oid = d.objid and c.relpersistence = 't')
      and not exists (select from pg_proc p where d.classid = 'pg_proc'::regclass and p.oid = d.objid
                      and (p.pronamespace = pg_my_temp_schema() or pg_is_other_temp_schema(p.pronamespace)))
)
select r.rolname::text, r.rolsuper, r.rolreplication, r.rolbypassrls, r.rolcreaterole, r.rolcreatedb,
  array(select name from other where inherited and claimed order by 1),
  array(select name from other where not claimed and not powerful order by 1),
  array(select name from other where powerful order by 1),
  array(select description from thing where deptype = 'o' order by 1 limit 5),
  array(select description from thing where deptype = 'a' order by 1 limit 5)
from pg_roles r where r.rolname = current_user
"""

# Nothing is judged as a role that row level security does not bind.
_CLAIMED = """
select r.rolname::text, s.claims ->> 'role', r.rolsuper or r.rolbypassrls
from realtime.subscription s left join pg_roles r on r.oid = s.claims_role::oid
group by 1, 2, 3 order by 2
"""

_SAME_DATABASE = "select (select system_identifier from pg_control_system()), current_database()"


class JudgingRights(msgspec.Struct, frozen=True):
    """What the judging login is and may do."""

    user: str
    superuser: bool
    replication: bool
    bypassrls: bool
    createrole: bool
    createdb: bool
    inherited: tuple[str, ...]
    """Claims roles whose rights it has without becoming them."""
    others: tuple[str, ...]
    """Roles that no subscription claims and that it may become."""
    powerful: tuple[str, ...]
    """Roles that it may become, claimed or not, which can do what no policy function should."""
    owned: tuple[str, ...]
    """What it owns, at most five of it."""
    granted: tuple[str, ...]
    """What it was granted itself, at most five of it; but for CONNECT and TEMPORARY."""


def source_rights(connection: Connection) -> Iterator[Finding]:
    """Rights of the source login, besides those that making a slot and a replication connection have shown."""
    row = connection.execute(_SOURCE).fetchone()
    assert row is not None
    user, superuser, replication, may_read, unwritable, unreadable = row
    attributes = "superuser" if superuser else "REPLICATION" if replication else "no REPLICATION attribute of its own"
    yield ok("source login", f"{user} ({attributes})")
    if unreadable:
        yield error("catalog", f"{user} may not read {', '.join(unreadable)}", "grant select on these to it")
    else:
        yield ok("catalog", "readable")
    if may_read is False:
        what = f"{user} may not read realtime.subscription"
        yield error("subscriptions", what, f"grant usage on the schema and select on the table; {GRANTS}")
    if unwritable:
        what = f"{user} may not write {', '.join(unwritable)}"
        yield error("walrus_bridge", what, f"grant select, insert, update and delete; {GRANTS}")
    if may_read:
        closed = [schema for (schema,) in connection.execute(_CLOSED_SCHEMAS)]
        if closed:
            what = f"{user} may not use the schemas {', '.join(closed)} of subscribed tables and their types"
            yield error("schemas", what, f"grant usage on schema {', '.join(closed)} to {user}; {GRANTS}")


def subscriptions_readable(connection: Connection) -> bool:
    """Whether realtime.subscription is there and may be read."""
    row = connection.execute(_SOURCE).fetchone()
    return row is not None and bool(row[3])


def claimed_roles(connection: Connection) -> tuple[list[str], list[Finding]]:
    """The roles that subscriptions claim and policies bind, and a warning for those that are gone."""
    rows = connection.execute(_CLAIMED).fetchall()
    roles = sorted({role for role, _, exempt in rows if role is not None and not exempt})
    gone = sorted({str(claim) for role, claim, _ in rows if role is None})
    if gone:
        what = f"subscriptions claim roles that are not there: {', '.join(gone)}; they get nothing"
        return roles, [warning("claims roles", what, "create the roles, or delete those subscriptions")]
    return roles, []


def same_database(source: Connection, judging: Connection) -> Finding | None:
    """An error where the judging login works elsewhere than the source's."""
    try:
        here, there = (connection.execute(_SAME_DATABASE).fetchone() for connection in (source, judging))
    except psycopg.Error:
        # pg_control_system() may have been revoked; then it cannot be told.
        return None
    if here != there:
        return error(JUDGING, "it leads to another database than source.connection", "give both the same database")
    return None


def may_become(judging: Connection, roles: Sequence[str]) -> Finding:
    """SET ROLE to each claims role, tried."""
    refused: dict[str, str] = {}
    for role in roles:
        try:
            with judging.transaction(force_rollback=True):
                judging.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        except psycopg.Error as raised:
            refused[role] = first_line(raised)
    if refused:
        role, reason = next(iter(refused.items()))
        what = f"it may not become {', '.join(refused)}: {reason}"
        return error("claims roles", what, f'grant "{role}" to the judging login, with set and without inherit')
    if not roles:
        return ok("claims roles", "no subscription claims a role that row level security binds")
    return ok("claims roles", f"it may become {', '.join(roles)}")


def judging_rights(judging: Connection, roles: Sequence[str]) -> list[Finding]:
    row = judging.execute(_JUDGING, {"claimed": list(roles)}).fetchone()
    assert row is not None
    facts: list[Any] = [tuple(value) if isinstance(value, list) else value for value in row]
    return judged(JudgingRights(*facts))


def judged(rights: JudgingRights) -> list[Finding]:
    """Whether a login of its own may do no more than become the claims roles. Pure.

    A policy function can set the role back to the login and use what that may do.
    """
    user = f'"{rights.user}"'
    findings = []
    for name in ("superuser", "replication", "bypassrls", "createrole", "createdb"):
        if getattr(rights, name):
            what = f"{rights.user} has {name.upper()}, which a policy function could use"
            findings.append(error(JUDGING, what, f"alter role {user} no{name}"))
    if rights.superuser:
        return findings
    if rights.inherited:
        what = f"{rights.user} has the rights of {', '.join(rights.inherited)} without becoming them (INHERIT)"
        remedy = f"alter role {user} noinherit; from 16 on: grant … to {user} with inherit false, set true"
        findings.append(error(JUDGING, what, remedy))
    if rights.powerful:
        what = f"{rights.user} may become {', '.join(rights.powerful)}, which can do what no policy function should"
        findings.append(error(JUDGING, what, f"revoke {', '.join(rights.powerful)} from {user}"))
    if rights.others:
        what = f"{rights.user} may become {', '.join(rights.others)}, which no subscription claims now"
        findings.append(warning(JUDGING, what, f"revoke them from {user} unless subscriptions will claim them"))
    if rights.owned:
        what = f"{rights.user} owns {', '.join(rights.owned)}, which a policy function could alter"
        findings.append(error(JUDGING, what, f"reassign owned by {user} to another role"))
    if rights.granted:
        what = f"{rights.user} has rights of its own on {', '.join(rights.granted)}"
        findings.append(error(JUDGING, what, f"revoke all on them from {user}; the claims roles' rights suffice"))
    if not findings:
        findings.append(ok(JUDGING, f"{rights.user} may do nothing but become the claims roles"))
    return findings


def shared_login() -> Finding:
    return warning(
        JUDGING,
        "not set: policies run on the source login, whose rights a policy function could use",
        "make a login for policies alone (deploy/roles.sql) and set rls.connection",
    )

"""The table and the policies of the RLS cells, and who may see what."""

import msgspec

from tests.servers.postgres import Database

ROLE = "authenticated"
MEMBERS = 10
"""Of a room."""

TABLES = f"""
create table note (id bigint primary key, owner uuid not null, editor uuid not null, room integer not null,
  title text not null, body text not null);
create table member (room integer, person uuid, primary key (room, person));
create function person(number bigint) returns uuid language sql immutable return md5('person ' || number)::uuid;
create function may_see(owner uuid) returns boolean language plpgsql volatile as $$
begin
  return owner = auth.uid();
end $$;
grant select on note, member to {ROLE};
alter table note enable row level security;
create function make_notes(low bigint, high bigint, people bigint) returns void language sql as $$
  insert into note
  select n, person(n * 7919 % people), person((n * 7919 + 1) % people), n % greatest(people / {MEMBERS}, 1), 'Note ' || n,
    repeat('text ', 20)
  from generate_series(low, high) as n
$$;
"""


class Policies(msgspec.Struct, frozen=True):
    name: str
    usings: tuple[str, ...]
    seen_by: int
    """How many see a note, where there are as many people."""

    def apply(self, database: Database) -> None:
        """Instead of those that there are."""
        for (name,) in database.execute("select polname from pg_policy where polrelid = 'note'::regclass"):
            database.execute(f"drop policy {name} on note")
        for number, using in enumerate(self.usings):
            database.execute(f"create policy p{number} on note for select to {ROLE} using ({using})")


ALL = (
    Policies("owner", ("owner = auth.uid()",), 1),
    Policies(
        "membership", ("exists (select from member where member.room = note.room and person = auth.uid())",), MEMBERS
    ),
    Policies("two permissive", ("owner = auth.uid()", "editor = auth.uid()"), 2),
    Policies("not rewritable", ("may_see(owner)",), 1),
)


def people(database: Database, before: int, count: int) -> None:
    """From `before` to `count` people, each subscribed to all notes, and in a room."""
    database.execute(
        "insert into realtime.subscription (subscription_id, entity, claims)"
        " select gen_random_uuid(), 'note', jsonb_build_object('role', %s::text, 'sub', person(n))"
        " from generate_series(%s::bigint, %s::bigint - 1) as n",
        (ROLE, before, count),
    )
    database.execute("truncate member")
    database.execute(
        "insert into member select n %% greatest(%s::bigint / %s, 1), person(n) from generate_series(0, %s::bigint - 1) as n",
        (count, MEMBERS, count),
    )
    database.execute("analyze")

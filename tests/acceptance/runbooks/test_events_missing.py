"""One of forty subscribers misses a change, for the filter that it has set."""

from tests.acceptance.runbooks.conftest import Desk
from tests.servers.kafka import Kafka

MINE = "a11ce000-0000-4000-8000-000000000001"


def test_events_missing(desk: Desk, kafka: Kafka) -> None:
    database = desk.database
    database.execute("""
        create table book (id int primary key);
        create table message (id int primary key, room int, body text);
        create table member (person uuid, room int, primary key (person, room));
        grant select on book, message, member to anon, authenticated;
        alter table message enable row level security;
        create policy members on message to authenticated using (
            exists (select from member where member.room = message.room and person = (select auth.uid())));
    """)
    database.subscribe("book", "anon")
    for number in range(38):
        database.subscribe("message", "authenticated", sub=f"{number:08x}-0000-4000-8000-000000000000")
    database.subscribe("message", "authenticated", sub=MINE)
    database.execute(
        "insert into realtime.subscription (subscription_id, entity, claims, filters) values"
        " (gen_random_uuid(), 'message', jsonb_build_object('role', 'authenticated', 'sub', %s::text),"
        " array[('room', 'eq', '3')::realtime.user_defined_filter])",
        (MINE,),
    )
    database.execute("insert into member select sub::uuid, 2 from (select claims ->> 'sub' as sub from"
                     " realtime.subscription where entity = 'message'::regclass) s group by sub")  # fmt: skip
    running = desk.start(
        desk.settings({"kafka": {"client": {"bootstrap.servers": kafka.servers}}}, {"replay_window": "1h"})
    )
    running.wait_for(lambda: "replay window begun" in running.stderr, "the window")
    database.execute("insert into message values (17, 2, 'Foo')")
    database.execute("update message set body = 'Bar'")
    database.wait_until_confirmed()
    book = desk.book("events-missing")
    ((subscription,),) = database.execute(
        "select subscription_id::text from realtime.subscription where cardinality(filters) = 1"
    )
    book.bind("5f0a1c7e-9f3b-4f0f-9d53-2f1f6a0f3c11", subscription)

    book.bind("walrus_source", "postgres")

    book.run(until="psql")
    database.execute("update realtime.subscription set filters = '{}' where cardinality(filters) = 1")
    book.run()
    book.finished()

    assert running.stop() == 0

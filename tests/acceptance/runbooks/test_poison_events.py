"""A policy casts a claim to a number, and two subscribers' claim is none."""

from tests.acceptance.runbooks.conftest import Desk
from tests.servers.kafka import Kafka
from tests.servers.waiting import wait_until

POLICY = "create policy by_level on book to authenticated using ({} >= 1)"
AS_IT_WAS = POLICY.format("(auth.jwt() ->> 'level')::int")
MENDED = POLICY.format("case when auth.jwt() ->> 'level' ~ '^[0-9]+$' then (auth.jwt() ->> 'level')::int else 1 end")


def test_poison_events(desk: Desk, kafka: Kafka) -> None:
    database = desk.database
    database.execute("create table book (id int primary key, title text, price numeric)")
    database.execute("alter table book enable row level security; grant select on book to authenticated")
    database.execute(AS_IT_WAS)
    for level in ("1", "2", "gold", "gold"):
        database.subscribe("book", "authenticated", level=level)
    running = desk.start(desk.settings({"kafka": {"client": {"bootstrap.servers": kafka.servers}}}))
    for title in ("Foo", "Bar"):
        database.execute("insert into book values ((select count(*) + 1 from book), %s, 12.50)", (title,))
    running.wait_for(lambda: running.stderr.count("change quarantined") == 2, "two dead letters")
    database.wait_until_confirmed()
    book = desk.book("poison-events")

    book.found_in(running.stderr)
    book.run(until="retry --all")
    book.run(until="dead-letter retry")
    database.execute(f"drop policy by_level on book; {MENDED}")
    book.run()
    book.finished()

    assert running.stop() == 0
    wait_until(lambda: len(kafka.read(f"{desk.prefix}public.book")) == 3, "the event that was sent by a retry")

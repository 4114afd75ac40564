"""Who is subscribed, by what a change must be to reach them."""

from typing import Any

import pytest

from bridge.judged import Cells, Filter, Subscription
from bridge.pools import Bucket, Claims, Pool, Roster
from bridge.table import Column, JsonKind, Table
from bridge.values import PGOUTPUT_CODEC

INT4, TEXT, UUID, JSON = 23, 25, 2950, 114


def column(name: str, oid: int, **changed: Any) -> Column:
    return Column(name, 1, oid, "", oid, JsonKind.STRING, False, **changed)


TABLE = Table(
    1, "public", "note", (column("id", INT4), column("room", TEXT), column("who", UUID)), ("id",), "d", ("id",), ()
)
VISIBLE = frozenset({"id", "room", "who"})


def subscription(number: int, *filters: Filter, claims: str = "{}") -> Subscription:
    return Subscription(number, f"s{number}", 1, 1, claims, filters, "*", None)


def equal(column: str, value: str) -> Filter:
    return Filter(column, "eq", value)


class Arranged:
    def __init__(self) -> None:
        self.pool = Pool()
        self.roster = Roster(1)
        self.version = 0
        self.placed: dict[int, tuple[Bucket, Claims, Subscription]] = {}

    def add(self, *added: Subscription) -> None:
        for each in added:
            each.since = self.version
            claims = self.roster.enter(each.claims)
            self.placed[each.id] = (self.pool.add(claims, each), claims, each)

    def remove(self, number: int) -> None:
        self.version += 1
        bucket, claims, leaving = self.placed.pop(number)
        leaving.until = self.version
        bucket.touch(self.version)
        self.pool.remove(bucket, claims, leaving)

    def found(self, visible: frozenset[str] = VISIBLE, table: Table = TABLE, **row: str | None) -> set[int]:
        """The subscriptions in the buckets that may pass a row of these texts."""
        types = {each.name: each.type_oid for each in table.columns}
        cells: Cells = {
            name: (None if text is None else text.encode(), types.get(name, TEXT)) for name, text in row.items()
        }
        return {
            each.id
            for bucket in self.pool.may_pass(table, cells, visible, PGOUTPUT_CODEC)
            for each in bucket.everyone(self.version).subscriptions
        }


def test_an_equality_is_looked_up() -> None:
    arranged = Arranged()
    arranged.add(*(subscription(number, equal("id", str(number))) for number in range(1, 1001)))

    assert arranged.found(id="7", room="a") == {7}
    assert arranged.found(id="2000", room="a") == set()


def test_other_filters_are_left_to_be_tested() -> None:
    arranged = Arranged()
    arranged.add(
        subscription(1, Filter("id", "gt", "5")),
        subscription(2, Filter("id", "neq", "5")),
        subscription(3, Filter("id", "eq", "5", negate=True)),
        subscription(4, Filter("id", "not_eq", "5")),
        subscription(5, Filter("room", "eq", None)),
    )

    assert arranged.found(id="5") == {1, 2, 3, 4, 5}


def test_the_rest_of_a_list_with_an_equality_is_left_to_be_tested() -> None:
    arranged = Arranged()
    arranged.add(subscription(1, Filter("id", "gt", "5"), equal("room", "a")))

    assert arranged.found(id="1", room="a") == {1}
    assert arranged.found(id="9", room="b") == set()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("id", "05", "5"),  # equal for PostgreSQL, not as text
        ("id", " 5", "5"),
        ("who", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ],
)
def test_what_only_postgresql_can_compare_is_left_to_it(name: str, value: str, text: str) -> None:
    arranged = Arranged()
    arranged.add(subscription(1, equal(name, value)))

    assert arranged.found(**{name: text}) == {1}


def test_text_under_a_collation_that_is_not_bytewise_is_left_to_postgresql() -> None:
    loose = Table(1, "public", "note", (column("room", TEXT, deterministic=False),), (), "d", (), ())
    arranged = Arranged()
    arranged.add(subscription(1, equal("room", "A")))

    assert arranged.found(table=loose, room="a") == {1}


def test_nothing_passes_a_column_that_is_hidden_missing_or_null() -> None:
    arranged = Arranged()
    arranged.add(subscription(1, equal("id", "5")))

    assert arranged.found(visible=frozenset({"room"}), id="5") == set()
    assert arranged.found(room="a") == set()
    assert arranged.found(id=None) == set()


def test_a_value_of_another_type_than_the_column_has_now_is_left_to_postgresql() -> None:
    arranged = Arranged()
    arranged.add(subscription(1, equal("id", "5")), subscription(2, equal("id", "6")))
    cells: Cells = {"id": (b"05", TEXT)}

    found = list(arranged.pool.may_pass(TABLE, cells, VISIBLE, PGOUTPUT_CODEC))

    assert len(found) == 2


def test_the_index_follows_who_comes_and_goes() -> None:
    arranged = Arranged()
    arranged.add(subscription(1, equal("id", "5")))
    assert arranged.found(id="5") == {1}

    arranged.add(subscription(2, equal("id", "5")), subscription(3, equal("id", "6")))
    arranged.remove(1)
    assert arranged.found(id="5") == {2}
    assert arranged.found(id="6") == {3}

    arranged.remove(2)
    arranged.remove(3)
    assert not arranged.pool
    assert arranged.found(id="5") == set()


def test_another_description_of_the_table_has_an_index_of_its_own() -> None:
    arranged = Arranged()
    arranged.add(subscription(1, equal("id", "05")))
    assert arranged.found(id="5") == {1}
    changed = Table(1, "public", "note", (column("id", TEXT),), (), "d", (), ())

    assert arranged.found(table=changed, id="5") == set()
    assert arranged.found(table=changed, id="05") == {1}


def test_everyone_is_the_same_object_while_they_are_the_same() -> None:
    arranged = Arranged()
    arranged.add(subscription(1), subscription(2))
    bucket = arranged.pool.plain
    first = bucket.everyone(0)
    assert bucket.everyone(5) is first

    arranged.version = 6
    arranged.add(subscription(3))

    assert bucket.everyone(6).ids == ("s1", "s2", "s3")
    assert bucket.everyone(5).ids == ("s1", "s2")
    assert bucket.everyone(7).ids == ("s1", "s2", "s3")


def test_who_has_left_counts_for_what_came_before() -> None:
    arranged = Arranged()
    leaving = subscription(1)
    arranged.add(leaving, subscription(2))
    bucket = arranged.pool.plain
    leaving.until = 3
    bucket.touch(3)

    assert bucket.everyone(2).ids == ("s1", "s2")
    assert bucket.everyone(3).ids == ("s2",)


def test_a_roster_numbers_each_claims_value_once() -> None:
    roster = Roster(1)
    first, again, other = roster.enter("a"), roster.enter("a"), roster.enter("b")

    assert first is again
    assert [first.number, other.number] == [0, 1]
    assert [each.text for each in roster.listed] == ["a", "b"]


def test_a_roster_keeps_its_numbers_until_most_of_its_claims_are_gone() -> None:
    roster = Roster(1)
    made = [roster.enter(str(number)) for number in range(3000)]
    for each in made[:900]:
        roster.leave(each)
    roster.compact()
    assert roster.generation == 0

    for each in made[900:2900]:
        roster.leave(each)
    roster.compact()

    assert roster.generation == 1
    assert [each.text for each in roster.listed] == [str(number) for number in range(2900, 3000)]
    assert [each.number for each in roster.listed] == list(range(100))
    assert roster.enter("0").number == 100

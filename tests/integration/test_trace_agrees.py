"""`walrus-bridge trace` says what the bridge does: its verdicts are compared with the audiences of the events that the
stages make of the same changes, and its reasons with the verdicts.

Mutations that were tried, each of which makes it fail: DELETEs tested by the new row; restrictive policies asked for as they
are, without a permissive one; NULL told as true; answers turned round; the claims of another subscription.
"""

import json
import random

import pytest

from bridge.change import Change
from bridge.session import SourceSettings
from bridge.trace_facts import Detail
from bridge.trace_judge import trace_judge
from tests.integration.judging import stages
from tests.integration.test_visibility_property import ROLES, SUBJECTS, UPDATED, arrange, inserted, roles
from tests.servers.postgres import Database
from tests.streams import Streams

__all__ = ["roles"]
pytestmark = pytest.mark.versions

SEEDS = 14
FILTERS = [
    "room,eq,1",
    "level,gte,2",
    "hidden,is,false",
    "body,eq,secret",
    "owner,neq,10000000-0000-0000-0000-000000000000",
]


def subscribe(database: Database, dice: random.Random) -> list[str]:
    made = []
    for role in [*ROLES, "ghost"]:
        for subject in dice.sample([*SUBJECTS, None], 2):
            claims = {"role": role} | ({"sub": subject} if subject else {})
            chosen = [each.split(",") for each in dice.sample(FILTERS, dice.choice([0, 0, 1, 2]))]
            filters = ", ".join(f"('{column}', '{op}', '{value}')" for column, op, value in chosen)
            # The interface refuses what the role may not filter by; the bridge has to do with what is there nevertheless.
            rows = database.execute(
                "insert into realtime.subscription (subscription_id, entity, claims, action_filter, filters)"
                f" values (gen_random_uuid(), 'app.docs', %s, %s, array[{filters}]::realtime.user_defined_filter[])"
                " returning subscription_id::text",
                (json.dumps(claims), dice.choice(["*", "*", "INSERT", "UPDATE", "DELETE"])),
            )
            made.append(rows[0][0])
    return made


def reasons_agree(detail: Detail, *, needy: bool) -> bool:
    """Whether filters and policies, as far as they are known, come to the outcome."""
    filters = [each.passes for each in detail.filters]
    if detail.outcome == "filter":
        return False in filters
    if not all(filters):
        return False
    row = detail.row_security or ""
    if not row.startswith("applies") or "nothing is shown" in row:
        return (detail.outcome == "policy") == ("nothing is shown" in row)
    answers = {each.answer for each in detail.policies}
    permissive = {each.answer for each in detail.policies if each.permissive}
    restrictive = {each.answer for each in detail.policies if not each.permissive}
    passes = "true" in permissive and restrictive <= {"true"}
    if row.endswith("the recorded row is judged"):
        return "unknown" not in answers and passes == (detail.outcome == "gets") and (passes or bool(detail.why))
    # The row as it is now has a say in it
    return needy and (detail.outcome == "policy" or not restrictive & {"false", "null"})


@pytest.mark.parametrize("plugin", ["wal2json", "pgoutput"])
def test_it_says_what_the_bridge_does(database: Database, plugin: str, roles: None) -> None:
    told: dict[str, int] = {}
    with Streams(database, [plugin]) as streams:
        for seed in range(SEEDS):
            dice = random.Random(f"trace {plugin} {seed}")
            needy, _ = arrange(database, dice)
            database.execute(
                "alter table realtime.subscription disable trigger user; delete from realtime.subscription"
            )
            who = subscribe(database, dice)
            streams.take(plugin)
            with database.connection.cursor() as cursor:
                cursor.executemany("insert into app.docs values (%s, %s, %s, %s, %s, %s)", inserted(dice))
                cursor.executemany(
                    "update app.docs set owner = %s, room = %s, level = %s, hidden = %s where id = %s",
                    [(*row[1:5], row[0]) for row in inserted(dice) if row[0] in UPDATED],
                )
                cursor.execute("delete from app.docs where id > 5")
            messages = streams.take(plugin)
            settings = SourceSettings(connection=database.dsn, slot=database.slot, plugin=plugin)
            with stages(database, plugin) as wired, trace_judge(settings) as (judge, source):
                got: dict[tuple[str, str], str] = {}
                for event in wired.events(messages):
                    value = json.loads(event.value)
                    place = event.order
                    for each in value.get("subscription_ids", ()):
                        got[place, each] = value["errors"][0].split()[1].rstrip(":") if value["errors"] else "gets"
                    for undecided in value.get("dead_letter", {}).get("undecided", ()):
                        got[place, undecided["subscription_id"]] = "undecided"
                oid = source.execute("select 'app.docs'::regclass::oid").fetchone()
                assert oid is not None
                changes = [each for each in messages if isinstance(each, Change) and each.table == "docs"]
                for change in dice.sample(changes, 6):
                    place = f"{change.transaction.commit_lsn:016X}/{change.lsn:016X}/{change.seq:08X}"
                    whole = judge.explain(change, oid[0], None)
                    assert whole is not None
                    assert sum(each.subscriptions for each in whole.reasons) == len(who)
                    for each in dice.sample(who, 6):
                        answer = judge.explain(change, oid[0], each)
                        assert answer is not None
                        (detail,) = answer.details
                        expected = got.get((place, each))
                        where = f"seed {seed}, {plugin}, {change.kind}, expected {expected}, {detail}"
                        assert (
                            detail.outcome if detail.outcome in {"gets", "401", "400", "undecided"} else None
                        ) == expected, where
                        if detail.outcome in {"gets", "filter", "policy"}:
                            assert reasons_agree(detail, needy=needy), where
                        told[detail.outcome] = told.get(detail.outcome, 0) + 1
    # It has had something to say of each
    assert set(told) >= {"gets", "filter", "policy", "401", "action", "no_role"}, told
    assert min(told["gets"], told["filter"], told["policy"]) > 20, told

"""Which messages belong to a stretch of the stream."""

from bridge.change import INSERT, Begin, Change, Commit, LogicalMessage, Message, Transaction
from bridge.past import Stretch


def transaction(commit_lsn: int, changes: int = 1) -> list[Message]:
    begun = Transaction(7, commit_lsn, "2026-11-24T12:00:00.000000Z")
    # A change's own LSN may be anywhere before its commit.
    rows = [Change(INSERT, "public", "t", None, at, 0, begun, None, None, None, 10) for at in range(1, changes + 1)]
    return [Begin(begun), *rows, Commit(commit_lsn + 8)]


def lsns(messages: list[Message]) -> list[int]:
    return [each.transaction.commit_lsn for each in messages if isinstance(each, Begin)]


def test_both_ends_are_included() -> None:
    stretch = Stretch(200, 300)
    taken = stretch.take([each for lsn in (100, 200, 250, 300, 301) for each in transaction(lsn)])
    assert lsns(taken) == [200, 250, 300]
    assert taken == [each for lsn in (200, 250, 300) for each in transaction(lsn)]
    assert stretch.is_done


def test_it_is_done_with_the_transaction_that_ends_past_it() -> None:
    stretch = Stretch(200, 300)
    *open_one, commit = transaction(300)
    stretch.take([*transaction(290), *open_one])
    assert not stretch.is_done
    assert stretch.take([commit]) == [commit]
    assert stretch.is_done


def test_in_a_large_transaction_it_has_come_as_far_as_its_changes() -> None:
    stretch = Stretch(2, 300)
    stretch.take(transaction(300, 200)[:151])
    assert stretch.position == 150


def test_it_is_not_done_before_something_later_has_come() -> None:
    stretch = Stretch(200, 300)
    assert lsns(stretch.take(transaction(290))) == [290]
    assert not stretch.is_done
    stretch.reached(300)
    assert not stretch.is_done
    stretch.reached(301)
    assert stretch.is_done


def test_a_transaction_may_be_cut_anywhere_by_the_batches() -> None:
    whole = [each for lsn in (100, 200, 300) for each in transaction(lsn, 3)]
    for cut in range(len(whole)):
        stretch = Stretch(200, 299)
        assert lsns(stretch.take(whole[:cut]) + stretch.take(whole[cut:])) == [200]


def test_other_programs_messages_are_left_out() -> None:
    stretch = Stretch(0, 300)
    assert stretch.take([LogicalMessage("app", b"", transactional=False)]) == []

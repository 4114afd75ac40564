"""Pauses between attempts."""

from bridge.backoff import FIRST_SECONDS, LONGEST_SECONDS, Backoff


def test_pauses_grow_with_jitter_and_are_bounded_however_long_it_takes() -> None:
    backoff = Backoff()
    pauses = [backoff.pause_seconds() for _ in range(3000)]  # a day of half minutes

    assert backoff.attempt == 3000
    assert FIRST_SECONDS / 2 <= pauses[0] <= FIRST_SECONDS
    for attempt, pause in enumerate(pauses[:10]):
        bound = min(FIRST_SECONDS * 2**attempt, LONGEST_SECONDS)
        assert bound / 2 <= pause <= bound
    assert all(LONGEST_SECONDS / 2 <= pause <= LONGEST_SECONDS for pause in pauses[10:])
    assert len(set(pauses[10:])) > 2000


def test_a_success_begins_anew() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.pause_seconds()
    backoff.reset()
    assert backoff.pause_seconds() <= FIRST_SECONDS

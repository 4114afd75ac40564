"""Whether a snapshot contains a transaction of which the stream gives 32 bits."""

import pytest

from bridge.snapshot import Snapshot

EPOCH = 1 << 32


@pytest.mark.parametrize(
    ("text", "xid", "contained"),
    [
        ("100:100:", 99, True),
        ("100:100:", 100, False),
        ("100:105:101,103", 99, True),
        ("100:105:101,103", 101, False),
        ("100:105:101,103", 102, True),
        ("100:105:101,103", 104, True),
        ("100:105:101,103", 105, False),
        ("100:105:101,103", 200, False),
        # One epoch on, the stream's 32 bits are those of the snapshot's epoch.
        (f"{EPOCH + 100}:{EPOCH + 105}:{EPOCH + 101}", 102, True),
        (f"{EPOCH + 100}:{EPOCH + 105}:{EPOCH + 101}", 101, False),
        (f"{EPOCH + 100}:{EPOCH + 105}:{EPOCH + 101}", 106, False),
        # A transaction of the epoch before, just after the wrap.
        (f"{EPOCH + 3}:{EPOCH + 3}:", EPOCH - 1, True),
        # One of the next epoch, which this snapshot cannot know.
        (f"{EPOCH - 2}:{EPOCH - 2}:", 3, False),
    ],
)
def test_a_transaction_is_contained_when_it_had_ended(text: str, xid: int, contained: bool) -> None:
    assert Snapshot.parse(text).contains(xid) is contained


@pytest.mark.parametrize(
    ("xmax", "xid", "than", "later"),
    [
        (200, 150, 100, True),
        (200, 100, 150, False),
        (200, 100, 100, False),
        (EPOCH + 5, 2, EPOCH - 3, True),
        (EPOCH + 5, EPOCH - 3, 2, False),
        # Of long ago, though its number seems one to come.
        (EPOCH + 200, 201, 100, False),
        (EPOCH + 200, 3_000_000_000, 100, False),
    ],
)
def test_which_transaction_is_later(xmax: int, xid: int, than: int, later: bool) -> None:
    assert Snapshot(xmax, xmax, frozenset()).has_later(xid, than) is later

"""LSNs as text, and which timeline wrote which."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.lsn import Identity, format_lsn, parse_history, parse_lsn


@given(st.integers(0, 2**64 - 1))
def test_text_and_number_go_both_ways(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


def test_text_is_as_postgresql_writes_it() -> None:
    assert format_lsn(0x15E4E50) == "0/15E4E50"
    assert format_lsn((0x16 << 32) | 0xB374D848) == "16/B374D848"


@pytest.mark.parametrize("text", ["", "0", "0/", "/1", "0/15E4E50 ", "g/1", "0/123456789", "-1/1", "0/1/2"])
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        parse_lsn(text)


def test_each_lsn_belongs_to_the_timeline_that_wrote_it() -> None:
    history = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-01-01\n"
    identity = Identity("7", 3, parse_history(history))
    assert [identity.timeline_of(lsn) for lsn in (0x2FFFFFF, 0x3000000, 0x4FFFFFF, 0x5000000)] == [1, 2, 2, 3]

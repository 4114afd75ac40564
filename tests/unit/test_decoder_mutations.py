"""Mutated bytes: what they say, or a clear error. Never another event, another exception or a lot of memory."""

import random
import tracemalloc

import pytest

from bridge.pgoutput import PgOutputDecoder
from bridge.wal2json import Wal2JsonDecoder
from tests.decoding import Stream, check_mutations
from tests.unit.test_decoders import PGOUTPUT, STREAMS


@pytest.mark.parametrize(("kind", "stream"), STREAMS)
def test_mutated_bytes_give_what_they_say_or_a_clear_error(
    kind: type[Wal2JsonDecoder | PgOutputDecoder], stream: Stream
) -> None:
    seed = random.randrange(2**32)
    refused, valid = check_mutations(kind, stream, seed, count=300)
    # Both happen, or nothing has been tried.
    assert refused > 100, f"seed {seed}"
    assert valid > 20, f"seed {seed}"


def test_a_length_that_a_message_only_claims_takes_no_memory() -> None:
    seed = random.randrange(2**32)
    tracemalloc.start()
    try:
        check_mutations(PgOutputDecoder, PGOUTPUT, seed, count=30)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000, f"seed {seed}"

"""Everything dies while random transactions run, and nothing is lost; where a bridge loses something, it is found."""

import os
from collections.abc import Callable

import pytest

from tests.torture.broken import VARIANTS
from tests.torture.run import Torture, torture

SECONDS = 40


@pytest.mark.parametrize("target", ["kafka", "rabbitmq", "exactly-once"])
def test_nothing_is_lost_whatever_dies(target: str, tell: Callable[[str], None]) -> None:
    seed = int.from_bytes(os.urandom(3))
    lines: list[str] = []
    clean = torture(target, SECONDS, seed, lines.append)
    for line in lines:  # the counts, and the seed of a failing run
        tell(line)
    assert clean, "\n".join(lines)


# Its fault shows only where the broker stalls between two acknowledgements of one transaction.
ROUNDS = {"confirm_inside_a_transaction": 4}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_bridge_that_is_broken_is_found(variant: str) -> None:
    # Room for all that comes in a stall, so that what follows it is read.
    broken = Torture("kafka", 1, ("-m", "tests.torture.broken", variant), in_flight="64MiB", with_consumers=False)
    try:
        broken.start()
        for _ in range(ROUNDS.get(variant, 2)):
            broken.wait_until_it_moves()
            broken.stall_and_kill_bridge()
            broken.wait_until_it_moves()
            broken.stall_and_kill_bridge_when_quiet()
        report = broken.verdict()
    finally:
        broken.close()
    assert report.lost
    assert not report.phantom

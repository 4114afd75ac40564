"""`make torture TARGET=kafka SECONDS=600 SEED=7`."""

import sys

from tests.torture.run import torture


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


name, seconds, seed = sys.argv[1:4]
sys.exit(0 if torture(name, float(seconds), int(seed), say) else 1)

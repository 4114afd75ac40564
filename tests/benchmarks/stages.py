"""Where a change's time goes inside the bridge: its stages' CPU time, in this process and without servers."""

import gc
import time
from collections.abc import Callable
from typing import Any

from tests.unit.hot_path import Loop, sink
from tests.unit.hot_path_stream import stream

CHANGES = 4_000
TIMES = 15
"""The least of so many is taken: what else the machine does only adds."""


def run(_world: object = None) -> list[dict[str, Any]]:
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)  # as pipeline.run
    try:
        return [_cell(plugin, size) for plugin in ("wal2json", "pgoutput") for size in (1, 1_000)]
    finally:
        gc.set_threshold(*thresholds)


def _cell(plugin: str, size: int) -> dict[str, Any]:
    data = stream(plugin, CHANGES, size)
    with sink("stdout") as into:
        loop = Loop(plugin, into, [data])
        session = loop._session
        decode = _least(lambda: session.decode(data))
        messages = session.decode(data)
        judge = _least(lambda: session.judging._judge(messages))
        write = _least(lambda: list(session.judging.process(messages))) - judge
        loop.close()
    cell = {"plugin": plugin, "rows_per_transaction": size, "decode": decode, "judge": judge, "write": write}
    for name in ("stdout", "kafka"):

        def whole(name: str = name) -> None:
            with sink(name) as into:
                loop = Loop(plugin, into, [data])
                loop.run()
                loop.close()

        cell[name] = _least(whole)
    return cell


def _least(work: Callable[[], object]) -> float:
    """Microseconds of CPU time for a change."""
    taken = []
    for _ in range(TIMES):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return min(taken) * 1e6 / CHANGES

"""`make bench ONLY=throughput ROWS=50000 MODE=full OUT=bench.json`."""

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from bridge import log
from tests.benchmarks import latency, machine, report, rls, stages, startup, throughput
from tests.benchmarks.plan import FULL, QUICK
from tests.benchmarks.world import World

SECTIONS = {
    "throughput": throughput.run,
    "stages": stages.run,
    "rls": rls.run,
    "latency": latency.run,
    "startup": startup.run,
}


def main() -> int:
    asked = {name: os.environ.get(name) or default for name, default in (("MODE", "quick"), ("OUT", "bench.json"))}
    only = [name for name in os.environ.get("ONLY", "").split(",") if name] or list(SECTIONS)
    plans = {plan.name: plan for plan in (QUICK, FULL)}
    if asked["MODE"] not in plans or not set(only) <= set(SECTIONS):
        sys.stderr.write(f"MODE is one of {', '.join(plans)}; ONLY one or more of {', '.join(SECTIONS)}\n")
        return 2
    plan = plans[asked["MODE"]]
    if rows := os.environ.get("ROWS"):
        plan = msgspec.structs.replace(plan, rows=int(rows))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log.configure("warning")
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # it tells of each attempt while a broker starts
    results: dict[str, Any] = {
        "measured_at": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine.describe() | {"load before": str(machine.load())},
        "plan": msgspec.to_builtins(plan),
    }
    with World(plan) as world:
        results["machine"] = {"PostgreSQL": world.postgresql(), **results["machine"]}
        for name in only:
            results[name] = SECTIONS[name](world)
            # After each section, so that what has been measured is there whatever comes.
            Path(asked["OUT"]).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        world.say("done")
    sys.stdout.write(report.table(results))
    return 0


sys.exit(main())

"""What the numbers were measured on. No host names, no paths."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from tests.servers.kafka import JARS
from tests.servers.rabbitmq import BINARIES


def describe() -> dict[str, str]:
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"))
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "CPU": model[1].strip() if model else platform.machine(),
        "memory": f"{int(memory[1]) / (1 << 20):.0f} GiB" if memory else "unknown",
        "kernel": platform.release().split("-")[0],
        "Python": platform.python_version(),
        "Kafka": _kafka(),
        "RabbitMQ": _rabbitmq(),
        **{name: metadata.version(name) for name in ("psycopg", "msgspec", "confluent-kafka", "pika")},
    }


def load() -> float:
    """Of the last minute, before anything of ours runs: what else the machine was busy with."""
    return round(os.getloadavg()[0], 2)


def _kafka() -> str:
    found = [re.fullmatch(r"kafka_[\d.]+-([\d.]+)\.jar", path.name) for path in JARS.glob("kafka_*.jar")]
    return next((each[1] for each in found if each), "not installed")


def _rabbitmq() -> str:
    plugins = BINARIES.parent / "plugins"
    found = [re.fullmatch(r"rabbit-([\d.]+)(?:\.ez)?", path.name) for path in plugins.glob("rabbit-*")]
    if any(found):
        return next(each[1] for each in found if each)
    done = subprocess.run(
        ["dpkg-query", "-W", "-f=${Version}", "rabbitmq-server"], capture_output=True, text=True, check=False
    )
    return done.stdout.split("-")[0] or "unknown"

"""From the configuration to what the stages take: plain settings, and the sink."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from bridge.config import Config
from bridge.errors import ConfigError
from bridge.sinks import make_sink
from bridge.sinks.base import Sink

if TYPE_CHECKING:
    from bridge.opening import Settings
    from bridge.replay_window import WindowSettings

_LIMIT_BYTES: Final = 20 << 30
"""Of WAL that a window of hours or days may hold, unless the config says otherwise."""


def sink_of(config: Config, file: Path | None, *, apart: bool = False) -> Sink:
    """The sink, which knows what its settings may be. Connects to nothing yet. `apart`: sinks.make_sink."""
    try:
        return make_sink(config, apart=apart)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def settings_of(config: Config, *, wait: bool = False, accept_gap: bool = False) -> "Settings":
    """The config's values, plain, for the pipeline. Whether it is to see to a second slot: add `window_of`."""
    from bridge.opening import Settings
    from bridge.pace import parse_table
    from bridge.source_settings import source_settings

    return Settings(
        **msgspec.structs.asdict(source_settings(config)),
        heartbeat_seconds=config.source.heartbeat,
        in_flight_bytes=config.limits.in_flight,
        events_per_second=config.limits.events_per_second,
        events_per_table={parse_table(table): rate for table, rate in config.limits.per_table.items()},
        wait=wait,
        accept_gap=accept_gap,
    )


def window_of(config: Config) -> "WindowSettings":
    """What becomes of the second slot."""
    from bridge.replay_window import WindowSettings

    source = config.source
    window = source.replay_window
    size = None if window is None else window.bytes
    return WindowSettings(
        connection=source.connection,
        slot=source.slot,
        plugin=source.plugin,
        seconds=None if window is None else window.seconds,
        bytes=size,
        limit_bytes=source.replay_limit or (2 * size + (1 << 30) if size else _LIMIT_BYTES),
    )

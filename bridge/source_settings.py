"""The config's values, plain, for what reads the stream or judges beside the running bridge."""

from bridge.config import Config
from bridge.session import SourceSettings


def source_settings(config: Config) -> SourceSettings:
    source = config.source
    return SourceSettings(
        connection=source.connection,
        slot=source.slot,
        plugin=source.plugin,
        publication=source.publication,
        include=source.tables.include,
        exclude=source.tables.exclude,
        judge=config.rls.judge,
        judging_connection=config.rls.connection,
        max_record_bytes=config.events.max_record_bytes,
        on_failure=config.on_failure,
        leave=config.events.leave,
    )

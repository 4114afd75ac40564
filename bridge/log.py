"""Logs to stderr, for people or as JSON; the libraries' own logs go the same way.

Log lines tell positions, tables and reasons, never row contents.
"""

import logging
import sys
from typing import Any, Final

import structlog

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# Of what pika tells, what matters is told by the sinks: seven lines of errors for a port where nobody listens are one line of
# theirs. psycopg's warnings are of errors that follow the one that it raises.
_NOISY: Final = {"pika": logging.CRITICAL, "psycopg": logging.ERROR}

_format = "console"


def configure(level: str = "info", format: str = "console") -> None:
    """Set up structlog and the standard library's logging. `level` and `format` are those of the config's `log`."""
    global _format
    _format = format
    threshold = _LEVELS[level]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(format)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name, least in _NOISY.items():
        logging.getLogger(name).setLevel(max(threshold, least))


def failed(program: str, message: str, status: int) -> None:
    """The one message with which the program ends: plain for people, a log line where logs are JSON."""
    if _format == "json":
        structlog.get_logger().error(message, program=program, exit=status)
    else:
        sys.stderr.write(f"{program}: {message}\n")


def _renderers(format: str) -> list[Any]:
    if format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)]

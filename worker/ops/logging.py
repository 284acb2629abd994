"""Logs: readable on a terminal, JSON lines otherwise, on standard error, and safe by default.

No credentials and no message bodies get through, whoever logs them: telling names are masked and credentials are
cut out of every URL, in events, values and tracebacks alike.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from worker.ops.structured import structlog  # isort: skip - before whatever else loads it

from worker.ops.background import BackgroundHandler
from worker.ops.console import ConsoleLine
from worker.ops.printable import printable
from worker.ops.repetition import limit_repetition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import EventDict, Processor, WrappedLogger

MASK: Final = "***"
_REPETITION_SECONDS: Final = 60
_MAX_KINDS: Final = 1000
_SECRET_NAMES: Final = (
    *("body", "payload", "content", "password", "passwd", "secret", "token", "authorization", "credentials"),
    *("url", "uri", "input"),
)
_CREDENTIALS: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s@'\"]+@")


def configure_logging(log_format: str, log_level: str, *, in_background: bool = False) -> None:
    """Set up structlog and the standard library's logging for this process. May be called again.

    Args:
        log_format: "console", "json", or "auto" for console on a terminal and JSON otherwise.
        log_level: "debug", "info", "warning" or "error"; what is below is dropped.
        in_background: write in a thread of its own, and drop lines rather than wait for whoever reads them.
    """
    level = logging.getLevelNamesMapping()[log_level.upper()]
    is_console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[limit_repetition(), *_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = BackgroundHandler(sys.stderr) if in_background else logging.StreamHandler(sys.stderr)
    _redirect_standard_logging(handler, level, _last(is_console=is_console))


def mask_secrets(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Mask values with telling names and cut credentials out of all text. A structlog processor."""
    return {key: MASK if _is_secret(key) else _clean(value) for key, value in event_dict.items()}


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_process_id,
    ]


def _last(*, is_console: bool) -> Sequence[Processor]:
    # Tracebacks become text before masking, because exception texts can repeat addresses.
    renderer: Processor = structlog.processors.JSONRenderer(default=repr)
    if is_console:
        renderer = ConsoleLine(coloured=_is_coloured())
    return (
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        mask_secrets,
        _put_first_things_first,
        *((_make_printable,) if is_console else ()),  # JSON escapes by itself
        renderer,
    )


def _is_coloured() -> bool:
    """Tell whether standard error is a terminal that shows colours and whose user wants them (no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _redirect_standard_logging(handler: logging.Handler, level: int, last: Sequence[Processor]) -> None:
    formatter = structlog.stdlib.ProcessorFormatter(processors=last, foreign_pre_chain=_shared())
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # pika tells the end of every connection as an error with traceback; the adapter reports it once, in our words.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    for library in ("pymongo", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("asyncio").filters[:] = [_RepetitionFilter()]


class _RepetitionFilter(logging.Filter):
    """Lets the same complaint through once a minute: asyncio repeats some, a thousand times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._passed_at: dict[tuple[str, object], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass the first of a kind, which is its first line and the type of its exception."""
        kind = (str(record.msg).partition("\n")[0], record.exc_info[0] if record.exc_info else None)
        if record.created - self._passed_at.get(kind, 0) < _REPETITION_SECONDS:
            return False
        if len(self._passed_at) > _MAX_KINDS:
            self._passed_at.clear()
        self._passed_at[kind] = record.created
        return True


def _add_process_id(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    event_dict["pid"] = os.getpid()
    return event_dict


def _make_printable(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Replace terminal codes in what a person reads: ids come from strangers. Line ends stay in tracebacks alone."""
    return {key: _printable(value, keep_lines=key == "exception") for key, value in event_dict.items()}


def _printable(value: Any, *, keep_lines: bool) -> Any:
    if not isinstance(value, str):
        return value if isinstance(value, int | float | None) else printable(str(value))
    return "\n".join(map(printable, value.split("\n"))) if keep_lines else printable(value)


def _put_first_things_first(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    first = {key: event_dict.pop(key) for key in ("timestamp", "level", "event") if key in event_dict}
    return {**first, **event_dict}


@lru_cache(maxsize=512)
def _is_secret(key: str) -> bool:
    lower = key.lower()
    return any(lower == name or lower.endswith("_" + name) for name in _SECRET_NAMES)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value if "://" not in value else _CREDENTIALS.sub(rf"\1{MASK}@", value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {key: MASK if _is_secret(str(key)) else _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    return value

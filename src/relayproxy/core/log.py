"""The log: one line an event, JSON for machines or words for people, control characters escaped.

One summary event per message tells its whole story. Must not know where lines go (a callable takes them) nor what
time it is (a clock tells).
"""

import hashlib
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

Privacy = Literal["full", "mask", "hash"]

_ADDRESSES = frozenset({"from", "to", "login"})
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_JOURNAL = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}


def _encoded(fields: dict[str, Any]) -> str:
    try:
        return orjson.dumps(fields, default=str).decode()
    except TypeError:
        # A lone surrogate, or a number that JSON of 64 bits can't hold: the standard library writes those.
        return json.dumps(fields, default=str)


class Log:
    """Writes events. `style` is "json" or "human"; `journal` puts systemd's level prefix in front."""

    def __init__(
        self,
        write: Callable[[str], None],
        now: Callable[[], float],
        *,
        style: str = "json",
        privacy: Privacy = "full",
        level: str = "info",
        journal: bool = False,
    ) -> None:
        self._write = write
        self._now = now
        self._human = style == "human"
        self._privacy = privacy
        self._level = _LEVELS[level]
        self._journal = journal
        self._second = -1
        self._stamp = ""

    def debug(self, event: str, **fields: Any) -> None:
        """Write a line for whoever looks closely."""
        if self._level <= _LEVELS["debug"]:
            self._emit("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Write a line about the ordinary course of things."""
        if self._level <= _LEVELS["info"]:
            self._emit("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Write a line that an admin should read some time."""
        self._emit("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Write a line that an admin should read now."""
        self._emit("error", event, fields)

    def _emit(self, level: str, event: str, fields: dict[str, Any]) -> None:
        self.event({"time": "", "level": level, "event": event, **fields})

    def event(self, fields: dict[str, Any]) -> None:
        """Write an event that is made already: `time` (filled in here), `level` and `event` come first in it."""
        level = fields["level"]
        if _LEVELS[level] < self._level:
            return
        if self._privacy != "full":
            fields = {key: self._hide(value) if key in _ADDRESSES else value for key, value in fields.items()}
        now = self._now()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        fields["time"] = f"{self._stamp}.{int((now - second) * 1000):03}Z"
        line = _worded(fields) if self._human else _encoded(fields)
        self._write(f"{_JOURNAL[level]}{line}\n" if self._journal else f"{line}\n")

    def _hide(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._hide(item) for item in value]
        local, at, domain = str(value).rpartition("@")
        if not at:
            local, domain = str(value), ""
        if not local:
            return value
        if self._privacy == "hash":
            local = hashlib.sha256(local.encode("utf-8", "replace")).hexdigest()[:12]
        else:
            local = local[:1] + "***"
        return local + at + domain


def _worded(fields: dict[str, Any]) -> str:
    lead = f"{fields['time']} {fields['level']:<7} {fields['event']}"
    return lead + "".join(
        f"  {key}={_plain(value)}"
        for key, value in fields.items()
        if key not in ("time", "level", "event") and value not in ("", None, [], {})
    )


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, (list, tuple)):
        return ",".join(_plain(item) for item in value)
    if isinstance(value, dict):
        return ",".join(f"{key}:{_plain(item)}" for key, item in value.items())
    text = str(value)
    if not text.isprintable():
        text = text.encode("unicode_escape").decode("ascii")
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text else text


class Bridge(logging.Handler):
    """Carries the records of the standard logging module (plugins, libraries) into the log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; a traceback becomes a field."""
        fields: dict[str, Any] = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        write = {10: self._log.debug, 20: self._log.info, 30: self._log.warning}.get(
            record.levelno // 10 * 10, self._log.error
        )
        write("log", **fields)

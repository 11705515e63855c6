"""What the environment says about the handler and the process.

Takes: environment variables. Gives: `Settings`, or one `SettingsError` that lists every mistake at once.
Blocks on: nothing. On failure: `SettingsError`.
"""

from __future__ import annotations

import re
from typing import Callable, List, Mapping, NamedTuple, Optional

DEFAULT_SOCKET_DIR = "/var/run/asya"
SOCKET_NAME = "asya-sidecar.sock"

_LENGTH_OF_TIME = re.compile(r"([\d.]+)(h|ms|m|s|us|\u00b5s|\u03bcs|ns)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ns": 1e-9}


class SettingsError(ValueError):
    """The environment cannot be understood; the message has one mistake a line."""


class Settings(NamedTuple):
    """Settings of the supervisor and of its workers."""

    handler: str
    actor: str
    socket: str
    concurrency: Optional[int]
    """Calls at once in one worker; None = the handler's own attribute, else 1."""
    batch_size: Optional[int]
    """Payloads in one call; None = the handler's own attribute, else 0 (no list)."""
    grace_seconds: float
    """How long after SIGTERM the process will be killed."""
    json: str
    """Which JSON library: auto (orjson when it is there), orjson or stdlib."""


def seconds(text: str) -> float:
    """A length of time as the sidecar reads it too: `1h30m`, `250ms`, or a bare number of seconds."""
    parts = _LENGTH_OF_TIME.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    return float(text)


def read(environ: Mapping[str, str]) -> Settings:
    """Read all settings; raise one error for all mistakes."""
    mistakes: List[str] = []

    def number(name: str, convert: Callable[[str], float], least: float) -> Optional[float]:
        text = environ.get(name, "").strip()
        if not text:
            return None
        try:
            value = convert(text)
        except ValueError:
            value = least - 1
        if not value >= least:
            kind = "a whole number" if convert is int else "a length of time such as 30s, or a number of seconds,"
            mistakes.append(f"{name} must be {kind} of at least {least}, not {text!r}")
            return None
        return value

    concurrency = number("ASYA_CONCURRENCY", int, 1)
    batch_size = number("ASYA_BATCH_SIZE", int, 0)
    grace = number("ASYA_GRACE_PERIOD", seconds, 0)
    library = environ.get("ASYA_JSON", "").strip() or "auto"
    if library not in ("auto", "orjson", "stdlib"):
        mistakes.append(f"ASYA_JSON must be auto, orjson or stdlib, not {library!r}")
    mode = environ.get("ASYA_HANDLER_MODE", "").strip() or "payload"
    if mode != "payload":
        mistakes.append(
            f"ASYA_HANDLER_MODE={mode} is not supported: a handler takes the payload; "
            "to read or change the route and headers, yield the commands GET, SET and DEL"
        )
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    folder = environ.get("ASYA_SOCKET_DIR", "").strip() or DEFAULT_SOCKET_DIR
    return Settings(
        handler=environ.get("ASYA_HANDLER", "").strip(),
        actor=environ.get("ASYA_ACTOR_NAME", "").strip() or "actor",
        socket=f"{folder.rstrip('/')}/{SOCKET_NAME}",
        concurrency=None if concurrency is None else int(concurrency),
        batch_size=None if batch_size is None else int(batch_size),
        grace_seconds=30.0 if grace is None else grace,
        json=library,
    )

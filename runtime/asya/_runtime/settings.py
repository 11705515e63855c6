"""What the environment says about the handler and the process.

Takes: environment variables. Gives: `Settings`, or one `SettingsError` that lists every mistake at once.
Blocks on: nothing. On failure: `SettingsError`.
"""

from __future__ import annotations

from typing import Callable, List, Mapping, NamedTuple, Optional

DEFAULT_SOCKET_DIR = "/var/run/asya"
SOCKET_NAME = "asya-sidecar.sock"


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
            kind = "whole number" if convert is int else "number"
            mistakes.append(f"{name} must be a {kind} of at least {least}, not {text!r}")
            return None
        return value

    concurrency = number("ASYA_CONCURRENCY", int, 1)
    batch_size = number("ASYA_BATCH_SIZE", int, 0)
    grace = number("ASYA_GRACE_PERIOD", float, 0)
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

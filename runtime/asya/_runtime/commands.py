"""The commands that a generator may yield: GET, SET, DEL and FLY.

Takes: the context of a message and what the generator yielded. Gives: what the `yield` evaluates to; the meta of the
frames that follow. Blocks on: nothing. On failure: `ProtocolError` for what is no command, `PermissionError`,
`KeyError`, `IndexError`, `TypeError` or `ValueError` for a path that cannot be followed; each fails the message.
"""

from __future__ import annotations

import copy
import re
from typing import Any, Callable, Dict, List, Tuple, Union

from .codec import dumps_meta
from .failures import ProtocolError

Step = Union[str, int, slice]

_STEP = re.compile(
    r"""
      \.(?P<name>[^.\[\]"']+)
    | \[(?P<quote>["'])(?P<key>.*?)(?P=quote)\]
    | \[(?P<index>-?\d+)\]
    | \[(?P<start>-?\d+)?:(?P<stop>-?\d+)?\]
    """,
    re.VERBOSE,
)

_READABLE = ("id", "parent_id", "route", "headers", "status")


def parse_path(path: object) -> List[Step]:
    """The steps of `.a.b`, `["k.with.dots"]`, `[i]`, `[a:b]`."""
    if not isinstance(path, str) or not path.startswith("."):
        raise ValueError(f"path {path!r} must be a string that starts with a dot, such as .route.next")
    steps: List[Step] = []
    at = 0
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None:
            raise ValueError(f"path {path!r} is not understood from {path[at:]!r} on")
        at = found.end()
        name, key, index, start, stop = found.group("name", "key", "index", "start", "stop")
        if name is not None:
            steps.append(name)
        elif found.group("quote") is not None:
            steps.append(key)
        elif index is not None:
            steps.append(int(index))
        else:
            steps.append(slice(int(start) if start else None, int(stop) if stop else None))
    return steps


class Commands:
    """One message as the commands see it. Values are copied on their way in and out."""

    __slots__ = ("_message", "_changed")

    def __init__(self, message: Dict[str, Any]) -> None:
        message.setdefault("headers", {})
        message.setdefault("parent_id", None)
        message.setdefault("status", None)
        self._message = message
        self._changed: Dict[str, bool] = {}

    def run(self, command: Tuple[Any, ...], flown: Callable[[Any], None]) -> Any:
        """Carry out one command."""
        verb, *arguments = command
        wanted = {"GET": 1, "SET": 2, "DEL": 1, "FLY": 1}.get(verb) if isinstance(verb, str) else None
        if wanted is None:
            raise ProtocolError(f"ABI protocol error: {verb!r} is not one of GET, SET, DEL, FLY")
        if len(arguments) != wanted:
            raise ProtocolError(f"ABI protocol error: {verb} takes {wanted} argument(s), not {len(arguments)}")
        if verb == "FLY":
            return flown(arguments[0])
        steps = parse_path(arguments[0])
        if verb == "GET":
            return self._get(steps, arguments[0])
        if verb == "SET":
            return self._set(steps, arguments[0], copy.deepcopy(arguments[1]))
        return self._delete(steps, arguments[0])

    def meta(self) -> bytes:
        """What was changed so far, whole; empty when nothing was."""
        changed = self._changed
        if not changed:
            return b""
        message = self._message
        meta = {}
        if "next" in changed:
            meta["next"] = message["route"]["next"]
        for name in ("headers", "status"):
            if name in changed:
                meta[name] = message[name]
        return dumps_meta(meta)

    def _get(self, steps: List[Step], path: str) -> Any:
        if steps[0] not in _READABLE:
            raise KeyError(f"{path}: a message has {', '.join(_READABLE)}")
        value: Any = self._message
        for step in steps:
            if isinstance(step, slice):
                raise ValueError(f"{path}: a slice can only be SET")
            value = _follow(value, step, path)
        return copy.deepcopy(value)

    def _set(self, steps: List[Step], path: str, value: Any) -> None:
        section = self._writable(steps, path)
        trial: Dict[str, Any] = copy.deepcopy(self._message)
        container: Any = trial
        for step in steps[:-1]:
            if isinstance(step, slice):
                raise ValueError(f"{path}: a slice can only be the last step")
            if isinstance(container, dict) and isinstance(step, str) and container.get(step) is None:
                container[step] = {}
            container = _follow(container, step, path)
        last = steps[-1]
        if isinstance(last, slice):
            if not isinstance(container, list):
                raise TypeError(f"{path}: only a list has slices")
            container[last] = list(value)
        elif isinstance(container, dict) and isinstance(last, str):
            container[last] = value
        elif isinstance(container, list) and isinstance(last, int):
            try:
                container[last] = value
            except IndexError:
                raise IndexError(f"{path}: the list has {len(container)} items") from None
        else:
            raise TypeError(f"{path}: {type(container).__name__} has no {last!r}")
        self._accept(trial, section, path)

    def _delete(self, steps: List[Step], path: str) -> None:
        section = self._writable(steps, path)
        if steps == ["status"]:
            raise PermissionError(f"{path}: the status as a whole cannot be deleted")
        trial: Dict[str, Any] = copy.deepcopy(self._message)
        if steps == ["route", "next"]:
            trial["route"]["next"] = []
        elif steps == ["headers"]:
            trial["headers"] = {}
        else:
            container: Any = trial
            for step in steps[:-1]:
                container = _follow(container, step, path)
            last = steps[-1]
            if isinstance(last, slice):
                raise ValueError(f"{path}: a slice can only be SET")
            _follow(container, last, path)
            del container[last]
        self._accept(trial, section, path)

    def _accept(self, trial: Dict[str, Any], section: str, path: str) -> None:
        following = trial["route"]["next"]
        if not isinstance(following, list) or not all(isinstance(actor, str) and actor for actor in following):
            raise TypeError(f"{path}: .route.next must be a list of actor names")
        if not isinstance(trial["headers"], dict):
            raise TypeError(f"{path}: .headers must be a dict")
        if section == "status" and not isinstance(trial["status"], dict):
            raise TypeError(f"{path}: .status must be a dict")
        dumps_meta(trial[section] if section != "next" else following)  # not JSON: fail here, where it was set
        self._message = trial
        self._changed[section] = True

    def _writable(self, steps: List[Step], path: str) -> str:
        """The section that the path lies in, when it may be changed."""
        if steps[:2] == ["route", "next"]:
            return "next"
        if steps[0] in ("headers", "status"):
            return str(steps[0])
        raise PermissionError(f"{path} cannot be changed; .route.next, .headers and .status can")


def _follow(container: Any, step: Step, path: str) -> Any:
    try:
        if isinstance(container, (dict, list)):
            return container[step]  # type: ignore[index]
    except (KeyError, IndexError):
        raise KeyError(f"{path}: there is no {step!r}") from None
    except TypeError:
        pass
    raise TypeError(f"{path}: {type(container).__name__} has no {step!r}")

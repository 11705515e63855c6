"""Finding the user's handler and what kind it is.

Takes: the name in ASYA_HANDLER and the settings. Gives: a `Handler` that can be called.
Blocks on: the user's imports and constructor, for as long as they take. On failure: `HandlerError` for a name that
leads nowhere; whatever the user's own code raises goes through as it is.

Names: `package.module.function`, `package.module.Class.method`, and `path/file.py:function`, `path/file.py:Class.method`.
A class on the way is constructed once, without arguments.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
from types import ModuleType
from typing import Any, Callable, List, NamedTuple, Tuple

from .settings import Settings

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")

KINDS = ("function", "async", "generator", "async_generator")


class HandlerError(Exception):
    """The handler cannot be used; the message says what to change."""


HandlerError.__module__ = "asya"


class Handler(NamedTuple):
    """A handler that is ready."""

    call: Callable[[Any], Any]
    kind: str
    concurrency: int
    batch: int


def load(settings: Settings) -> Handler:
    """Import, construct and look at the handler."""
    name = settings.handler
    if not name:
        raise HandlerError("ASYA_HANDLER is not set; it names the handler, such as module.function or file.py:function")
    target, path = _find(name)
    owner: Any = None
    for attribute in path:
        if inspect.isclass(target):
            target = _construct(target)
        owner = target
        try:
            target = getattr(target, attribute)
        except AttributeError:
            raise HandlerError(f"{name}: {_called(owner)} has no {attribute!r}{_similar(owner, attribute)}") from None
    if inspect.isclass(target):
        target = owner = _construct(target)
    if not callable(target):
        raise HandlerError(f"{name} is {_called(target)}, which cannot be called")
    _check_signature(name, target)
    kind = _kind(target)
    batch = _setting(settings.batch_size, "asya_batch_size", target, owner, 0)
    concurrency = max(1, _setting(settings.concurrency, "asya_concurrency", target, owner, 1))
    if batch and "generator" in kind:
        raise HandlerError(
            f"{name} is a generator and cannot take batches (a batch of {batch} was asked for): "
            "it yields any number of results, which could not be told apart"
        )
    return Handler(target, kind, concurrency, batch)


def _find(name: str) -> Tuple[ModuleType, List[str]]:
    """The module, and the attributes to follow from there."""
    before, colon, after = name.rpartition(":")
    if colon:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", after):
            raise HandlerError(f"{name}: after the colon comes function or Class.method, not {after!r}")
        module = _import_file(before) if before.endswith(".py") else _import_dotted(name, before.split("."))
        return module, after.split(".")
    if not _DOTTED.fullmatch(name):
        raise HandlerError(f"ASYA_HANDLER={name!r} is neither module.function, module.Class.method nor file.py:function")
    parts = name.split(".")
    # The longest prefix that is a module; the rest are attributes.
    for length in range(len(parts) - 1, 0, -1):
        prefix = ".".join(parts[:length])
        try:
            return importlib.import_module(prefix), parts[length:]
        except ModuleNotFoundError as error:
            # Only when it is this very name that does not exist: an import that fails inside it is the user's error.
            missing = error.name or ""
            if length == 1 or not (prefix == missing or prefix.startswith(missing + ".")):
                if prefix != missing:
                    raise
                raise HandlerError(f"{name}: there is no module {prefix!r} on the path {_shown_path()}") from None
    raise HandlerError(f"{name}: not found")


def _import_dotted(name: str, parts: List[str]) -> ModuleType:
    module = ".".join(parts)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise HandlerError(f"{name}: there is no module {module!r} on the path {_shown_path()}") from None


def _import_file(path: str) -> ModuleType:
    absolute = os.path.abspath(path)
    if not os.path.isfile(absolute):
        raise HandlerError(f"there is no file {path} (looked for {absolute})")
    folder, base = os.path.split(absolute)
    name = base[: -len(".py")]
    if folder not in sys.path:
        sys.path.insert(1, folder)  # so that it can import its neighbours
    if name in sys.modules:  # a file called like a module that is loaded must not replace that
        name = f"asya_handler_{name}"
    specification = importlib.util.spec_from_file_location(name, absolute)
    if specification is None or specification.loader is None:
        raise HandlerError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


def _construct(kind: Any) -> Any:
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        raise HandlerError(
            f"{kind.__qualname__} is constructed without arguments, so all arguments of its __init__ need defaults: {error}"
        ) from None
    except ValueError:
        pass  # no signature to look at
    return kind()


def _check_signature(name: str, target: Any) -> None:
    try:
        inspect.signature(target).bind(None)
    except TypeError as error:
        raise HandlerError(f"{name} is called with one argument, the payload: {error}") from None
    except ValueError:
        pass


def _kind(target: Any) -> str:
    function = target
    if not inspect.isroutine(target) and not hasattr(target, "func"):
        function = getattr(type(target), "__call__", target)
    if inspect.isasyncgenfunction(function):
        return "async_generator"
    if inspect.iscoroutinefunction(function):
        return "async"
    if inspect.isgeneratorfunction(function):
        return "generator"
    return "function"


def _setting(configured: Any, attribute: str, target: Any, owner: Any, default: int) -> int:
    """The environment decides, then an attribute of the function, then one of its class or module."""
    if configured is not None:
        return int(configured)
    for place in (target, owner):
        found = getattr(place, attribute, None)
        if found is None:
            continue
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            raise HandlerError(f"{attribute} of {_called(place)} must be a whole number, not {found!r}")
        return found
    return default


def _called(thing: Any) -> str:
    if isinstance(thing, ModuleType):
        return f"module {thing.__name__!r}"
    return f"an instance of {type(thing).__qualname__}" if not inspect.isroutine(thing) else thing.__qualname__


def _similar(owner: Any, name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, [entry for entry in dir(owner) if not entry.startswith("_")], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _shown_path() -> str:
    return os.pathsep.join(entry or os.getcwd() for entry in sys.path[:4])

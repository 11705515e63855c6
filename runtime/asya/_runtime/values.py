"""What JSON libraries cannot write by themselves, made plain.

Takes: one object that is no JSON type. Gives: a plain value in which further such objects may sit, or an `Outgoing`.
Blocks on: nothing. On failure: `ResultError`, which names the type.

Nothing is imported before it is needed: a library that made the object is loaded already, and a worker that has less
to import starts sooner.
"""

from __future__ import annotations

import enum
import sys
from typing import Any

from .failures import ResultError, type_name
from .outgoing import outgoing


def plain(value: Any) -> Any:
    """The value in plainer terms."""
    kind = type(value)
    if hasattr(kind, "__dataclass_fields__"):
        from dataclasses import fields

        return {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(kind, "__pydantic_validator__"):  # pydantic 2
        return value.model_dump()
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return _scalar(value)
    found = outgoing(value)
    if found is not None:
        return found
    if hasattr(kind, "__fields__") and callable(getattr(value, "dict", None)):  # pydantic 1
        return value.dict()
    names = getattr(kind, "__struct_fields__", None)  # msgspec
    if names is None:
        names = [attribute.name for attribute in getattr(kind, "__attrs_attrs__", ())] or None
    if names is not None:
        return {name: getattr(value, name) for name in names}
    if isinstance(value, enum.Enum):
        return value.value
    if _is_time(value):
        return value.isoformat()
    uuid = sys.modules.get("uuid")
    if uuid is not None and isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, (tuple, list)):  # orjson knows no subclasses of tuple
        return list(value)
    if isinstance(value, float):
        return float(value)
    hint = ""
    if kind.__name__ in ("coroutine", "generator", "async_generator"):
        hint = f"; the handler returned a {kind.__name__}: is it wrapped in a decorator that hides what it is?"
    elif isinstance(value, (set, frozenset)):
        hint = "; a list can, such as sorted(…)"
    raise ResultError(f"a result that holds {type_name(kind)} cannot be written as JSON{hint}")


def _is_time(value: Any) -> bool:
    datetime = sys.modules.get("datetime")
    return datetime is not None and isinstance(value, (datetime.datetime, datetime.date, datetime.time))


def _scalar(value: Any) -> Any:
    found = value.item()
    if isinstance(found, (bool, int, float, str)) or found is None:
        return found
    if isinstance(found, bytes) or _is_time(found):
        return found
    raise ResultError(f"a result that holds {type_name(type(value))} cannot be written as JSON")

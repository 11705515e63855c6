"""JSON in both directions, with one meaning whichever library does the work.

Takes: bytes of a document; values that a handler returned. Gives: values; bytes, with every buffer and array in the
value taken out as a blob. Blocks on: nothing. On failure: `PayloadError` for a document, the encoder's own error (or
`ResultError`) for a result.

The meaning is that of the standard library, except that NaN and infinity are refused. orjson differs in a few places,
and there the standard library does it: integers beyond 64 bits, keys that are not strings, lone surrogates, and NaN,
which orjson writes as null.
"""

from __future__ import annotations

import json
from json import encoder as json_encoder
from typing import Any, Callable, Dict, List

from . import values
from .blob import Blob
from .failures import PayloadError
from .layout import BLOB_KEY, LITERAL_KEY
from .outgoing import Outgoing, outgoing

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment,unused-ignore]

_DIGITS = bytes(48 if 48 <= byte <= 57 else 120 for byte in range(256))
# An integer beyond 64 bits has at least 19 digits. Any run of 19 covers 6 of the bytes at multiples of 3, which is the
# cheap test; the second is exact.
_SIX = b"0" * 6
_NINETEEN = b"0" * 19

# What a result holds most often beside JSON.
_BINARY = frozenset((bytes, bytearray, memoryview, Blob))

_QUOTED_BLOB_KEY = f'"{BLOB_KEY}"'.encode()


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)
_scan: Callable[[str, int], Any] = getattr(_decoder, "scan_once")


def loads_stdlib(document: bytes) -> Any:
    """A value from a document, by the standard library."""
    try:
        text = str(document, "utf-8")
        try:
            value, end = _scan(text, 0)
        except StopIteration:
            end = -1
        if end == len(text):
            return value
        return _decoder.decode(text)  # space around the value, or an error to be explained
    except RecursionError:
        raise PayloadError("the payload is nested too deeply") from None
    except ValueError as error:
        raise PayloadError(f"the payload is not valid JSON: {error}") from None


def loads_orjson(document: bytes) -> Any:
    """The same value, by orjson where it agrees."""
    if _SIX in document[::3].translate(_DIGITS) and _NINETEEN in document.translate(_DIGITS):
        return loads_stdlib(document)
    try:
        return orjson.loads(document)
    except ValueError:
        return loads_stdlib(document)


class Codec:
    """One encoder and what it found. Not to be shared between threads.

    After `dumps`, `blobs` holds the buffers and arrays that the document refers to by index; it is valid until the
    next call.
    """

    __slots__ = ("blobs", "_known", "_references", "loads", "dumps", "uses_orjson", "_encode", "_escaping", "_ascii")

    def __init__(self, library: str = "auto") -> None:
        if library == "orjson" and orjson is None:
            raise ImportError("ASYA_JSON=orjson, but this Python has no orjson")
        self.uses_orjson = library != "stdlib" and orjson is not None
        self.blobs: List[Outgoing] = []
        self._known: Dict[int, int] = {}
        self._references = 0
        self._escaping = False
        self._encode = _stdlib_encoder(self._default, ascii_only=False)
        self._ascii = _stdlib_encoder(self._default, ascii_only=True)
        self.loads: Callable[[bytes], Any] = loads_orjson if self.uses_orjson else loads_stdlib
        self.dumps: Callable[[Any], bytes] = self._orjson_dumps() if self.uses_orjson else self._dumps_stdlib

    def _begin(self) -> None:
        """Forget the blobs of the document before."""
        self.blobs = []
        self._known = {}
        self._references = 0

    def _dumps_stdlib(self, value: Any) -> bytes:
        if self._references:
            self._begin()
        try:
            try:
                document = self._encode(value).encode()
            except UnicodeEncodeError:  # a lone surrogate: UTF-8 cannot say it, an escape can
                self._begin()
                document = self._ascii(value).encode()
        except RecursionError:
            raise ValueError("the result refers to itself, or is nested too deeply for JSON") from None
        return self._escaped(value, document) if self.blobs else document

    def _orjson_dumps(self) -> Callable[[Any], bytes]:
        dumps = orjson.dumps
        default = self._default
        # What `values.plain` does for both libraries alike must come to it.
        options = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
        stdlib = self._dumps_stdlib

        def dumps_orjson(value: Any) -> bytes:
            if self._references:
                self._begin()
            document = None
            try:
                document = dumps(value, default, options)
            except TypeError:
                pass
            if document is None:  # outside of the handler above: what is raised then is the user's only error
                return stdlib(value)
            if b"null" in document and not _finite(value):
                return stdlib(value)
            return self._escaped(value, document) if self.blobs else document

        return dumps_orjson

    def _default(self, value: Any) -> Any:
        """For whatever the library cannot write by itself."""
        known = self._known.get(id(value))
        if known is not None:
            self._references += 1
            return {BLOB_KEY: known}
        found: Any = outgoing(value) if type(value) in _BINARY else values.plain(value)
        if type(found) is Outgoing:
            index = len(self.blobs)
            found.owner = (found.owner, value)  # as long as the value lives, nothing else has its identity
            self.blobs.append(found)
            self._known[id(value)] = index
            self._references += 1
            return {BLOB_KEY: index}
        return escaped(found) if self._escaping else found

    def _escaped(self, value: Any, document: bytes) -> bytes:
        """Tell a user's own `{"$asya.blob": …}` from a reference to a blob, when there is one."""
        if self._escaping or document.count(_QUOTED_BLOB_KEY) == self._references:
            return document
        self._escaping = True
        try:
            return self.dumps(escaped(value))
        finally:
            self._escaping = False


def escaped(value: Any) -> Any:
    """The same value, with every dict that looks like a reference to a blob wrapped as a literal."""
    if isinstance(value, dict):
        if len(value) == 1 and BLOB_KEY in value:
            return {BLOB_KEY: {LITERAL_KEY: escaped(value[BLOB_KEY])}}
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [escaped(item) for item in value]
    return value


def _stdlib_encoder(default: Callable[[Any], Any], ascii_only: bool) -> Callable[[Any], str]:
    """`JSONEncoder.encode` without what it sets up anew for each document, where the C encoder can be had."""
    encoder = json.JSONEncoder(
        default=default, ensure_ascii=ascii_only, check_circular=False, allow_nan=False, separators=(",", ":")
    )
    make: Any = getattr(json_encoder, "c_make_encoder", None)
    text: Any = json_encoder.encode_basestring_ascii if ascii_only else getattr(json_encoder, "encode_basestring")
    if make is None:
        return encoder.encode
    try:
        chunks = make(None, default, text, None, ":", ",", False, False, False)
        if "".join(chunks({"a": [1]}, 0)) != '{"a":[1]}':
            return encoder.encode
    except TypeError:  # another Python, another signature
        return encoder.encode
    join = "".join
    return lambda value: join(chunks(value, 0))


_PLAIN = frozenset((str, int, bool, type(None)))


def _finite(value: Any) -> bool:
    """True when a value surely holds no NaN or infinity; false also for types that only the encoder knows."""
    kind = type(value)
    if kind is dict:
        items: Any = value.values()
    elif kind is list or kind is tuple:
        items = value
    elif kind is float:
        return bool(value - value == 0.0)
    else:
        return kind in _PLAIN
    for item in items:
        kind = type(item)
        if kind is float:
            if item - item != 0.0:
                return False
        elif kind not in _PLAIN and not _finite(item):
            return False
    return True


def dumps_meta(value: Any) -> bytes:
    """Plain JSON of small things that must not hold blobs."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")

"""Reading payloads that look like those before them.

Theory. Opening a payload tells each thing that can be wrong with it from all others, and makes objects of what it says.
Nearly always nothing is wrong, and nearly all payloads of one schema begin with the same sixteen bytes, which say how
the rest is written. So these are judged once and then recognised; what differs, the proof and the lengths above all, is
checked for each payload, and the rest is left where it lies for whoever needs it. What is not recognised, or is not as
it should be, gives None: then it is opened, which says why.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias
from zlib import crc32

from ..errors import DecodeError
from ..markers import ID_BYTES
from .base import codec_numbered
from .layout import (
    CRC_BYTES,
    END_OF_TIME,
    EXPIRES_AT,
    FLAGS_AT,
    GRACE,
    HEAD,
    IDS_BEFORE,
    IDS_END,
    MAGIC,
    NAMED,
    NONE,
    SHORT,
    SIGNATURE_BYTES,
    SIGNED,
    TAGS_AT,
    TIME_BYTES,
    VERSION,
    WHOLE,
)

__all__ = ["Form", "Skimmed", "Skimmer", "packed_time", "read_ids", "read_tags", "read_time", "read_times"]

_MOST_FORMS: Final = 256
_FIRST: Final = struct.Struct(f"{ID_BYTES}s" * (IDS_BEFORE + 1))

Skimmed: TypeAlias = tuple[bytes, int, bytes | None]
"""What a payload says that is whole and belongs to its key: when it expires, which is after each `packed_time` that is
less; the position behind its tags and their ids; and the body, or None where the value is None."""

Tags: TypeAlias = tuple[tuple[str, ...], tuple[bytes, ...]]
"""The tags of a payload, and their ids."""


class Form(NamedTuple):
    """How a payload is written.

    Attributes:
        is_none: whether the value is None.
        compression: that of the body.
        end: the position behind what says the tags.
        start: that of the body.
        stop: where the body ends, counted from the end of the payload and so less than zero.
    """

    is_none: bool
    compression: int
    end: int
    start: int
    stop: int


class _Lengths(dict[int, int]):
    """The checksum of what stands before a key, by the length of the key in bytes."""

    def __init__(self, checksum: int) -> None:
        super().__init__()
        self._checksum = checksum

    def __missing__(self, length: int) -> int:
        found = self[length] = crc32(length.to_bytes(4, "big"), self._checksum)
        return found


class Skimmer:
    """Reads the payloads of one schema.

    Args:
        fingerprint: the schema's.
        checksum: that of the namespace, from which a payload's continues.
        limit: longer bodies are not read.
        signed: whether payloads are signed.
        verify: raises DecodeError where a signature is not right; it is given the key, the payload and the flags.
        expand: returns the body that was compressed by a method.

    Attributes:
        limit: as given.
    """

    __slots__ = ("_expand", "_fingerprint", "_forms", "_lengths", "_signed", "_verify", "limit")

    def __init__(
        self,
        fingerprint: bytes,
        *,
        checksum: int,
        limit: int,
        signed: bool,
        verify: Callable[[str, bytes, int], None],
        expand: Callable[[bytes, int], bytes],
    ) -> None:
        self._fingerprint = fingerprint
        self._lengths = _Lengths(checksum)
        self.limit = limit
        self._signed = signed
        self._verify = verify
        self._expand = expand
        self._forms: dict[bytes, Form | None] = {}

    def skim(self, key: str, data: bytes) -> Skimmed | None:
        """Return what a payload says that was found under a stored key, or None for one that has to be opened."""
        if type(data) is not bytes:  # a server that is none may answer with anything
            return None
        form = self._forms.get(data[: HEAD.size]) or self.form(data[: HEAD.size])
        if form is None or not self._is_whole(key, data):
            return None
        body = self.body(form, data)
        if body is None:
            return None
        return data[EXPIRES_AT:TAGS_AT], form.end, None if form.is_none else body

    def form(self, beginning: bytes) -> Form | None:
        """Return how a payload with this beginning is written, or None where it has to be opened."""
        forms = self._forms
        form = forms.get(beginning)
        if form is None and beginning not in forms:
            form = self._judged(beginning)
            if len(forms) >= _MOST_FORMS:
                forms.clear()
            forms[beginning] = form
        return form

    def _judged(self, beginning: bytes) -> Form | None:
        if len(beginning) < HEAD.size:
            return None
        magic, version, flags, compression, schema, length = HEAD.unpack(beginning)
        if (magic, version, schema) != (MAGIC, VERSION, self._fingerprint):
            return None
        codec, signed = codec_numbered(schema[0]), self._signed
        if flags & ~(NONE | GRACE) != SIGNED * signed:
            return None
        if codec is not None and codec.signed_only and not signed:
            return None
        end = TAGS_AT + int.from_bytes(length, "big")
        start = end + TIME_BYTES * bool(flags & GRACE)
        return Form(bool(flags & NONE), compression, end, start, -(SIGNATURE_BYTES if signed else CRC_BYTES))

    def whole(self, keys: Sequence[str], payloads: Sequence[bytes]) -> list[bool]:
        """Return of each payload whether its proof is right, for the stored key at the same place."""
        if self._signed:
            return list(map(self._is_whole, keys, payloads))
        try:
            names = list(map(str.encode, keys))
        except UnicodeEncodeError:
            return list(map(self._is_whole, keys, payloads))
        starts = map(crc32, names, map(self._lengths.__getitem__, map(len, names)))
        return list(map(WHOLE.__eq__, map(crc32, payloads, starts)))

    def _is_whole(self, key: str, data: bytes) -> bool:
        try:
            if self._signed:
                self._verify(key, data, data[FLAGS_AT])
                return True
            name = key.encode()
        except (DecodeError, UnicodeEncodeError, IndexError):
            return False
        return crc32(data, crc32(name, self._lengths[len(name)])) == WHOLE

    def body(self, form: Form, data: bytes) -> bytes | None:
        """Return the body of a payload, or None where it cannot be had."""
        if not 0 <= len(data) + form.stop - form.start <= self.limit:
            return None
        body = data[form.start : form.stop]
        try:
            return self._expand(body, form.compression) if form.compression else body
        except DecodeError:
            return None


def packed_time(moment: float) -> bytes:
    """Return epoch seconds as payloads have them; those of a later millisecond are greater, up to the year 10889."""
    milliseconds = int(max(moment, 0.0) * 1000) if moment * 1000 < END_OF_TIME else END_OF_TIME
    return milliseconds.to_bytes(TIME_BYTES, "big")


def read_times(payload: bytes) -> tuple[float, float, float]:
    """Return the epoch seconds at which a payload was created, expires, and can stand in no longer."""
    flags = payload[FLAGS_AT]
    at = HEAD.size if flags & NAMED else IDS_END
    created, expires = read_time(payload, at), read_time(payload, at + TIME_BYTES)
    if not flags & GRACE:
        return created, expires, expires
    tags = int.from_bytes(payload[HEAD.size - 3 : HEAD.size], "big")
    return created, expires, read_time(payload, at + 2 * TIME_BYTES + tags)


def read_time(payload: bytes, position: int) -> float:
    """Return the epoch seconds that stand at a position of a payload."""
    return int.from_bytes(payload[position : position + TIME_BYTES], "big") / 1000


def read_ids(payload: bytes) -> tuple[bytes, ...]:
    """Return the ids that each payload has, in the order of `markers.dependencies`."""
    return _FIRST.unpack_from(payload, HEAD.size)


def read_tags(text: bytes) -> Tags | None:
    """Return what stands behind the times of a payload and in front of its body; None where it is something else."""
    if not text:
        return (), ()
    if len(text) < SHORT.size:
        return None
    (count,) = SHORT.unpack_from(text)
    position, first = SHORT.size, len(text) - count * ID_BYTES
    tags = []
    for _ in range(count):
        size = int.from_bytes(text[position : position + 2], "big")
        tag = text[position + 2 : position + 2 + size]
        position += 2 + size
        if position > first:
            return None
        try:
            tags.append(tag.decode())
        except UnicodeDecodeError:
            return None
    if position != first:
        return None
    return tuple(tags), tuple([text[at : at + ID_BYTES] for at in range(first, len(text), ID_BYTES)])

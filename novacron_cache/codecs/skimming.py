"""Reading payloads that look like those before them.

Theory. Opening a payload tells each thing that can be wrong with it from all others, and makes objects of what it says.
Nearly always nothing is wrong, and nearly all payloads of one schema begin with the same eighteen bytes, which say how
the rest is written. So these are judged once and then recognised; what differs, the proof and the lengths above all, is
checked for each payload, and the rest is left where it lies for whoever needs it. What is not recognised, or is not as
it should be, gives None: then it is opened, which says why.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias
from zlib import crc32

from ..errors import DecodeError
from ..markers import ID_BYTES
from .base import codec_numbered
from .layout import CRC_BYTES, FIXED, FORM, LONG, MAGIC, NONE, SIGNATURE_BYTES, SIGNED, TERMS, TIMES, VERSION

__all__ = ["IDS_BEFORE", "TEXT_AT", "Skim", "Skimmed", "read_ids", "read_tags", "read_times", "skimmer"]

TEXT_AT: Final = FIXED.size
"""Where the tags of a payload begin."""
IDS_BEFORE: Final = 4
"""How many ids stand before that of the key: those of dependencies that many values have in common."""

_IDS_BUT_TAGS: Final = IDS_BEFORE + 1
_IDS_BEFORE_BYTES: Final = IDS_BEFORE * ID_BYTES
_MOST_FORMS: Final = 64

Skimmed: TypeAlias = tuple[int, int, int, bytes | None]
Skim: TypeAlias = Callable[[str, bytes], Skimmed | None]
"""Given a stored key and a payload, returns what the payload says, if it is whole and belongs to the key; else None.

That is: the milliseconds since the epoch at which it expires; the position of the key's id, before which are the tags
and the first ids, and behind which those of the tags; the position behind the ids; and the body, or None where the
value is None.
"""


class _Form(NamedTuple):
    """How a payload is written.

    Attributes:
        flags: as they stand there.
        compression: that of the body.
        ids: how many bytes the ids take together.
        proof: how many bytes stand behind the body.
    """

    flags: int
    compression: int
    ids: int
    proof: int


class _Lengths(dict[int, int]):
    """The checksum of what stands before a key, by the length of the key in bytes."""

    def __init__(self, checksum: int) -> None:
        super().__init__()
        self._checksum = checksum

    def __missing__(self, length: int) -> int:
        found = self[length] = crc32(length.to_bytes(4, "big"), self._checksum)
        return found


def _judge(beginning: bytes, fingerprint: bytes, *, signed: bool) -> _Form | None:
    magic, version, flags, compression, id_bytes, tags, ids, schema = FORM.unpack(beginning)
    if (magic, version, id_bytes, ids, schema) != (MAGIC, VERSION, ID_BYTES, tags + _IDS_BUT_TAGS, fingerprint):
        return None
    codec = codec_numbered(schema[0])
    if flags & ~NONE != SIGNED * signed or (codec is not None and codec.signed_only and not signed):
        return None
    return _Form(flags, compression, ids * ID_BYTES, SIGNATURE_BYTES if signed else CRC_BYTES)


def skimmer(
    fingerprint: bytes,
    *,
    checksum: int,
    limit: int,
    signed: bool,
    verify: Callable[[str, bytes, int], None],
    expand: Callable[[bytes, int], bytes],
) -> Skim:
    """Return what reads the payloads of one schema.

    Args:
        fingerprint: the schema's.
        checksum: that of the namespace, from which a payload's continues.
        limit: longer bodies are not read.
        signed: whether payloads are signed.
        verify: raises DecodeError where a signature is not right; it is given the key, the payload and the flags.
        expand: returns the body that was compressed by a method.
    """
    forms: dict[bytes, _Form] = {}
    lengths = _Lengths(checksum)
    terms, proof_at = TERMS.unpack_from, LONG.unpack_from
    shortest = FIXED.size

    def judged(beginning: bytes) -> _Form | None:
        form = _judge(beginning, fingerprint, signed=signed)
        if form is not None:
            if len(forms) >= _MOST_FORMS:
                forms.clear()
            forms[beginning] = form
        return form

    def skim(key: str, data: bytes) -> Skimmed | None:
        if len(data) < shortest:
            return None
        beginning, expires, variable, length = terms(data)
        form = forms.get(beginning) or judged(beginning)
        if form is None:
            return None
        flags, compression, ids, proof = form
        start = shortest + variable
        end = start + length
        if end + proof != len(data) or ids > variable or length > limit:
            return None
        body = data[start:end]
        try:
            if signed:
                verify(key, data, flags)
            else:
                name = key.encode()
                if proof_at(data, end)[0] != crc32(data[:end], crc32(name, lengths[len(name)])):
                    return None
            if compression:
                body = expand(body, compression)
        except (DecodeError, UnicodeEncodeError):
            return None
        at = start - ids + _IDS_BEFORE_BYTES
        return expires, at, start, None if flags & NONE else body

    return skim


def read_times(payload: bytes) -> tuple[float, float, float]:
    """Return the epoch seconds at which a payload was created, expires, and can stand in no longer."""
    created, expires, stale_until = TIMES.unpack_from(payload, FORM.size)
    return created / 1000, expires / 1000, stale_until / 1000


def read_ids(payload: bytes, first: int, end: int) -> tuple[bytes, ...]:
    """Return the ids that stand in a payload from one position to another."""
    return _cutter((end - first) // ID_BYTES).unpack_from(payload, first)


@lru_cache(maxsize=256)
def _cutter(count: int) -> struct.Struct:
    return struct.Struct(f"{ID_BYTES}s" * count)


def read_tags(text: bytes) -> tuple[str, ...] | None:
    """Return the tags that stand in front of the ids of a payload; None where the text is something else."""
    tags, position = [], 0
    while position < len(text):
        length = int.from_bytes(text[position : position + 2], "big")
        tag = text[position + 2 : position + 2 + length]
        position += 2 + length
        if position > len(text):
            return None
        try:
            tags.append(tag.decode())
        except UnicodeDecodeError:
            return None
    return tuple(tags)

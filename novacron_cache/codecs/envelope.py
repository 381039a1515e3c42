"""The envelope: what surrounds a body in every shared tier, version 2.

Theory. A payload lies where others can reach it: another version of the application, a damaged disk, an operator with a
copy command, an attacker with write access. So a payload says everything its reader needs in order *not* to use it: the
schema it was written under, when it ends, which dependency ids it was loaded under, and proof that it is whole and
belongs to the key it was found under. The namespace and the stored key are part of what the proof covers but are not
in the bytes, so a payload copied to another key or another application's namespace is refused without costing a byte.
Without keys the proof is a CRC-32, which finds damage; with keys it is an HMAC-SHA256, which finds damage and forgery.
The algorithm is not negotiable by the payload: a reader that has keys refuses whatever is not signed by one of them.
Whatever is wrong becomes a `DecodeError`, never another exception: a payload is input from outside.

Who reads many payloads that look alike does not open each of them (see `skimming`).

Layout, integers big-endian but for the CRC, times in milliseconds since the epoch:

    offset  size
    0       2     magic "NC"
    2       1     version, 2; version 1 was in no release
    3       1     flags: 1 the value is None and the body empty; 2 signed; 4 dependency names are spelled out; 8 there
                  is a time until which the value may stand in for a failing loader
    4       1     compression of the body: 0 none, 1 zlib, 2 zstd, 3 lz4, 4 zstd with one of the `dictionaries`
    5       8     schema fingerprint, of which the first byte is the codec's id
    13      3     length of what says the tags
    16      40    ids of namespace, rules, model, segment and key, in the order of `markers.dependencies`: the reader
                  knows their names, which are therefore not stored; absent with flag 4
    56      12    created, expires: 6 bytes each
    68            where there are tags, and with flag 4: the number of tags in 2 bytes, the tags, each its length in 2
                  bytes and its text in UTF-8, and the ids of the tags. With flag 4, in place of those: the number of
                  ids in 2 bytes and each as the name's length in 2 bytes, the name, the id's length in 1 byte, the id
                  with flag 8: stale until, 6 bytes
                  body
    end     4     unsigned: CRC-32 of (prefix, all of the above), lowest byte first
    end     36    signed: key id in 4 bytes, HMAC-SHA256 of (prefix, all of the above and the key id)

The prefix is the namespace and the stored key, each after its length in 4 bytes.
"""

from __future__ import annotations

import hmac
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NoReturn, Protocol

from ..errors import CachedValueError, DecodeError, SettingsError
from ..markers import ID_BYTES, NAMESPACE, RULES, dependencies, key_dep, model_dep, segment_dep, tag_dep
from .base import codec_named, codec_numbered
from .compression import DICTIONARY, compression_name, compression_named, compression_numbered, too_large
from .dictionaries import LEAST_BODY, Dictionaries, Dictionary
from .layout import (
    CRC_BYTES,
    END_OF_TIME,
    FLAGS_AT,
    GRACE,
    HEAD,
    IDS_BEFORE,
    IDS_END,
    KEY_ID_BYTES,
    LONG,
    MAC_BYTES,
    MAGIC,
    NAMED,
    NONE,
    PROOF,
    SHORT,
    SIGNATURE_BYTES,
    SIGNED,
    TIME_BYTES,
    VERSION,
    WHOLE,
)
from .skimming import Skimmer, read_time

MIN_BYTES: Final = 1024
"""Bodies below this are not compressed: at 300 bytes every compressor costs more than it saves."""
MAX_DECODED_BYTES: Final = 64 * 2**20
REFUSED: Final = b"!unsafe"
"""What a tier hands out in place of something that it must not read; it opens to the reason `unsafe`."""

_COMPRESSION_AT, _CODEC_AT = 4, 5
_KNOWN_FLAGS = NONE | SIGNED | NAMED | GRACE


@dataclass(slots=True)
class Header:
    """What a payload says about its body.

    Attributes:
        fingerprint: eight bytes of the schema the body was written under.
        created: epoch seconds at which the value was stored.
        expires: epoch seconds at which its ttl ends.
        stale_until: epoch seconds until which it may stand in for a failing loader.
        ids: (dependency, id) pairs under which the value is valid.
        tags: the rendered tags.
        is_none: whether the value is None; there is no body then.
    """

    fingerprint: bytes
    created: float
    expires: float
    stale_until: float
    ids: tuple[tuple[str, bytes], ...] = ()
    tags: tuple[str, ...] = ()
    is_none: bool = False


def written_as(payload: bytes) -> str:
    """Return how a payload that was opened is written: the codec, the compression, and whether it is signed."""
    codec, compression = codec_numbered(payload[_CODEC_AT]), compression_name(payload[_COMPRESSION_AT])
    parts = [*([codec.name] if codec is not None else []), *([compression] if compression else [])]
    return "+".join(parts or ["none"]) + ", signed" * bool(payload[FLAGS_AT] & SIGNED)


class _Reader(Protocol):
    def expand(self, data: bytes, limit: int) -> bytes: ...


class Pipeline:
    """Seals bodies into payloads and opens payloads, for one namespace.

    Args:
        namespace: the application's name; payloads of another one are refused.
        compression: the name of a compressor or `"none"`; what it wrote can be read whatever is set here.
        level: how hard the compressor tries.
        min_bytes: bodies below this are stored as they are.
        max_decoded_bytes: longer bodies are neither written nor read.
        signing_keys: secrets; the first signs, every one verifies. With any, unsigned payloads are refused.
        use_dictionaries: whether bodies of `zstd` are compressed with dictionaries, where there are any.

    Attributes:
        dictionaries: those that are known here.

    Raises:
        SettingsError: a setting is wrong, or the compressor's package is missing.
    """

    __slots__ = (
        "_checksum", "_compression", "_keys", "_limit", "_min_bytes", "_prefix", "_readers", "_signer", "_skimmers",
        "dictionaries",
    )  # fmt: skip

    def __init__(
        self,
        *,
        namespace: str = "",
        compression: str = "none",
        level: int = 6,
        min_bytes: int = MIN_BYTES,
        max_decoded_bytes: int = MAX_DECODED_BYTES,
        signing_keys: Sequence[bytes] = (),
        use_dictionaries: bool = False,
    ) -> None:
        self._prefix = _framed(namespace)
        self._checksum = zlib.crc32(self._prefix)
        self._compression = compression_named(compression, level)
        self._min_bytes = min_bytes
        self._limit = max_decoded_bytes
        self.dictionaries = Dictionaries(level=level if compression == "zstd" else None, writes=use_dictionaries)
        self._readers: dict[int, _Reader] = {DICTIONARY: self.dictionaries}
        self._skimmers: dict[bytes, Skimmer] = {}
        if self._compression is not None:
            self._readers[self._compression.format_id] = self._compression
        self._keys: dict[bytes, hmac.HMAC] = {}
        for key in dict.fromkeys(signing_keys):
            if not isinstance(key, bytes) or not key:
                raise SettingsError("signing_keys: each key is a non-empty bytes object", variable="signing_keys")
            key_id = blake2b(key, digest_size=KEY_ID_BYTES, person=b"nc signing key").digest()
            if key_id in self._keys:
                raise SettingsError("signing_keys: two keys have one id; replace either", variable="signing_keys")
            # Keyed once; each payload continues from a copy.
            self._keys[key_id] = hmac.new(key, self._prefix, "sha256")
        self._signer: tuple[bytes, hmac.HMAC] | None = next(iter(self._keys.items()), None)

    @property
    def signed(self) -> bool:
        """Whether payloads are signed, and unsigned ones refused."""
        return self._signer is not None

    def is_signed_now(self, payload: bytes) -> bool:
        """Return whether a payload that was opened has the proof that it would be given now."""
        return self._signer is None or payload[-SIGNATURE_BYTES:-MAC_BYTES] == self._signer[0]

    def seal(self, key: str, header: Header, body: bytes | None, dictionary: Dictionary | None = None) -> bytes:
        """Return the payload to store under a key.

        Args:
            key: the stored key; the payload opens under this key alone.
            header: what to say about the body.
            body: what the codec wrote; ignored when `header.is_none`.
            dictionary: what to compress it with, also where it is shorter than `min_bytes`; None is the compressor.

        Raises:
            CachedValueError: the body is longer than `max_decoded_bytes`, or the header does not fit the format.
        """
        flags, method = 0, 0
        if header.is_none or body is None:
            flags, body = NONE, b""
        elif len(body) > self._limit:
            raise CachedValueError(f"the value takes {len(body)} bytes, more than max_decoded_bytes={self._limit}")
        elif dictionary is not None and len(body) >= LEAST_BODY:
            smaller = self.dictionaries.pack(dictionary, body)
            if len(smaller) < len(body):
                method, body = DICTIONARY, smaller
        elif self._compression is not None and len(body) >= self._min_bytes:
            smaller = self._compression.compress(body)
            if len(smaller) < len(body):
                method, body = self._compression.format_id, smaller
        if self._signer is not None:
            flags |= SIGNED
        try:
            tags = b"".join([_text(tag) for tag in header.tags])
            values = [value for _, value in header.ids]
            ids, tags_ids = b"".join(values[:_EVERY]), b"".join(values[_EVERY:])
            if not _is_usual(header):
                flags |= NAMED
                ids, tags_ids = b"", SHORT.pack(len(header.ids)) + b"".join([_named(*pair) for pair in header.ids])
            if tags or flags & NAMED:
                tags = SHORT.pack(len(header.tags)) + tags + tags_ids
            expires, stale_until = _time(header.expires), _time(header.stale_until)
            if stale_until == expires:
                stale_until = b""
            else:
                flags |= GRACE
            head = HEAD.pack(MAGIC, VERSION, flags, method, header.fingerprint, len(tags).to_bytes(3, "big"))
        except (struct.error, UnicodeEncodeError, OverflowError) as error:
            raise CachedValueError(
                f"a tag or dependency cannot be written ({error}); a tag is text in UTF-8, of 65,535 bytes at most, "
                f"and all tags of a value take 16 MB at most"
            ) from error
        content = b"".join((head, ids, _time(header.created), expires, tags, stale_until, body))
        if self._signer is None:
            return content + PROOF.pack(zlib.crc32(content, zlib.crc32(_framed(key), self._checksum)))
        key_id, keyed = self._signer
        content += key_id
        return content + _signature(keyed, key, content)

    def open(
        self, key: str, data: bytes, *, logical: str = "", name: str = "", fingerprint: bytes | None = None
    ) -> tuple[Header, bytes]:
        """Return the header and the body of a payload.

        Args:
            key: the stored key the payload was found under.
            data: the payload.
            logical: the logical key, from which the names of dependencies follow.
            name: the name of the model or function.
            fingerprint: the only schema whose body may be returned; None takes any.

        Raises:
            DecodeError: the payload cannot be used; `reason` says why. Nothing else is ever raised.
        """
        try:
            return self._open(key, data, logical, name, fingerprint)
        except DecodeError:
            raise
        except Exception as error:
            # Lengths that lie surface as struct.error, UnicodeDecodeError and the like.
            raise DecodeError("the payload is malformed") from error

    def skimmer(self, fingerprint: bytes) -> Skimmer:
        """Return what reads payloads of a schema faster than `open`, as long as nothing is unusual about them."""
        skimmer = self._skimmers.get(fingerprint)
        if skimmer is None:
            skimmer = self._skimmers[fingerprint] = Skimmer(
                fingerprint, checksum=self._checksum, limit=self._limit, signed=self.signed, verify=self._verify,
                expand=self._expand,
            )  # fmt: skip
        return skimmer

    def _open(self, key: str, data: bytes, logical: str, name: str, fingerprint: bytes | None) -> tuple[Header, bytes]:
        if data[:2] != MAGIC:
            if data == REFUSED:
                raise DecodeError("something was planted in place of a payload", reason="unsafe")
            _foreign("not a payload of this package")
        if len(data) < HEAD.size + 2 * TIME_BYTES + CRC_BYTES:
            raise DecodeError("the payload is cut short")
        _, version, flags, method, schema, length = HEAD.unpack_from(data)
        if version != VERSION or flags > _KNOWN_FLAGS:
            _foreign(f"version {version} of the format; this reader knows {VERSION}")
        self._verify(key, data, flags)
        if fingerprint is not None and schema != fingerprint:
            raise DecodeError("written under another schema or by another codec", reason="schema")
        if not flags & SIGNED and (codec := codec_numbered(schema[0])) is not None and codec.signed_only:
            raise DecodeError(f"an unsigned {codec.name} body is never read", reason="signature")
        at = HEAD.size if flags & NAMED else IDS_END
        created, expires = read_time(data, at), read_time(data, at + TIME_BYTES)
        start = at + 2 * TIME_BYTES
        position = start + int.from_bytes(length, "big")
        tags, ids = _dependencies(data, flags, start, position, logical, name)
        stale_until = expires
        if flags & GRACE:
            stale_until = read_time(data, position)
            position += TIME_BYTES
        end = len(data) - (SIGNATURE_BYTES if flags & SIGNED else CRC_BYTES)
        if position > end:
            raise DecodeError("the payload's lengths do not add up")
        header = Header(schema, created, expires, stale_until, ids, tags, bool(flags & NONE))
        body = data[position:end]
        return header, self._expand(body, method) if method else self._measured(body)

    def _verify(self, key: str, data: bytes, flags: int) -> None:
        if not self._keys:
            if flags & SIGNED:
                raise DecodeError("signed, but there is no key here to verify it", reason="signature")
            if zlib.crc32(data, zlib.crc32(_framed(key), self._checksum)) != WHOLE:
                raise DecodeError("the checksum is wrong: damaged, or copied from another key")
            return
        end = len(data) - MAC_BYTES
        keyed = self._keys.get(data[end - KEY_ID_BYTES : end])
        if not flags & SIGNED or keyed is None:
            raise DecodeError("not signed by a key known here", reason="signature")
        if not hmac.compare_digest(_signature(keyed, key, memoryview(data)[:end]), data[end:]):
            raise DecodeError("the signature is wrong", reason="signature")

    def _measured(self, body: bytes) -> bytes:
        if len(body) > self._limit:
            raise too_large(self._limit)
        return body

    def _expand(self, body: bytes, method: int) -> bytes:
        reader = self._readers.get(method)
        if reader is None:
            reader = self._readers[method] = compression_numbered(method)
        return reader.expand(body, self._limit)


def make_pipeline(
    *,
    namespace: str,
    serialization: str = "json",
    compression: str = "none",
    compression_level: int = 6,
    compression_min_bytes: int = MIN_BYTES,
    max_decoded_bytes: int = MAX_DECODED_BYTES,
    signing_keys: Sequence[bytes] = (),
    compression_dictionaries: bool = False,
) -> Pipeline:
    """Return the pipeline that settings describe.

    Raises:
        SettingsError: the codec is unknown, a codec that needs signing has no key, or a setting is wrong.
    """
    codec = codec_named(serialization)
    if codec.signed_only and not signing_keys:
        raise SettingsError(
            f"serialization={codec.name!r} runs code from whatever it reads, so it is only used with signing_keys",
            variable="serialization",
        )
    return Pipeline(
        namespace=namespace,
        compression=compression,
        level=compression_level,
        min_bytes=compression_min_bytes,
        max_decoded_bytes=max_decoded_bytes,
        signing_keys=signing_keys,
        use_dictionaries=compression_dictionaries,
    )


def _foreign(message: str) -> NoReturn:
    raise DecodeError(message, reason="foreign")


def _framed(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return LONG.pack(len(raw)) + raw


def _text(text: str) -> bytes:
    raw = text.encode()
    return SHORT.pack(len(raw)) + raw


def _named(name: str, value: bytes) -> bytes:
    return _text(name) + struct.pack(">B", len(value)) + value


def _signature(keyed: hmac.HMAC, key: str, content: bytes | memoryview) -> bytes:
    signing = keyed.copy()
    signing.update(_framed(key))
    signing.update(content)
    return signing.digest()


def _time(moment: float) -> bytes:
    milliseconds = round(max(moment, 0.0) * 1000) if moment * 1000 < END_OF_TIME else END_OF_TIME
    return milliseconds.to_bytes(TIME_BYTES, "big")


_EVERY: Final = IDS_BEFORE + 1
_PREFIXES: Final = (model_dep(""), segment_dep(""), key_dep(""))


def _is_usual(header: Header) -> bool:
    """Return whether the reader can work out the names of all ids, and where each of them ends."""
    ids, tags = header.ids, header.tags
    return (
        len(ids) == _EVERY + len(tags)
        and (ids[0][0], ids[1][0]) == (NAMESPACE, RULES)
        and all(dep.startswith(prefix) for (dep, _), prefix in zip(ids[2:_EVERY], _PREFIXES, strict=True))
        and all(dep == tag_dep(tag) for (dep, _), tag in zip(ids[_EVERY:], tags, strict=True))
        and all(len(value) == ID_BYTES for _, value in ids)
    )


@lru_cache(maxsize=256)
def _cutter(count: int) -> struct.Struct:
    return struct.Struct(f"{ID_BYTES}s" * count)


def _dependencies(
    data: bytes, flags: int, position: int, end: int, logical: str, name: str
) -> tuple[tuple[str, ...], tuple[tuple[str, bytes], ...]]:
    """Return the tags and the (dependency, id) pairs, of which those of the tags lie between two positions."""
    tags: tuple[str, ...] = ()
    if position < end:
        tags, position = _read_tags(data, position)
    if flags & NAMED:
        ids, position = _read_named(data, position)
    else:
        names = dependencies(logical, name, tags)
        values = _cutter(_EVERY).unpack_from(data, HEAD.size) + _cutter(len(tags)).unpack_from(data, position)
        ids = tuple(zip(names, values, strict=True))
        position += len(tags) * ID_BYTES
    if position != end:
        raise DecodeError("the payload's lengths do not add up")
    return tags, ids


def _read_tags(data: bytes, position: int) -> tuple[tuple[str, ...], int]:
    (count,) = SHORT.unpack_from(data, position)
    position += SHORT.size
    tags = []
    for _ in range(count):
        (length,) = SHORT.unpack_from(data, position)
        position += 2 + length
        tags.append(data[position - length : position].decode())
    return tuple(tags), position


def _read_named(data: bytes, position: int) -> tuple[tuple[tuple[str, bytes], ...], int]:
    (count,) = SHORT.unpack_from(data, position)
    position += SHORT.size
    ids = []
    for _ in range(count):
        (length,) = SHORT.unpack_from(data, position)
        position += 2 + length
        name = data[position - length : position].decode()
        size = data[position]
        position += 1 + size
        ids.append((name, data[position - size : position]))
    return tuple(ids), position

"""Dictionaries: what the values of one model have in common, kept apart from them.

Theory. A compressor finds what repeats within a body, and in a few hundred bytes little does. What repeats is from one
value of a model to the next: names of fields, spellings of states, beginnings of ids. A *dictionary*, trained on some
stored values of the model, has that, and a body is then written as references into it.

Whoever reads such a body needs the very dictionary it was written with. So a dictionary is named by the digest of its
content, and each body begins with that name, under the envelope's proof. One name stands for one content for ever:
nothing has to be kept in step, a process may keep what it has, and what was damaged or exchanged is not what was named.
Training anew makes another dictionary beside the one before.

Nothing here waits. A body whose dictionary this process does not have is a `DictionaryUnknown`; getting it from where
it is kept, under the envelope's proof as any payload, is the business of a flow.

Layout of a body:

    offset  size
    0       8     the dictionary's digest
    8             a frame of Zstandard that states its content size, and no dictionary id
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any, Final, TypeAlias

from ..errors import DecodeError, DictionaryUnknown, SettingsError
from .compression import damaged, expand_frame, package, too_large

__all__ = ["DIGEST_BYTES", "FINGERPRINT", "LEAST_BODY", "MAX_BYTES", "Dictionaries", "Dictionary", "Shelf", "digest_of"]

DIGEST_BYTES: Final = 8
MAX_BYTES: Final = 112 * 1024
"""How long a dictionary may be; what Zstandard's own tools make at most unless they are told otherwise."""
LEAST_BODY: Final = 64
"""Bodies below this are left alone also where there is a dictionary."""
FINGERPRINT: Final = b"\0zstdict"
"""What stands for a schema in the payload of a dictionary; no codec has the id 0."""

Shelf: TypeAlias = tuple[str, str]
"""Where values keep their dictionaries: the name of the tier, and that of the model or function."""

_MOST_KNOWN: Final = 128
_MOST_MISSED: Final = 1024
_DEFAULT_LEVEL: Final = 3


def digest_of(content: bytes) -> bytes:
    """Return the name of a dictionary."""
    return blake2b(content, digest_size=DIGEST_BYTES, person=b"nc dictionary").digest()


class Dictionary:
    """One dictionary, ready for use by any number of threads.

    Args:
        content: what training made.
        level: how hard its compressor tries.

    Attributes:
        content: the same.
        digest: its name.

    Raises:
        DecodeError: it is longer than `MAX_BYTES`, or no dictionary.
        SettingsError: the package `zstandard` is not installed.
    """

    __slots__ = ("_compressors", "_decompressors", "_level", "_made", "_zstd", "content", "digest")

    def __init__(self, content: bytes, level: int = _DEFAULT_LEVEL) -> None:
        self._zstd = package("zstandard", "zstd")
        if len(content) > MAX_BYTES:
            raise too_large(MAX_BYTES)
        self.content = content
        self.digest = digest_of(content)
        self._level = level
        # A (de)compressor may not be used by two threads at a time. Those that are idle wait here, so that there are no
        # more than were ever at work together, however many threads there are.
        self._compressors: list[Any] = []
        self._decompressors: list[Any] = []
        try:
            self._made = self._zstd.ZstdCompressionDict(content, dict_type=self._zstd.DICT_TYPE_FULLDICT)
            self._made.precompute_compress(level=level)
            # Both halves read the content when they are first used: here, where nobody else does yet.
            self.expand(self.compress(b""), 0)
        except (self._zstd.ZstdError, MemoryError, ValueError) as error:
            raise DecodeError("not a dictionary of Zstandard") from error

    def compress(self, data: bytes) -> bytes:
        """Return the frame of a body."""
        try:
            compressor = self._compressors.pop()
        except IndexError:
            compressor = self._zstd.ZstdCompressor(level=self._level, dict_data=self._made, write_dict_id=False)
        frame: bytes = compressor.compress(data)
        self._compressors.append(compressor)
        return frame

    def expand(self, frame: bytes, limit: int) -> bytes:
        """Return what a frame holds.

        Raises:
            DecodeError: it is damaged, or holds more than `limit` bytes.
        """
        try:
            decompressor = self._decompressors.pop()
        except IndexError:
            decompressor = self._zstd.ZstdDecompressor(dict_data=self._made)
        plain = expand_frame(self._zstd, decompressor, frame, limit)
        self._decompressors.append(decompressor)
        return plain


class Dictionaries:
    """The dictionaries that a process knows, and which of them it writes with.

    Args:
        level: how hard compressors try; None is a level that suits small bodies.
        writes: whether bodies are written with dictionaries; they are read in any case.

    Attributes:
        writes: the same.
    """

    __slots__ = ("_due", "_known", "_level", "_missed", "_newest", "writes")

    def __init__(self, *, level: int | None = None, writes: bool = False) -> None:
        self.writes = writes
        self._level = _DEFAULT_LEVEL if level is None else level
        self._known: dict[bytes, Dictionary] = {}
        self._newest: dict[Shelf, Dictionary] = {}
        self._due: dict[Shelf, float] = {}
        self._missed: dict[bytes, float] = {}

    def made(self, content: bytes) -> Dictionary:
        """Return the dictionary of a content.

        Raises:
            DecodeError: it is none.
            SettingsError: the package `zstandard` is not installed.
        """
        return Dictionary(content, self._level)

    # -- writing -----------------------------------------------------------------------------------------------------

    def newest(self, shelf: Shelf) -> Dictionary | None:
        """Return what values are to be compressed with."""
        return self._newest.get(shelf) if self.writes else None

    def use(self, shelf: Shelf, dictionary: Dictionary | None) -> None:
        """Write values with this dictionary from now on, or with none."""
        if dictionary is None:
            self._newest.pop(shelf, None)
        else:
            self._newest[shelf] = dictionary
            self._learn(dictionary)

    def is_due(self, shelf: Shelf, now: float, interval: float) -> bool:
        """Return whether to look which dictionary is the newest; says so once in each interval."""
        if now < self._due.get(shelf, now):
            return False
        self._due[shelf] = now + interval
        return True

    def forget(self) -> None:
        """Write with no dictionary until somebody has looked again; for whoever has just removed them all."""
        self._newest.clear()
        self._due.clear()

    def pack(self, dictionary: Dictionary, body: bytes) -> bytes:
        """Return the compressed form of a body."""
        return dictionary.digest + dictionary.compress(body)

    # -- reading -----------------------------------------------------------------------------------------------------

    def expand(self, data: bytes, limit: int) -> bytes:
        """Return the body that was compressed.

        Raises:
            DictionaryUnknown: its dictionary is not known here.
            DecodeError: the data is damaged (`corrupt`), or expands to more than `limit` bytes (`too_large`).
        """
        digest = data[:DIGEST_BYTES]
        if len(digest) < DIGEST_BYTES:
            raise damaged("zstd")
        dictionary = self._known.get(digest)
        if dictionary is None:
            raise DictionaryUnknown(digest)
        return dictionary.expand(data[DIGEST_BYTES:], limit)

    def known(self, digest: bytes) -> Dictionary | None:
        """Return the dictionary of this name, if it is known here."""
        return self._known.get(digest)

    def wanted(self, digests: Iterable[bytes], now: float) -> list[bytes]:
        """Return those that are not known, and were not looked for in vain a moment ago; each once."""
        return [
            digest
            for digest in dict.fromkeys(digests)
            if digest not in self._known and now >= self._missed.get(digest, now)
        ]

    def missed(self, digests: Iterable[bytes], until: float) -> None:
        """Note that dictionaries are nowhere to be had; until then nobody looks again."""
        for digest in digests:
            self._missed[digest] = until
        _bound(self._missed, _MOST_MISSED)

    def learn(self, digest: bytes, content: bytes) -> Dictionary:
        """Take in the dictionary that was kept under a name, and return it.

        Raises:
            DecodeError: it is not the one of this name, or cannot be used here.
        """
        if digest_of(content) != digest:
            raise DecodeError("not the dictionary that was named")
        try:
            dictionary = self.made(content)
        except SettingsError as error:
            raise DecodeError(str(error), reason="foreign") from error
        self._learn(dictionary)
        return dictionary

    def _learn(self, dictionary: Dictionary) -> None:
        self._missed.pop(dictionary.digest, None)
        self._known[dictionary.digest] = dictionary
        _bound(self._known, _MOST_KNOWN)


def _bound(held: dict[bytes, Any], most: int) -> None:
    """Let go of what has been held longest; other threads may do so too."""
    pop: Callable[[bytes, None], Any] = held.pop
    for key in list(held)[: max(0, len(held) - most)]:
        pop(key, None)

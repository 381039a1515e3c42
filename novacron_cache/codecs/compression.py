"""Compressors behind one interface, with a bound on what they may expand to.

A payload of a few kilobytes can claim to be many gigabytes, so no length field is trusted: each `expand` stops the
decompressor itself at the limit.
"""

from __future__ import annotations

import threading
import zlib
from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, ClassVar, Final

from ..errors import DecodeError, SettingsError, nearest


class Compression(ABC):
    """One way to make bodies smaller.

    Attributes:
        name: as settings spell it.
        format_id: stable on the wire; 0 is "not compressed".
    """

    name: ClassVar[str]
    format_id: ClassVar[int]

    @abstractmethod
    def compress(self, data: bytes) -> bytes:
        """Return the compressed form."""

    @abstractmethod
    def expand(self, data: bytes, limit: int) -> bytes:
        """Return what was compressed.

        Raises:
            DecodeError: the data is damaged (`corrupt`), or expands to more than `limit` bytes (`too_large`).
        """


def too_large(limit: int) -> DecodeError:
    """Return the error of a body that is longer than it may be."""
    return DecodeError(f"the body is longer than {limit} bytes", reason="too_large")


def damaged(name: str) -> DecodeError:
    """Return the error of a stream that cannot be read."""
    return DecodeError(f"the {name} stream is damaged")


DICTIONARY: Final = 4
"""The id of what `dictionaries` writes: Zstandard again, with a dictionary that the body names."""


class ZlibCompression(Compression):
    """zlib of the standard library; levels 0 to 9."""

    name = "zlib"
    format_id = 1

    def __init__(self, level: int) -> None:
        zlib.compressobj(level)
        self._level = level

    def compress(self, data: bytes) -> bytes:
        """Return a zlib stream."""
        return zlib.compress(data, self._level)

    def expand(self, data: bytes, limit: int) -> bytes:
        """Return what the stream holds."""
        stream = zlib.decompressobj()
        try:
            plain = stream.decompress(data, limit + 1)
        except zlib.error as error:
            raise damaged(self.name) from error
        if len(plain) > limit:
            raise too_large(limit)
        if not stream.eof or stream.unused_data:
            raise damaged(self.name)
        return plain


class ZstdCompression(Compression):
    """Zstandard, by the package `zstandard`; levels -7 to 22."""

    name = "zstd"
    format_id = 2

    def __init__(self, level: int) -> None:
        self._zstd = package("zstandard", self.name)
        self._zstd.ZstdCompressor(level=level)
        self._level = level
        # A (de)compressor of this package may not be used by two threads at a time.
        self._local = threading.local()

    def compress(self, data: bytes) -> bytes:
        """Return one frame that states its content size."""
        compressor = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = self._local.compressor = self._zstd.ZstdCompressor(level=self._level)
        frame: bytes = compressor.compress(data)
        return frame

    def expand(self, data: bytes, limit: int) -> bytes:
        """Return what the frame holds."""
        decompressor = getattr(self._local, "decompressor", None)
        if decompressor is None:
            decompressor = self._local.decompressor = self._zstd.ZstdDecompressor()
        return expand_frame(self._zstd, decompressor, data, limit)


def expand_frame(zstd: Any, decompressor: Any, data: bytes, limit: int) -> bytes:
    """Return what a frame of Zstandard holds.

    Args:
        zstd: the package.
        decompressor: a decompressor of it.
        data: the frame.
        limit: how many bytes it may hold.

    Raises:
        DecodeError: as for `Compression.expand`.
    """
    try:
        # The stated size only sizes the buffer, which the decompressor never outgrows; without one it would be sized by
        # the frame's window, so a frame that states none is not ours.
        size = zstd.frame_content_size(data)
        if size > limit:
            raise too_large(limit)
        if size < 0:
            raise damaged("zstd")
        plain: bytes = decompressor.decompress(data, max_output_size=limit, allow_extra_data=False)
    except (zstd.ZstdError, MemoryError) as error:
        raise damaged("zstd") from error
    return plain


class Lz4Compression(Compression):
    """LZ4 frames, by the package `lz4`; levels up to 2 are the fast kind, 3 to 16 the high-compression one."""

    name = "lz4"
    format_id = 3

    def __init__(self, level: int) -> None:
        self._lz4 = package("lz4.frame", self.name)
        if not -65537 <= level <= 16:
            raise ValueError("lz4 has levels up to 16")
        self._level = level

    def compress(self, data: bytes) -> bytes:
        """Return one frame."""
        frame: bytes = self._lz4.compress(data, compression_level=self._level, store_size=False)
        return frame

    def expand(self, data: bytes, limit: int) -> bytes:
        """Return what the frame holds."""
        stream = self._lz4.LZ4FrameDecompressor()
        try:
            plain: bytes = stream.decompress(data, max_length=limit + 1)
        except (RuntimeError, MemoryError) as error:
            raise damaged(self.name) from error
        if len(plain) > limit:
            raise too_large(limit)
        if not stream.eof or stream.unused_data:
            raise damaged(self.name)
        return plain


_KINDS: dict[str, type[ZlibCompression | ZstdCompression | Lz4Compression]] = {
    kind.name: kind for kind in (ZlibCompression, ZstdCompression, Lz4Compression)
}


def package(module: str, extra: str) -> Any:
    """Return the package of a compressor.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"compression={extra!r} needs the package {module.partition('.')[0]!r}; "
            f"install it with: pip install 'novacron-cache[{extra}]'",
            variable="compression",
        ) from error


def compression_named(name: str, level: int = 6) -> Compression | None:
    """Return the compressor of this name, or None for `"none"`.

    Args:
        name: `none`, `zlib`, `zstd` or `lz4`.
        level: how hard it tries; the range depends on the compressor.

    Raises:
        SettingsError: the name is unknown, its package is not installed, or it has no such level.
    """
    if name == "none":
        return None
    kind = _KINDS.get(name)
    if kind is None:
        raise SettingsError(
            f"compression={name!r}: expected one of {', '.join(map(repr, ('none', *_KINDS)))}{nearest(name, _KINDS)}",
            variable="compression",
        )
    try:
        return kind(level)
    except (ValueError, TypeError, zlib.error) as error:
        raise SettingsError(f"compression_level={level}: {name} refuses it", variable="compression_level") from error


def compression_name(format_id: int) -> str:
    """Return the name of the compressor of this id; empty for none, and for one that is not known here."""
    if format_id == DICTIONARY:
        return f"{ZstdCompression.name}+dictionary"
    return next((name for name, kind in _KINDS.items() if kind.format_id == format_id), "")


def compression_numbered(format_id: int) -> Compression:
    """Return a compressor that can read what the compressor of this id wrote.

    Raises:
        DecodeError: the id is unknown, or its package is not installed here.
    """
    for kind in _KINDS.values():
        if kind.format_id == format_id:
            try:
                return kind(1)
            except SettingsError as error:
                raise DecodeError(str(error), reason="foreign") from error
    raise DecodeError(f"unknown compression {format_id}", reason="foreign")

"""Payloads that are small to send and large, deep or endless to read: each costs a miss and little memory."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lz4.frame
import msgpack
import pytest
import zstandard
from security.witness import Directory, Witness, opened

from novacron_cache import Cache, CachedValueError
from novacron_cache.codecs import MSGPACK, PLAIN_VALUES, Header, Pipeline
from novacron_cache.codecs.packing import MAX_DEPTH, unpack
from novacron_cache.markers import new_id, tag_dep
from novacron_cache.observe.snapshot import MAX_BYTES, Snapshot

STORED = ":~kk"
HUGE = 256 * 2**20
LIMIT = 2**20

BOMBS: dict[str, tuple[int, Callable[[], bytes]]] = {
    "zlib": (1, lambda: zlib.compress(bytes(HUGE), 9)),
    "zstd": (2, lambda: zstandard.ZstdCompressor(19).compress(bytes(HUGE))),
    "zstd without a size": (2, lambda: zstandard.ZstdCompressor(19, write_content_size=False).compress(bytes(HUGE))),
    "lz4": (3, lambda: lz4.frame.compress(bytes(HUGE), store_size=False)),
    "lz4 that states its size": (3, lambda: lz4.frame.compress(bytes(HUGE), store_size=True)),
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "cache")


@pytest.fixture
def cache(store: Directory) -> Iterator[Cache]:
    with opened(store, max_decoded_bytes=LIMIT) as cache:
        cache.set("k", 1)
    with opened(store, max_decoded_bytes=LIMIT) as cache:
        yield cache


def sealed(store: Directory, body: bytes, method: int = 0, tags: tuple[str, ...] = ()) -> bytes:
    """Return the payload of a body, its checksum right, as somebody makes it who knows the format."""
    real = store.read(STORED)
    header, _ = Pipeline(namespace="shop").open(STORED, real, logical="k")
    header.tags, header.ids = tags, (*header.ids, *((tag_dep(tag), new_id()) for tag in tags))
    payload = Pipeline(namespace="shop", max_decoded_bytes=2**40).seal(STORED, header, body)
    content = payload[:4] + bytes([method]) + payload[5:-4]
    prefix = b"".join(len(text).to_bytes(4, "big") + text for text in (b"shop", STORED.encode()))
    return content + zlib.crc32(content, zlib.crc32(prefix)).to_bytes(4, "little")


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_of_any_compressor_is_a_miss_that_costs_no_more_than_the_limit(
    store: Directory, cache: Cache, bomb: str
) -> None:
    method, made = BOMBS[bomb]
    payload = sealed(store, made(), method)
    assert len(payload) < 2 * LIMIT
    store.write(STORED, payload)
    witness = Witness(cache)
    tracemalloc.start()
    try:
        assert cache.get_or_load("k", lambda: "loaded") == "loaded"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * LIMIT
    witness.refused("disk", "corrupt" if "without" in bomb else "too_large", alert=False)


def test_a_body_that_is_too_large_as_it_is_is_a_miss(store: Directory, cache: Cache) -> None:
    store.write(STORED, sealed(store, bytes(LIMIT + 1)))
    witness = Witness(cache)
    assert cache.get_or_load("k", lambda: "loaded") == "loaded"
    witness.refused("disk", "too_large", alert=False)


def nested(depth: int, code: int = 1) -> bytes:
    """Return the bytes of a tuple in a tuple in a tuple."""
    data: bytes = msgpack.packb(1)
    for _ in range(depth):
        data = msgpack.packb(msgpack.ExtType(code, b"\x91" + data))
    return data


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 300, 5_000])
def test_tuples_in_tuples_end_no_process(store: Directory, cache: Cache, depth: int) -> None:
    store.write(STORED, sealed(store, nested(depth)))
    witness = Witness(cache)
    assert cache.get_or_load("k", lambda: "loaded") == "loaded"
    assert [event.reason for event in witness.events if event.kind == "miss"] == ["schema"]


@pytest.mark.parametrize("code", [1, 2, 3])
def test_no_kind_of_container_is_read_too_deep(code: int) -> None:
    assert unpack(nested(MAX_DEPTH, 1))
    with pytest.raises(ValueError, match="deep in one another"):
        unpack(nested(MAX_DEPTH + 1, code))


@pytest.mark.parametrize("make", [lambda value: (value,), lambda value: frozenset([value])], ids=["tuple", "frozenset"])
def test_what_is_written_can_be_read_however_deep_it_is(make: Callable[[Any], Any]) -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = make(value)
    assert PLAIN_VALUES.load(None, PLAIN_VALUES.dump(None, value)) == value
    with pytest.raises(CachedValueError, match="nested too deeply"):
        PLAIN_VALUES.dump(None, make(value))


@pytest.mark.parametrize(
    "data",
    [b"\x91" * 100_000, b"\x81\xa1a" * 100_000, *(bytes([code]) + b"\xff" * 4 for code in (0xDD, 0xDF, 0xC6))],
    ids=["lists", "maps", "a list of four billion", "a map of them", "four billion bytes"],
)  # fmt: skip
def test_lengths_that_lie_and_endless_nesting_are_errors_of_the_decoder(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Exception, match=r".*"):
            MSGPACK.load(None, data)  # type: ignore[arg-type]  # it fails before it looks at the type
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_lengths_in_the_envelope_that_lie_are_a_miss(store: Directory, cache: Cache) -> None:
    for position in (13, 14, 68, 70):  # that of all that says the tags, how many these are, that of the first
        payload = bytearray(sealed(store, b"\x01", tags=("some", "others")))
        assert not payload[position]
        payload[position : position + 2] = b"\xff\xff"
        content = bytes(payload[:-4])
        prefix = b"".join(len(text).to_bytes(4, "big") + text for text in (b"shop", STORED.encode()))
        store.write(STORED, content + zlib.crc32(content, zlib.crc32(prefix)).to_bytes(4, "little"))
        with opened(store) as fresh:
            witness = Witness(fresh)
            assert fresh.get_or_load("k", lambda: "loaded") == "loaded"
            witness.refused("disk", "corrupt", alert=False)
        store.write(STORED, sealed(store, b"\x01"))


def test_figures_of_a_process_are_unpacked_up_to_a_bound() -> None:
    bomb = zlib.compress(b" " * (4 * MAX_BYTES) + json.dumps({"v": 1}).encode(), 9)
    tracemalloc.start()
    try:
        assert Snapshot.decode(bomb) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_BYTES


def test_a_value_that_is_too_large_is_not_even_written() -> None:
    pipeline = Pipeline(namespace="shop", max_decoded_bytes=10)
    with pytest.raises(CachedValueError, match="more than max_decoded_bytes=10"):
        pipeline.seal(STORED, Header(b"f" * 8, 0.0, 1.0, 1.0), bytes(11))

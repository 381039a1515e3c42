"""Payloads of a batch that nobody should believe: each is asked for again or loaded, and the others are served."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import pytest
from flows.batches import KEYS, Batch
from flows.harness import (
    Fetch,
    MemoryTier,
)

from novacron_cache.events import Corrupt
from novacron_cache.keys import stored_text_key


def test_one_that_is_damaged_is_loaded_and_reported_and_the_others_are_served(batch: Batch, shared: MemoryTier) -> None:
    entry = shared.lookup(stored_text_key("disk", "d:b"))
    assert entry is not None
    whole = entry.value

    def other_at(index: int) -> bytes:  # a byte put there may be the one that was there: some are drawn by chance
        return whole[:index] + bytes([whole[index] ^ 2]) + whole[index + 1 :]

    for damaged in (whole[:-1], whole[:30], other_at(90), other_at(len(whole) - 5), b"", b"something else"):
        entry = shared.lookup(stored_text_key("disk", "d:b"))
        assert entry is not None
        entry.value = damaged
        assert batch.read() == batch.current
        assert batch.loads == ["d:b"]
        assert batch.read() == batch.current
        assert batch.loads == []
    assert {event.key for event in batch.process.seen(Corrupt)} == {"d:b"}


@pytest.mark.parametrize("flags", [0, 1, 8, 9])
@pytest.mark.parametrize("length", [1, 15, 16, 48, 56, 60, 63, 67])
def test_one_that_ends_before_it_should_is_not_believed_though_its_checksum_is_right(
    batch: Batch, shared: MemoryTier, length: int, flags: int
) -> None:
    key = stored_text_key("disk", "d:b")
    entry = shared.lookup(key)
    assert entry is not None
    checksum = 0
    for text in ("test", key):
        checksum = crc32(len(text).to_bytes(4, "big") + text.encode(), checksum)
    whole = entry.value[:3] + bytes([flags]) + entry.value[4:]
    if flags == 9:  # a None of which less than all of its times is there
        whole = whole[:62] + b"\xff" * 10
    entry.value = whole[:length] + crc32(whole[:length], checksum).to_bytes(4, "little")
    assert batch.read() == batch.current
    assert batch.loads == ["d:b"]


def test_what_is_no_bytes_is_asked_for_again(batch: Batch) -> None:
    perform = batch.process.ways[0].perform

    def odd(operation: Any) -> Any:
        answer = perform(operation)
        if isinstance(operation, Fetch) and len(answer.payloads) == len(KEYS):
            answer.payloads[:3] = [5, ["x"], "text"]
        return answer

    batch.process.ways[0].perform = odd
    assert batch.read() == batch.current
    assert batch.loads == []
    assert len(batch.fetched) == 2


def test_a_payload_that_belongs_to_another_key_is_not_served(batch: Batch, shared: MemoryTier) -> None:
    a, b = (shared.lookup(stored_text_key("disk", key)) for key in ("d:a", "d:b"))
    assert a is not None
    assert b is not None
    b.value = a.value
    assert batch.read() == batch.current
    assert batch.loads == ["d:b"]

"""What is skimmed off a payload is what opening it gives; what cannot be opened cannot be skimmed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novacron_cache.codecs import TAGS_AT, Header, make_pipeline, packed_time, read_ids, read_tags, read_times
from novacron_cache.errors import DecodeError
from novacron_cache.markers import ID_BYTES, dependencies

FINGERPRINT = b"\x01schema1"
KEY = "disk:<é>"
PIPELINES = {
    "plain": make_pipeline(namespace="one"),
    "signed": make_pipeline(namespace="one", signing_keys=[b"secret", b"old"]),
    "compressed": make_pipeline(namespace="one", compression="zlib", compression_min_bytes=1, max_decoded_bytes=5000),
    "another namespace": make_pipeline(namespace="two"),
    "another key": make_pipeline(namespace="one", signing_keys=[b"other"]),
}


def sealed(pipeline: str, *, tags: tuple[str, ...] = ("a", "pool:é"), body: bytes | None = b'{"x":1}' * 9) -> bytes:
    ids = tuple((dep, bytes([place]) * ID_BYTES) for place, dep in enumerate(dependencies("d:1", "disk", tags)))
    header = Header(FINGERPRINT, 1000.5, 2000.25, 3000.125, ids, tags, body is None)
    return PIPELINES[pipeline].seal(KEY, header, body)


def agree(reader: str, payload: bytes, key: str = KEY) -> bool:
    """Compare what two readers say, and return whether the payload was skimmed."""
    pipeline = PIPELINES[reader]
    skimmer = pipeline.skimmer(FINGERPRINT)
    skimmed = skimmer.skim(key, payload)
    whole = skimmer.whole([KEY, key, key], [b"", payload, b"something else"])
    assert whole[::2] == [False, False]
    try:
        header, body = pipeline.open(key, payload, logical="d:1", name="disk", fingerprint=FINGERPRINT)
    except DecodeError:
        assert skimmed is None or read_tags(payload[TAGS_AT : skimmed[1]]) is None
        return False
    assert whole[1]
    if skimmed is None:
        return False
    expires, end, found = skimmed
    assert packed_time(header.expires - 0.0015) < expires == packed_time(header.expires)
    assert read_times(payload) == (header.created, header.expires, header.stale_until)
    assert (found is None) == header.is_none
    assert (found or b"") == body
    tags = read_tags(payload[TAGS_AT:end])
    assert tags is not None
    assert tags[0] == header.tags
    assert read_ids(payload) + tags[1] == tuple(marker_id for _, marker_id in header.ids)
    return True


@pytest.mark.parametrize("pipeline", ["plain", "signed", "compressed"])
@pytest.mark.parametrize("tags", [(), ("a",), ("a", "pool:é", "a")])
@pytest.mark.parametrize("body", [None, b"", b"{}", b"x" * 4000])
def test_what_is_whole_is_read(pipeline: str, tags: tuple[str, ...], body: bytes | None) -> None:
    for _ in range(2):
        assert agree(pipeline, sealed(pipeline, tags=tags, body=body))


@pytest.mark.parametrize("writer", PIPELINES)
@pytest.mark.parametrize("reader", PIPELINES)
def test_only_those_who_could_open_it_read_it(writer: str, reader: str) -> None:
    same = {"plain", "compressed"}
    assert agree(reader, sealed(writer)) == (reader == writer or {reader, writer} == same)


def test_another_key_or_schema_is_not_read() -> None:
    payload = sealed("plain")
    assert PIPELINES["plain"].skimmer(FINGERPRINT).skim(KEY, payload) is not None
    assert PIPELINES["plain"].skimmer(FINGERPRINT).skim(KEY + "x", payload) is None
    assert PIPELINES["plain"].skimmer(b"\x01schema2").skim(KEY, payload) is None
    assert PIPELINES["plain"].skimmer(FINGERPRINT).skim("\ud800", payload) is None


def test_a_body_that_is_too_long_is_not_read() -> None:
    small = make_pipeline(namespace="one", max_decoded_bytes=10)
    assert small.skimmer(FINGERPRINT).skim(KEY, sealed("plain")) is None
    assert small.skimmer(FINGERPRINT).skim(KEY, sealed("compressed", body=b"x" * 1000)) is None


def test_names_that_are_spelled_out_are_left_to_the_other_reader() -> None:
    header = Header(FINGERPRINT, 1.0, 2.0, 3.0, (("odd", b"i" * ID_BYTES),) * 7, ("a", "b"))
    payload = PIPELINES["plain"].seal(KEY, header, b"{}")
    assert PIPELINES["plain"].skimmer(FINGERPRINT).skim(KEY, payload) is None


@given(
    pipeline=st.sampled_from(["plain", "signed", "compressed"]),
    edits=st.lists(st.tuples(st.integers(0, 220), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 300),
    more=st.binary(max_size=4),
)
def test_damage_is_never_read(pipeline: str, edits: list[tuple[int, int]], cut: int, more: bytes) -> None:
    whole = sealed(pipeline)
    data = bytearray(whole[:cut] if cut < 250 else whole)
    for position, value in edits:
        if position < len(data):
            data[position] = value
    payload = bytes(data) + more
    assert agree(pipeline, payload) == (payload == whole)


@pytest.mark.parametrize("data", [5, [1], True, "x", None, 1.5])
def test_what_is_no_bytes_is_not_read(data: object) -> None:
    assert PIPELINES["plain"].skimmer(FINGERPRINT).skim(KEY, data) is None  # type: ignore[arg-type]  # what a server may say


@given(st.binary(max_size=40))
def test_text_that_is_no_tags_is_none(text: bytes) -> None:
    found = read_tags(text)
    if found is not None and text:
        named = b"".join(len(tag.encode()).to_bytes(2, "big") + tag.encode() for tag in found[0]) + b"".join(found[1])
        assert len(found[0]).to_bytes(2, "big") + len(named).to_bytes(4, "big") + named == text

"""Payloads written by released versions: they can be read for ever, and the same value is still written the same way.

One file for each example lies in `tests/golden`. They are never rewritten: when one no longer matches, entries in
running caches no longer match either, and the format needs a new version number beside the old one. A new format gets a
new example: add it to `EXAMPLES`, then write what is missing (and nothing else) with

    python tests/unit/test_golden.py
"""

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from novacron_cache.codecs import JSON, MSGPACK, PICKLE, Codec, Dictionary, Header, Pipeline
from novacron_cache.codecs.sameness import difference
from novacron_cache.keys import dictionary_key
from novacron_cache.markers import dependencies
from novacron_cache.schema import Schema, plain_schema

GOLDEN = Path(__file__).parents[1] / "golden"
KEY, LOGICAL, NAME, TAGS = "VMState~vm:<s~vm-1>", "vm:vm-1", "VMState", ("node:n-7", "größe:xl")
DEPS = dependencies(LOGICAL, NAME, TAGS)
SIGNING_KEY = bytes(range(32))
DICTIONARY, DIGEST = "dictionary-signed", bytes.fromhex("eeafd2874a051775")

DECLARED = dict[str, tuple[int | None, float, bytes, datetime]]
VALUE: Any = {
    "first": (1, 0.5, b"\x00\xff", datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)),
    "größe": (None, -1e300, b"", datetime(1999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-5)))),
} | {f"vm-{number}": (number, float("inf"), b"x" * 20, datetime(2026, 1, 1, tzinfo=UTC)) for number in range(25)}

PLAIN: Any = {
    "scalars": [None, True, 2**63, -(2**70), 1.5, "größe", b"\xff"],
    "containers": ((1, 2), {3}, frozenset({"a"}), {(1, "a"): {}}),
    "times": [
        datetime.fromisoformat("2026-01-02T03:04:05.678901"),
        datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        time(1, 2, 3, 4, timezone(timedelta(hours=2), "CEST")),
        date(2026, 1, 2),
        timedelta(-3, 4, 5),
    ],
    "others": (Decimal("1.10"), UUID(int=2**100)),
}


class Example(NamedTuple):
    schema: Schema[Any]
    value: Any
    options: dict[str, Any]
    exact: bool = True
    """Whether the bytes are always the same; a compressor or pickle of another version may write other ones."""
    dictionary: bool = False
    """Whether it is compressed with the dictionary of the file `dictionary-signed`."""


def declared(codec: Codec) -> Schema[Any]:
    return Schema.of(DECLARED, codec=codec)


SIGNED = {"signing_keys": [SIGNING_KEY]}
EXAMPLES = {
    "json": Example(declared(JSON), VALUE, {}),
    "json-signed": Example(declared(JSON), VALUE, SIGNED),
    "json-zlib": Example(declared(JSON), VALUE, {"compression": "zlib"}, exact=False),
    "json-zstd-signed": Example(declared(JSON), VALUE, {"compression": "zstd", **SIGNED}, exact=False),
    "json-lz4": Example(declared(JSON), VALUE, {"compression": "lz4"}, exact=False),
    "json-none": Example(declared(JSON), None, {}),
    "msgpack": Example(declared(MSGPACK), VALUE, {}),
    "msgpack-zlib-signed": Example(declared(MSGPACK), VALUE, {"compression": "zlib", **SIGNED}, exact=False),
    "pickle-signed": Example(declared(PICKLE), VALUE, SIGNED, exact=False),
    "pickle-zlib-signed": Example(declared(PICKLE), VALUE, {"compression": "zlib", **SIGNED}, exact=False),
    "plain": Example(plain_schema(), PLAIN, {}),
    "json-dictionary": Example(declared(JSON), VALUE, {}, exact=False, dictionary=True),
    "json-dictionary-signed": Example(declared(JSON), VALUE, SIGNED, exact=False, dictionary=True),
    "plain-zlib-signed": Example(plain_schema(), PLAIN, {"compression": "zlib", "min_bytes": 1, **SIGNED}, exact=False),
}


def header(example: Example) -> Header:
    return Header(
        # The real fingerprint depends on pydantic's version; the format does not.
        fingerprint=bytes([example.schema.codec.format_id]) + b"goldenv",
        created=1_700_000_000.125,
        expires=1_700_000_030.0,
        stale_until=1_700_000_090.5,
        ids=tuple((dep, bytes([number]) * 8) for number, dep in enumerate(DEPS)),
        tags=TAGS,
        is_none=example.value is None,
    )


def written(example: Example) -> bytes:
    body = None if example.value is None else example.schema.encode(example.value)
    dictionary = Dictionary(dictionary_content()) if example.dictionary else None
    return Pipeline(namespace="golden", **example.options).seal(KEY, header(example), body, dictionary)


def dictionary_content() -> bytes:
    """Return the content of the golden dictionary, which lies under its own name."""
    pipeline = Pipeline(namespace="golden", signing_keys=[SIGNING_KEY])
    _, content = pipeline.open(dictionary_key(DIGEST), golden(DICTIONARY), fingerprint=b"\0zstdict")
    return content


def written_dictionary() -> bytes:
    """Return another dictionary; its name then belongs above, as `DIGEST`."""
    import zstandard

    samples = [EXAMPLES["json"].schema.encode({f"vm-{n}": VALUE["vm-1"], "first": VALUE["first"]}) for n in range(200)]
    content = zstandard.train_dictionary(1024, samples).as_bytes()
    pipeline = Pipeline(namespace="golden", signing_keys=[SIGNING_KEY])
    times = Header(b"\0zstdict", 1_700_000_000.125, 1_702_592_000.0, 1_702_592_000.0)
    return pipeline.seal(dictionary_key(Dictionary(content).digest), times, content)


def path(name: str) -> Path:
    return GOLDEN / f"{name}-v2.bin"


def golden(name: str) -> bytes:
    if not path(name).exists():
        pytest.fail(f"{path(name).name} is missing; if this example is new, run: python tests/unit/test_golden.py")
    return path(name).read_bytes()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_payload_of_version_2_is_read(name):
    example = EXAMPLES[name]
    pipeline = Pipeline(namespace="golden", **example.options)
    if example.dictionary:
        pipeline.dictionaries.learn(DIGEST, dictionary_content())
    got, body = pipeline.open(KEY, golden(name), logical=LOGICAL, name=NAME)
    assert got == header(example)
    if example.value is None:
        assert body == b""
    else:
        assert difference(example.value, example.schema.decode(body)) is None


@pytest.mark.parametrize("name", [name for name, example in EXAMPLES.items() if example.exact])
def test_the_same_value_is_written_in_the_same_bytes(name):
    assert written(EXAMPLES[name]) == golden(name)


def test_a_dictionary_of_version_2_is_what_its_name_says():
    content = dictionary_content()
    assert Dictionary(content).digest == DIGEST
    assert golden("json-dictionary")[4] == 4
    assert DIGEST in golden("json-dictionary")


def test_every_golden_file_has_an_example():
    assert {each.name for each in GOLDEN.glob("*.bin")} == {path(name).name for name in (*EXAMPLES, DICTIONARY)}


def test_fingerprints_of_released_schemas_do_not_move():
    """A moved fingerprint turns every stored entry into a miss, in every running application, at the next deploy."""
    assert plain_schema().fingerprint.hex() == "0437a8c40abdfb9d"
    assert Schema.of(dict[str, int], codec=JSON).fingerprint.hex() == "010a89be2069ef0c"


if __name__ == "__main__":
    if not path(DICTIONARY).exists():
        with path(DICTIONARY).open("xb") as file:
            file.write(written_dictionary())
    for name, example in EXAMPLES.items():
        if not path(name).exists():
            with path(name).open("xb") as file:
                file.write(written(example))

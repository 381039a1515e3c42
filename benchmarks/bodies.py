"""Values to bytes and back: what a codec costs, how long the bytes are, and what surrounds them.

The limit is pydantic-core called directly, which is what the default codec is bound to. The small value is that of the
other areas; the large one is a list of forty of them.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

import msgpack
import zstandard
from l2_world import Machine, machine
from measuring import LIMIT, OURS, Area, Case, Contender, Effort, Figure, Row, compare_each, inverse, own
from pydantic import BaseModel

from novacron_cache.codecs import Dictionary, Header, Pipeline, codec_named
from novacron_cache.schema import Schema

SMALL = machine("m-7")
MANY = 40


class Rack(BaseModel, frozen=True):
    machines: tuple[Machine, ...]


LARGE = Rack(machines=tuple(machine(f"m-{number}") for number in range(MANY)))
Write = Callable[[Any], bytes]
Read = Callable[[bytes], Any]


def _writes(write: Write, value: Any, count: int) -> float:
    start = perf_counter_ns()
    for _ in range(count):
        write(value)
    return (perf_counter_ns() - start) / count


def _reads(read: Read, data: bytes, count: int) -> float:
    start = perf_counter_ns()
    for _ in range(count):
        read(data)
    return (perf_counter_ns() - start) / count


def _contender(name: str, make: Callable[[type[Any]], tuple[Write, Read]], value: Any, note: str) -> Contender:
    def start() -> tuple[Callable[[], Sequence[float]], Callable[[], None]]:
        write, read = make(type(value))
        data = write(value)
        count = max(20, 60_000 // len(data))
        writes, reads = own(_writes), own(_reads)

        def check() -> None:
            if read(data) != value:
                raise AssertionError("the value did not come back")

        return lambda: (writes(write, value, count), reads(read, data, count)), check

    return Contender(name, start, note)


def _core(model: type[Any]) -> tuple[Write, Read]:
    return model.__pydantic_serializer__.to_json, model.__pydantic_validator__.validate_json


def _methods(model: type[Any]) -> tuple[Write, Read]:
    return lambda value: value.model_dump_json().encode(), model.model_validate_json


def _msgpack(model: type[Any]) -> tuple[Write, Read]:
    return (
        lambda value: msgpack.packb(value.model_dump(mode="json")),
        lambda data: model.model_validate(msgpack.unpackb(data)),
    )


def _pickle(model: type[Any]) -> tuple[Write, Read]:
    return pickle.dumps, pickle.loads


def _ours(codec: str) -> Callable[[type[Any]], tuple[Write, Read]]:
    def make(model: type[Any]) -> tuple[Write, Read]:
        schema: Schema[Any] = Schema.of(model, codec=codec_named(codec))
        return schema.encode, schema.decode

    return make


def _dictionary(level: int) -> Dictionary:
    """Return a dictionary of stored machines, of which the measured one is none."""
    schema: Schema[Any] = Schema.of(Machine, codec=codec_named("json"))
    bodies = [schema.encode(machine(f"m-{number}")) for number in range(1000, 1800)]
    return Dictionary(zstandard.train_dictionary(16_384, bodies).as_bytes(), level)


def _sealed(*, trained: bool = False, **options: Any) -> Callable[[type[Any]], tuple[Write, Read]]:
    def make(model: type[Any]) -> tuple[Write, Read]:
        schema: Schema[Any] = Schema.of(model, codec=codec_named("json"))
        pipeline = Pipeline(namespace="bench", **options)
        dictionary = _dictionary(options["level"]) if trained else None
        if dictionary is not None:
            pipeline.dictionaries.learn(dictionary.digest, dictionary.content)
        deps = tuple((name, bytes(12)) for name in ("n:", "k:machine:m-7", "m:Machine", "t:rack:r-7"))

        def write(value: Any) -> bytes:
            header = Header(schema.fingerprint, 1.8e9, 1.8e9 + 600, 1.8e9 + 600, deps, ("rack:r-7",))
            return pipeline.seal("Machine:m-7", header, schema.encode(value), dictionary)

        def read(data: bytes) -> Any:
            _, body = pipeline.open(
                "Machine:m-7", data, logical="machine:m-7", name="Machine", fingerprint=schema.fingerprint
            )
            return schema.decode(body)

        return write, read

    return make


CONTENDERS: tuple[tuple[str, Callable[[type[Any]], tuple[Write, Read]], str], ...] = (
    (LIMIT, _core, "pydantic-core's to_json and validate_json"),
    (OURS, _ours("json"), "json, the default; whether it is exactly of its type is checked as well"),
    (f"{OURS}, msgpack", _ours("msgpack"), ""),
    ("pydantic", _methods, "model_dump_json, model_validate_json"),
    ("msgpack", _msgpack, "of model_dump, and model_validate"),
    ("pickle", _pickle, "what most peers store; runs code when it is read"),
    (f"{OURS}, payload", _sealed(), "with ids, tags, times, checksum"),
    (f"{OURS}, signed", _sealed(signing_keys=[b"0123456789abcdef"]), "payload with HMAC-SHA256"),
)

COMPRESSED: tuple[tuple[str, Callable[[type[Any]], tuple[Write, Read]], str], ...] = (
    (f"{OURS}, zlib", _sealed(compression="zlib"), "payload"),
    (f"{OURS}, zstd", _sealed(compression="zstd", level=3), "payload"),
    (f"{OURS}, lz4", _sealed(compression="lz4"), "payload"),
)

SHORT: tuple[tuple[str, Callable[[type[Any]], tuple[Write, Read]], str], ...] = (
    (f"{OURS}, zlib", _sealed(compression="zlib", min_bytes=0), "payload, with compression_min_bytes=0"),
    (f"{OURS}, zstd", _sealed(compression="zstd", level=3, min_bytes=0), "payload, with compression_min_bytes=0"),
    (f"{OURS}, zstd, dictionary", _sealed(compression="zstd", level=3, trained=True), "payload, trained on 800 others"),
)


def run(effort: Effort) -> Area:
    """Measure codecs."""
    cases: list[Case] = []
    figures: list[Figure] = []
    # What is shorter than 1,024 bytes is not compressed unless one says so, or there is a dictionary.
    both = (("one model", SMALL, (*CONTENDERS, *SHORT)), (f"a model of {MANY}", LARGE, (*CONTENDERS, *COMPRESSED)))
    for what, value, contenders in both:
        encode, decode = compare_each(
            [f"encode {what}", f"decode {what}"],
            [_contender(name, make, value, note) for name, make, note in contenders],
            rounds=effort.of(100, 10, 1),
        )
        lengths = Case(f"bytes of {what}", unit="bytes")
        least = len(_core(type(value))[0](value))
        for name, make, note in contenders:
            if encode.row(name).failed is None:
                length = len(make(type(value))[0](value))
                lengths.rows.append(Row(name, length, length / least, length / least, note))
        cases += [encode, decode, lengths]
        figures += [
            Figure(f"encode {what} / pydantic-core", encode.row(OURS).ratio, None, 1.1),
            Figure(f"decode {what} / pydantic-core", inverse(decode.row(LIMIT).ours), None, 1.1),
        ]
    return Area("bodies", cases, figures)

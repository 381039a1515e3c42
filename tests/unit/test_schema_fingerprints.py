"""Schemas: a type that has changed has another fingerprint, and one that has not has the same everywhere."""

import enum
import functools
import os
import pathlib
import re
import subprocess
import sys
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, Field, create_model
from unit.kinds import CODECS, Disk, model

from novacron_cache.codecs import JSON, MSGPACK, PICKLE
from novacron_cache.schema import Schema, _Canon, plain_schema


def fingerprint(declared: Any, codec: Any = JSON, salt: bytes = b"") -> bytes:
    return Schema.of(declared, codec=codec, salt=salt).fingerprint


def test_a_fingerprint_is_eight_bytes_and_begins_with_the_codecs_id():
    assert {len(fingerprint(Disk, codec)) for codec in CODECS} == {8}
    assert [fingerprint(Disk, codec)[0] for codec in CODECS] == [1, 2, 3]


BASE = {"a": (int, ...), "b": (tuple[model(x=(int, 1)), ...], ())}


@pytest.mark.parametrize(
    "changed",
    [
        {**BASE, "c": (int, 1)},
        {"a": BASE["a"]},
        {"renamed": BASE["a"], "b": BASE["b"]},
        {**BASE, "a": (str, ...)},
        {**BASE, "a": (int | None, ...)},
        {**BASE, "b": (tuple[model(x=(float, 1)), ...], ())},
        {**BASE, "b": (tuple[model(x=(int, 1), y=(int, 1)), ...], ())},
        {**BASE, "b": (list[model(x=(int, 1))], ())},
    ],
    ids=["added", "removed", "renamed", "retyped", "optional", "nested retyped", "nested added", "container"],
)
def test_a_changed_field_changes_the_fingerprint(changed):
    assert fingerprint(model(**changed)) != fingerprint(model(**BASE))


@pytest.mark.parametrize(
    "same",
    [
        dict(BASE),
        {**BASE, "a": (int, Field(description="documented", title="A"))},
        {**BASE, "a": (int, Field(alias="A"))},
        {**BASE, "b": (BASE["b"][0], (1, 2))},
    ],
    ids=["rebuilt", "documented", "aliased", "another default"],
)
def test_what_the_wire_does_not_carry_leaves_the_fingerprint(same):
    assert fingerprint(model(**same)) == fingerprint(model(**BASE))


def test_codec_salt_and_class_are_part_of_the_fingerprint():
    other = create_model("Other", **BASE)
    prints = [
        fingerprint(model(**BASE)), fingerprint(model(**BASE), salt=b"2"), fingerprint(other),
        fingerprint(model(**BASE), MSGPACK), fingerprint(model(**BASE), PICKLE), plain_schema().fingerprint,
    ]  # fmt: skip
    assert len(set(prints)) == len(prints)


def test_an_enum_with_another_member_has_another_fingerprint():
    one, two = (enum.Enum("Same", members, module=__name__) for members in ({"A": "a"}, {"A": "b"}))
    assert fingerprint(one) != fingerprint(two)


_PRINT = """
import enum, re
from typing import Annotated, Any, Literal
from pydantic import BaseModel, AfterValidator, Field
from novacron_cache.codecs import JSON
from novacron_cache.schema import Schema

class E(enum.Enum):
    A = frozenset({"x", "y", "zz"})

class Leaf(BaseModel):
    a: Literal["p", "q", 3] = "p"
    b: Annotated[str, Field(pattern="a+")] = ""
    e: E = E.A

class Tree(BaseModel):
    leaf: Leaf
    leaves: dict[str, Leaf]
    trees: "list[Tree]"
    call: Annotated[int, AfterValidator(lambda v: v)]
    any: Any
    either: int | Leaf | None

print(Schema.of(Tree, codec=JSON).fingerprint.hex(), Schema.of(list[Tree], codec=JSON).fingerprint.hex())
"""


def test_a_fingerprint_is_the_same_in_every_process_and_under_every_hash_seed():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", _PRINT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=pathlib.Path(__file__).parents[2],
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) == 34


def test_how_a_type_is_checked_is_part_of_the_fingerprint():
    def limited(function, low):
        return Annotated[int, AfterValidator(functools.partial(function, low))]

    def at_least(low, value):
        return max(low, value)

    def at_most(high, value):
        return min(high, value)

    assert fingerprint(limited(at_least, 1)) != fingerprint(limited(at_most, 1))
    patterns = [
        Annotated[str, Field(pattern=re.compile(text, flags))]
        for text, flags in (("a+", 0), ("b+", 0), ("a+", re.IGNORECASE))
    ]
    assert len({fingerprint(one) for one in patterns}) == 3
    assert fingerprint(patterns[0]) == fingerprint(Annotated[str, Field(pattern=re.compile("a+"))])


def test_a_set_in_a_schema_is_described_in_an_order_of_its_own():
    one, two = ({"type": "x", "names": {*names}} for names in (["a", "b", "c"], ["c", "b", "a"]))
    assert _Canon().of(one) == _Canon().of(two) != _Canon().of({"type": "x", "names": {"a", "b"}})
    color = enum.Enum("Color", {"RED": 1, "BLUE": 2}, module=__name__)
    assert _Canon().of(color.RED) != _Canon().of(color.BLUE)

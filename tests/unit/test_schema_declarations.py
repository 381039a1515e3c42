"""Schemas: a type that could not be cached is refused at its declaration, and a value of another type at its load."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterable
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    AfterValidator,
    AliasGenerator,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    Secret,
    SecretBytes,
    SecretStr,
)
from unit.kinds import (
    Bigger,
    Disk,
    Halved,
    Hidden,
    Loose,
    Options,
    Page,
    Permission,
    Point,
    Status,
    Tree,
    Upper,
    Zone,
    every,
    model,
)

from novacron_cache.codecs import JSON, MSGPACK
from novacron_cache.errors import CachedValueError, SchemaError
from novacron_cache.schema import Schema

# -- declarations ------------------------------------------------------------------------------------------------------


class Plain:
    pass


class WithArbitrary(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: Plain


@dataclasses.dataclass
class WithInitVar:
    a: int
    b: dataclasses.InitVar[int]


class Crossed(BaseModel):
    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda name: f"in_{name}", serialization_alias=str.upper)
    )
    name: str


BAD: dict[str, tuple[Any, str]] = {
    "SecretStr": (model(password=(SecretStr, ...)), r"Vm\.password is a secret.*leave it out, or declare str or bytes"),
    "SecretBytes": (model(token=(SecretBytes | None, None)), r"Vm\.token is a secret"),
    "Secret": (list[Secret[int]], r"is a secret"),
    "nested secret": (dict[str, list[model(pin=(SecretStr, ...))]], r"Vm\.pin is a secret"),
    "exclude": (model(a=(int, Field(1, exclude=True))), r"Vm\.a has exclude=True.*drop exclude"),
    "exclude_if": (model(a=(int, Field(1, exclude_if=lambda a: a == 1))), r"Vm\.a has exclude_if"),
    "asymmetric aliases": (
        model(a=(int, Field(validation_alias="x", serialization_alias="y"))), r"Vm\.a is written as 'y'.* read as 'x'",
    ),
    "asymmetric generator": (Crossed, r"Crossed\.name is written as 'NAME' but read as 'in_name'"),
    "iterator": (Iterable[int], r"is an iterator.*declare list\[\.\.\.\]"),
    "iterator field": (model(rows=(Iterable[int], ...)), r"Vm\.rows is an iterator"),
    "function": (model(call=(Callable[[], int], ...)), r"Vm\.call is a function"),
    "class": (type[int], "is a class.*cache its name"),
    "arbitrary class": (Plain, "Plain cannot be cached:.*make it a pydantic model, a dataclass or a TypedDict"),
    "list of an arbitrary class": (list[Plain], r"list\[Plain\] cannot be cached"),
    "arbitrary field": (WithArbitrary, r"WithArbitrary\.thing is a Plain.*make it a pydantic model"),
    "InitVar": (WithInitVar, r"WithInitVar\.b is an InitVar"),
}  # fmt: skip


@every
@pytest.mark.parametrize(("declared", "message"), BAD.values(), ids=BAD)
def test_a_type_that_cannot_survive_is_refused_at_declaration_with_the_fix(codec, declared, message):
    with pytest.raises(SchemaError, match=message):
        Schema.of(declared, codec=codec)


def test_all_problems_of_a_type_are_told_at_once():
    with pytest.raises(SchemaError, match=r"Vm\.a .*; Vm\.b "):
        Schema.of(model(a=(SecretStr, ...), b=(int, Field(1, exclude=True))), codec=JSON)


class Unfinished(BaseModel):
    later: "Later"  # noqa: F821 - never defined


@pytest.mark.parametrize("declared", [Unfinished, list[Unfinished], "Nowhere"])
def test_a_type_that_is_not_complete_says_what_to_define(declared):
    with pytest.raises(SchemaError, match="before this declaration"):
        Schema.of(declared, codec=JSON)


def test_a_set_of_models_is_refused_where_the_codec_cannot_write_it():
    with pytest.raises(SchemaError, match=r"set of models.*tuple\[\.\.\.\]"):
        Schema.of(frozenset[Disk], codec=MSGPACK)
    schema = Schema.of(frozenset[Disk], codec=JSON)
    value = frozenset({Disk(name="a", size=1), Disk(name="b", size=1)})
    assert schema.decode(schema.encode(value)) == value


@pytest.mark.parametrize(
    "declared",
    [
        Loose, Hidden, Halved, Upper, Any, complex, Zone, pathlib.Path, AnyUrl, dict[tuple[int, ...], int],
        Disk | Point, Annotated[int, AfterValidator(abs)], Json[int], Permission, Literal[1, True],
        model(name=(Annotated[str, Field(pattern="x")], ...), extra=(Any, None)),
    ],
    ids=str,
)  # fmt: skip
def test_types_that_promise_too_little_are_checked_value_by_value(declared):
    assert Schema.of(declared, codec=JSON).verified


def test_a_type_whose_own_hook_fails_is_refused_at_declaration():
    class Broken:
        @classmethod
        def __get_pydantic_core_schema__(cls, source, handler):
            raise LookupError("no schema today")

    with pytest.raises(SchemaError, match="Broken cannot be cached: no schema today"):
        Schema.of(Broken, codec=JSON)


def test_a_type_that_names_what_is_not_there_yet_says_to_define_it():
    with pytest.raises(SchemaError, match="; define what it refers to before this declaration"):
        Schema.of(list["NotYet"], codec=JSON)  # noqa: F821 - that is the mistake


# -- validation of what loaders return ---------------------------------------------------------------------------------


def test_the_value_itself_is_returned_not_a_copy():
    disk, disks = Disk(name="a", size=1), [Disk(name="a", size=1)]
    assert Schema.of(Disk, codec=JSON).validate(disk, "k") is disk
    assert Schema.of(list[Disk], codec=JSON).validate(disks, "k") is disks


FITTING: list[tuple[Any, Any]] = [
    (float, 1), (Disk | None, None), (list[Disk], []), (Options, {"name": "x"}), (Point, Point(1.0, 2.0)),
    (Zone, Zone("a")), (dict[str, Disk], {"a": Disk(name="a", size=1)}), (Disk, Bigger(name="a", size=1)),
    (tuple[Point, ...], (Point(1.0, 2.0),)), (Status, Status.RUNNING), (Any, object()), (Tree, Tree(name="a")),
    (dict[str, Tree], {"a": Tree(name="a")}),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), FITTING)
def test_values_of_the_declared_type_pass(declared, value):
    assert Schema.of(declared, codec=JSON).validate(value, "k") is value


WRONG: list[tuple[Any, Any]] = [
    (Disk, {"name": "a", "size": 1}), (list[Disk], [{"name": "a", "size": 1}]), (list[Disk], (Disk(name="a", size=1),)),
    (Disk, None), (int, "1"), (int, True), (int, 1.0), (str, b"x"), (Status, "running"), (tuple[int, ...], [1]),
    (Point, {"x": 1.0, "y": 2.0}), (dict[str, Tree], {"a": {"name": "x"}}), (Annotated[int, Field(gt=0)], -1),
    (Options, {"name": 3}), (date, "2026-01-01"), (Tree, {"name": "a"}),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), WRONG)
def test_values_of_another_type_are_refused(declared, value):
    with pytest.raises(CachedValueError):
        Schema.of(declared, codec=JSON).validate(value, "k")


def test_the_refusal_names_function_key_and_both_types():
    with pytest.raises(CachedValueError) as caught:
        Schema.of(Disk, codec=JSON).validate({"name": "hunter2"}, key="vm:1", label="get_vm")
    assert str(caught.value).startswith("get_vm for key 'vm:1' returned dict, expected Disk: ")
    assert (caught.value.key, caught.value.expected) == ("vm:1", "Disk")
    assert "hunter2" not in str(caught.value), "values do not belong into logs"


def test_the_refusal_of_a_generic_model_without_its_arguments_says_how_to_make_it():
    with pytest.raises(CachedValueError, match=re.escape("; make it by `Page[Disk](...)`")):
        Schema.of(Page[Disk], codec=JSON).validate(Page(items=(Disk(name="a", size=1),)), "k")
    with pytest.raises(CachedValueError) as caught:
        Schema.of(Page[Disk], codec=JSON).validate(Page[int](items=(1,)), "k")
    assert "make it by" not in str(caught.value)


def test_the_refusal_says_where_in_the_value():
    with pytest.raises(CachedValueError, match=r"expected dict\[str, list\[Disk\]\]: a\.0: "):
        Schema.of(dict[str, list[Disk]], codec=JSON).validate({"a": [1]}, "k")

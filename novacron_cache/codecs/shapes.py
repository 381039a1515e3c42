"""What a declared type promises, read from its core schema once.

Three questions, each a walk over the schema: what in the type can never be cached (`problems`), does every exact value
survive the wire (`survives`), and can no caller change a value (`immutable`). Whatever a walk does not know gets the
careful answer: "check each value", "mutable".
"""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from functools import cached_property
from typing import Any, Final
from uuid import UUID

from pydantic import AnyUrl, BaseModel, SecretBytes, SecretStr

from .wire import Node, is_node

LEAVES: Final[dict[str, type]] = {
    "none": type(None),
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "bytes": bytes,
    "date": date,
    "time": time,
    "datetime": datetime,
    "timedelta": timedelta,
    "decimal": Decimal,
    "uuid": UUID,
    "complex": complex,
}
_VALUES: Final = frozenset(
    {Fraction, ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Interface, ipaddress.IPv6Interface,
     ipaddress.IPv4Network, ipaddress.IPv6Network, pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath,
     pathlib.PureWindowsPath}
)  # fmt: skip
"""Immutable classes of the standard library that pydantic handles as instances."""

WRAPPERS: Final = frozenset({"nullable", "default", "function-after", "function-before", "function-wrap"})
_JSON_KEYS: Final = frozenset({"str", "int", "uuid", "date"})
_LETTER_CASE: Final = ("strip_whitespace", "to_lower", "to_upper")


class Shape:
    """A core schema with its references resolved, and the walks over it."""

    def __init__(self, schema: Node) -> None:
        self.root = schema
        self._definitions: dict[str, Node] = {}
        self._collect(schema)

    def _collect(self, part: Any) -> None:
        if is_node(part) and isinstance(part.get("ref"), str):
            self._definitions.setdefault(part["ref"], part)
        if type(part) is dict:
            for key, each in part.items():
                if key != "metadata" or not is_node(part):
                    self._collect(each)
        elif type(part) is list or type(part) is tuple:
            for each in part:
                self._collect(each)

    def resolve(self, node: Node) -> Node:
        """Return the node that a reference stands for, as Python values are validated by it."""
        while True:
            kind = node["type"]
            if kind == "definition-ref":
                node = self._definitions[node["schema_ref"]]
            elif kind == "definitions":
                node = node["schema"]
            elif kind == "json-or-python":
                node = node["python_schema"]
            elif kind == "lax-or-strict":
                node = node["strict_schema"]
            else:
                return node

    def bare(self, node: Node) -> Node:
        """Return what is under validators and defaults."""
        node = self.resolve(node)
        while node["type"] in WRAPPERS and node["type"] != "nullable":
            node = self.resolve(node["schema"])
        return node

    # -- what can never be cached -------------------------------------------------------------------------------

    def problems(self, label: str, *, native: bool) -> list[str]:
        """Return why values of this type would not come back as themselves, each with what to do about it."""
        return list(dict.fromkeys(self._problems(self.root, label, native, set())))

    def _problems(self, node: Node, where: str, native: bool, seen: set[int]) -> Iterator[str]:
        if _is_secret(node):
            yield f"{where} is a secret, which is written as '***' and lost; leave it out, or declare str or bytes"
            return
        served = "serialization" in node or node["type"] in {"json-or-python", "lax-or-strict"}
        node = self.resolve(node)
        if id(node) in seen:
            return
        seen.add(id(node))
        kind = node["type"]
        if kind == "generator":
            yield f"{where} is an iterator, which can be read only once; declare list[...] or tuple[...]"
        elif kind == "callable":
            yield f"{where} is a function, which cannot be written; cache what it returns"
        elif kind == "is-subclass":
            yield f"{where} is a class, which cannot be written; cache its name"
        elif kind == "is-instance" and not served and "serialization" not in node and node["cls"] not in _VALUES:
            name = getattr(node["cls"], "__name__", repr(node["cls"]))
            yield f"{where} is a {name}, which pydantic cannot write; make it a pydantic model, dataclass or TypedDict"
        elif native and kind in {"set", "frozenset"} and self._is_record(node.get("items_schema")):
            yield f"{where} is a set of models, which this codec cannot write; declare tuple[...], or use JSON"
        else:
            owner = node["cls"].__name__ if isinstance(node.get("cls"), type) else where
            for name, child in self.children(node):
                inner = f"{owner}.{name}" if name else where
                yield from _field_problems(child, inner)
                yield from self._problems(unfield(child), inner if name else owner, native, seen)

    def _is_record(self, node: Node | None) -> bool:
        return node is not None and self.bare(node)["type"] in {"model", "dataclass", "typed-dict"}

    def children(self, node: Node) -> Iterator[tuple[str, Node]]:
        """Yield (field name or "", node) for everything a node is made of; model fields are reached through models."""
        if "cls" in node and is_node(node.get("schema")):
            yield from (
                self.children(self.bare(node["schema"])) if not node.get("root_model") else [("", node["schema"])]
            )
            return
        fields = node.get("fields")
        if isinstance(fields, dict):
            yield from fields.items()
        elif isinstance(fields, list):
            yield from ((field["name"], field) for field in fields if isinstance(field, dict))
        for key in ("schema", "items_schema", "keys_schema", "values_schema", "arguments_schema", "extras_schema"):
            each = node.get(key)
            if is_node(each):
                yield "", each
            elif isinstance(each, list):
                yield from (("", child if is_node(child) else child["schema"]) for child in each)
        # What an instance check in a chain lets through is described by the steps after it.
        yield from (("", step) for step in node.get("steps", ()) if step["type"] != "is-instance")
        choices = node.get("choices")
        for choice in choices.values() if isinstance(choices, dict) else choices or ():
            yield "", choice[0] if isinstance(choice, tuple) else choice

    # -- does every exact value survive? ------------------------------------------------------------------------

    def survives(self, *, native: bool, by_name: bool) -> bool:
        """Return whether each value that is exactly of the declared types comes back from the wire unchanged.

        Args:
            native: whether the codec carries Python's own types.
            by_name: whether the wire is free of aliases and writes bytes and infinities in full.
        """
        return by_name and self._survives(self.root, native, set())

    def _survives(self, node: Node, native: bool, seen: set[int]) -> bool:
        if "serialization" in node or node["type"] in {"json-or-python", "lax-or-strict"}:
            return False
        node = self.resolve(node)
        if id(node) in seen:
            return True
        seen.add(id(node))
        kind = node["type"]
        if "serialization" in node or kind == "complex":
            return False
        if kind in LEAVES:
            return not any(node.get(option) for option in _LETTER_CASE)
        if kind == "enum":
            return _plain_enum(node["cls"])
        if kind == "literal":
            return len({type(value) for value in node["expected"]} & {int, bool}) < 2 and all(
                type(value) in {str, int, bool, type(None)} for value in node["expected"]
            )
        if kind == "default":
            return node.get("on_error", "raise") == "raise" and self._survives(node["schema"], native, seen)
        if kind == "union":
            return _plain_union(node)
        if kind == "tagged-union" and callable(node["discriminator"]):
            return False
        if kind == "dict" and not self._plain_keys(node.get("keys_schema"), native):
            return False
        if kind == "model":
            config = node.get("config", {})
            if node.get("custom_init") or node.get("post_init") or config.get("extra_fields_behavior") == "allow":
                return False
            if node["cls"].__private_attributes__:
                return False
        elif kind == "dataclass":
            if node.get("post_init") or not _fully_initialised(node):
                return False
        elif kind == "typed-dict":
            if node.get("extra_behavior") == "allow":
                return False
        elif kind not in {
            "nullable", "list", "set", "frozenset", "tuple", "dict", "tagged-union", "model-fields", "dataclass-args",
        }:  # fmt: skip
            return False
        inner = node.get("schema")
        if is_node(inner):
            return self._survives(inner, native, seen)
        return all(self._survives(unfield(child), native, seen) for _, child in self.children(node))

    def _plain_keys(self, node: Node | None, native: bool) -> bool:
        if node is None:
            return False
        node = self.resolve(node)
        if node["type"] == "enum":
            return all(type(member.value) is str for member in node["members"])
        if node["type"] == "literal":
            return all(type(value) is str for value in node["expected"])
        return node["type"] in (LEAVES if native else _JSON_KEYS)

    # -- can no caller change a value? --------------------------------------------------------------------------

    def immutable(self) -> bool:
        """Return whether values made of exactly the declared types can be shared between callers."""
        return self._immutable(self.root, set())

    def _immutable(self, node: Node, seen: set[int]) -> bool:
        node = self.resolve(node)
        if id(node) in seen:
            return True
        seen.add(id(node))
        kind = node["type"]
        if kind in LEAVES or kind in {"enum", "literal"} or self.instance_of(node) is not None:
            return True
        if kind in WRAPPERS:
            return self._immutable(node["schema"], seen)
        if kind in {"tuple", "frozenset", "union", "tagged-union"}:
            return all(self._immutable(child, seen) for _, child in self.children(node))
        if kind == "model":
            return _frozen_model(node["cls"]) and self._fields_immutable(node, seen)
        if kind == "dataclass":
            return _frozen_dataclass(node) and self._fields_immutable(node, seen)
        if kind == "call" and is_named_tuple(node["function"]):
            return self._fields_immutable(node["arguments_schema"], seen)
        return False

    def _fields_immutable(self, node: Node, seen: set[int]) -> bool:
        return all(self._immutable(unfield(child), seen) for _, child in self.children(node))

    # -- classes ------------------------------------------------------------------------------------------------

    def instance_of(self, node: Node) -> frozenset[type] | None:
        """Return the immutable classes of which a node's values are instances, or None."""
        if node["type"] == "is-instance":
            declared = node["cls"]
            found = frozenset(each for each in _VALUES if isinstance(declared, type) and issubclass(each, declared))
            return found if found and (declared in _VALUES or declared in {pathlib.Path, pathlib.PurePath}) else None
        if node["type"] == "function-wrap" and self.resolve(node["schema"])["type"] in {"url", "multi-host-url"}:
            # pydantic's URL classes leave themselves in the node only as the owner of their serialiser.
            owner = getattr(node.get("serialization", {}).get("function"), "__self__", None)
            return frozenset({owner}) if isinstance(owner, type) and issubclass(owner, AnyUrl) else None
        return None

    def has_times(self) -> bool:
        """Return whether the type holds datetimes or times anywhere."""
        return self._has_times(self.root, set())

    def _has_times(self, node: Node, seen: set[int]) -> bool:
        node = self.resolve(node)
        if id(node) in seen:
            return False
        seen.add(id(node))
        return node["type"] in {"datetime", "time"} or any(
            self._has_times(unfield(child), seen) for _, child in self.children(node)
        )

    def instance_class(self) -> type | None:
        """Return the class when the declared type is one model or dataclass, else None."""
        node = self.bare(self.root)
        return node["cls"] if node["type"] in {"model", "dataclass"} else None


def unfield(node: Node) -> Node:
    """Return the type of a field, or the node itself when it is none."""
    schema = node.get("schema")
    return schema if is_node(schema) and node["type"].endswith("-field") else node


def _field_problems(field: Node, where: str) -> Iterator[str]:
    if not field["type"].endswith("-field"):
        return
    if field.get("serialization_exclude"):
        yield f"{where} has exclude=True, so it would be lost in the cache; drop exclude, or leave the field out"
    if field.get("serialization_exclude_if") is not None:
        yield f"{where} has exclude_if, so it would sometimes be lost in the cache; drop it, or leave the field out"
    if field.get("init_only"):
        yield f"{where} is an InitVar, which the instance does not keep; store it as a field"
    read, written = field.get("validation_alias"), field.get("serialization_alias")
    if read is not None and written is not None and written not in _spellings(read):
        yield (
            f"{where} is written as {written!r} but read as {read!r}: asymmetric aliases do not survive a round trip;"
            " use one alias=..., or list the written one in AliasChoices"
        )


def _spellings(alias: Any) -> Iterator[Any]:
    """Yield the plain names among the ways in which a field may be spelled on reading."""
    if isinstance(alias, str):
        yield alias
    elif alias and isinstance(alias[0], list):
        yield from (path[0] for path in alias if len(path) == 1)
    elif len(alias) == 1:
        yield alias[0]


def _is_secret(node: Node) -> bool:
    function = node.get("serialization", {}).get("function")
    if getattr(function, "__module__", "") == "pydantic.types" and "secret" in getattr(function, "__qualname__", ""):
        return True
    if node["type"] == "lax-or-strict":
        return _is_secret(node["lax_schema"])
    if node["type"] == "json-or-python":
        return _is_secret(node["python_schema"])
    if node["type"] == "union":
        return any(_is_secret(choice) for choice in node["choices"] if isinstance(choice, dict))
    return node["type"] == "is-instance" and node["cls"] in {SecretStr, SecretBytes}


def _plain_enum(kind: type[Enum]) -> bool:
    values = {type(member.value) for member in kind}
    return not issubclass(kind, Flag) and (values == {str} or values == {int})


def _plain_union(node: Node) -> bool:
    # Smart mode prefers the exact type, and these are told apart by their JSON alone.
    choices = [choice[0] if isinstance(choice, tuple) else choice for choice in node["choices"]]
    return node.get("mode", "smart") == "smart" and all(
        choice.keys() <= {"type", "metadata"} and choice["type"] in {"none", "bool", "int", "float", "str"}
        for choice in choices
    )


def is_named_tuple(kind: Any) -> bool:
    """Return whether a class is a named tuple whose instances have no room for anything else."""
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields") and not kind.__dictoffset__


def fully_declared(node: Node) -> bool:
    """Return whether the schema knows every field of the dataclass."""
    return {field.name for field in dataclasses.fields(node["cls"])} == set(node["fields"])


def _fully_initialised(node: Node) -> bool:
    return fully_declared(node) and all(field.init for field in dataclasses.fields(node["cls"]))


def _computes_lazily(kind: type) -> bool:
    return any(isinstance(member, cached_property) for base in kind.__mro__ for member in vars(base).values())


def _frozen_model(kind: type[BaseModel]) -> bool:
    config = kind.model_config
    frozen = config.get("frozen") or all(field.frozen for field in kind.model_fields.values())
    if not frozen or config.get("extra") == "allow" or kind.__private_attributes__:
        return False
    return not _computes_lazily(kind)


def _frozen_dataclass(node: Node) -> bool:
    kind = node["cls"]
    return bool(kind.__dataclass_params__.frozen) and fully_declared(node) and not _computes_lazily(kind)

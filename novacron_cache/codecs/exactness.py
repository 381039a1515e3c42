"""Whether a value is made of exactly the declared types, as one compiled function per declaration.

The question comes up for each value that is stored or first seen, and its answer decides whether the value can be
shared between callers and whether its round trip needs checking. A walk over the schema takes several times as long as
serialising a small model; Python source written from the schema takes a fraction of it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, time
from typing import Any, Final

from .shapes import LEAVES, WRAPPERS, Shape, fully_declared, is_named_tuple, unfield
from .wire import Node

_ONE_ITEM: Final = frozenset({"list", "set", "frozenset"})
_RECORDS: Final = frozenset({"model", "dataclass", "typed-dict", "call"})


def compile_exact(shape: Shape, portable: Callable[[datetime | time], bool]) -> Callable[[Any], bool]:
    """Return a test whether a value is made of exactly the declared types.

    What the schema does not say (`Any`, a custom validator's result) is never exact.

    Args:
        shape: the declared type.
        portable: whether a datetime or time that has a zone counts.
    """
    return _Compiler(shape, portable).compile()


class _Compiler:
    """Writes one Python function for each record in the schema, so that a flat model is tested without a call."""

    def __init__(self, shape: Shape, portable: Callable[[datetime | time], bool]) -> None:
        self._shape = shape
        self._names: dict[str, Any] = {"portable": portable}
        self._functions: dict[int, str] = {}
        self._source: list[str] = []
        self._temporaries = 0

    def compile(self) -> Callable[[Any], bool]:
        body = self._test(self._shape.root, "value")
        self._source.append(
            f"def exact(value):\n    try:\n        return {body}\n"
            "    except (KeyError, AttributeError, IndexError, TypeError, RecursionError):\n        return False\n"
        )
        exec("\n".join(self._source), self._names)  # noqa: S102 - the source is written here, from constants alone
        exact: Callable[[Any], bool] = self._names["exact"]
        return exact

    def _constant(self, value: Any) -> str:
        name = f"c{len(self._names)}"
        self._names[name] = value
        return name

    def _temporary(self) -> str:
        self._temporaries += 1
        return f"t{self._temporaries}"

    def _types(self, node: Node) -> set[type] | None:
        """Return the types that decide a node by themselves, or None when a closer look is needed."""
        if (classes := self._shape.instance_of(node := self._shape.resolve(node))) is not None:
            return set(classes)
        kind = node["type"]
        if kind in LEAVES and kind not in {"datetime", "time"}:
            return {LEAVES[kind]}
        if kind == "enum":
            return {node["cls"]}
        if kind == "literal":
            return {type(value) for value in node["expected"]}
        if kind in WRAPPERS:
            inner = self._types(node["schema"])
            return inner | {type(None)} if inner is not None and kind == "nullable" else inner
        if kind in {"union", "tagged-union"}:
            found: set[type] = set()
            for _, choice in self._shape.children(node):
                if (inner := self._types(choice)) is None:
                    return None
                found |= inner
            return found
        return None

    def _test(self, node: Node, value: str) -> str:
        """Return an expression that is true when what `value` stands for is exactly of the type."""
        if (types := self._types(node)) is not None:
            if len(types) == 1:
                return f"type({value}) is {self._constant(next(iter(types)))}"
            name = self._temporary()
            first, *rest = [self._constant(each) for each in sorted(types, key=repr)]
            return f"(({name} := type({value})) is {first}" + "".join(f" or {name} is {each}" for each in rest) + ")"
        node = self._shape.resolve(node)
        kind = node["type"]
        if kind in WRAPPERS:
            inner = self._test(node["schema"], value)
            return f"({value} is None or {inner})" if kind == "nullable" else inner
        if kind in {"datetime", "time"}:
            moment = self._temporary()
            return (
                f"(type({moment} := {value}) is {self._constant(LEAVES[kind])}"
                f" and ({moment}.tzinfo is None or portable({moment})))"
            )
        if kind in {"union", "tagged-union"}:
            return "(" + " or ".join(self._test(choice, value) for _, choice in self._shape.children(node)) + ")"
        if kind in _ONE_ITEM:
            return f"(type({value}) is {kind} and {self._each(node.get('items_schema'), value)})"
        if kind == "tuple":
            return self._tuple(node, value)
        if kind == "dict":
            keys = self._each(node.get("keys_schema"), value)
            return (
                f"(type({value}) is dict and {keys} and {self._each(node.get('values_schema'), f'{value}.values()')})"
            )
        if kind in _RECORDS:
            return f"{self._record(node)}({value})"
        return "False"

    def _each(self, item: Node | None, values: str) -> str:
        if item is None:
            return "False"
        if (types := self._types(item)) is not None:
            return f"{self._constant(frozenset(types))}.issuperset(map(type, {values}))"
        return f"all(map({self._function(item)}, {values}))"

    def _tuple(self, node: Node, value: str) -> str:
        items = node["items_schema"]
        if "variadic_item_index" in node:
            return f"(type({value}) is tuple and {self._each(items[0], value)})" if len(items) == 1 else "False"
        tests = [self._test(item, f"{value}[{at}]") for at, item in enumerate(items)]
        return "(" + " and ".join([f"type({value}) is tuple", f"len({value}) == {len(items)}", *tests]) + ")"

    def _function(self, node: Node) -> str:
        node = self._shape.resolve(node)
        if node["type"] in _RECORDS:
            return self._record(node)
        return self._define(node, lambda: [f"return {self._test(node, 'value')}"])

    def _record(self, node: Node) -> str:
        return self._define(node, lambda: self._record_body(node))

    def _define(self, node: Node, body: Callable[[], list[str]]) -> str:
        name = self._functions.get(id(node))
        if name is None:
            # Named before its body is written, because the body of a recursive type calls it.
            name = self._functions[id(node)] = f"f{len(self._functions)}"
            lines = "\n    ".join(body())
            self._source.append(f"def {name}(value):\n    {lines}\n")
        return name

    def _record_body(self, node: Node) -> list[str]:
        kind, fields = node["type"], list(self._shape.children(node))
        if kind == "model":
            if node.get("config", {}).get("extra_fields_behavior") == "allow":
                return ["return False"]
            if node.get("root_model"):
                fields = [("root", node["schema"])]
            start = [f"if type(value) is not {self._constant(node['cls'])}: return False", "fields = value.__dict__"]
            tests = [self._test(unfield(child), f"fields[{name!r}]") for name, child in fields]
        elif kind == "dataclass":
            if not fully_declared(node):
                return ["return False"]
            start = [f"if type(value) is not {self._constant(node['cls'])}: return False"]
            tests = [self._test(unfield(child), f"value.{name}") for name, child in fields]
        elif kind == "typed-dict":
            known = self._constant(frozenset(name for name, _ in fields))
            start = [f"if type(value) is not dict or not {known}.issuperset(value): return False"]
            total = node.get("total", True)
            tests = [
                test if child.get("required", total) else f"({name!r} not in value or {test})"
                for name, child in fields
                for test in [self._test(unfield(child), f"value[{name!r}]")]
            ]
        elif is_named_tuple(node["function"]):
            start = [f"if type(value) is not {self._constant(node['function'])}: return False"]
            items = list(self._shape.children(node["arguments_schema"]))
            tests = [self._test(child, f"value[{at}]") for at, (_, child) in enumerate(items)]
        else:
            return ["return False"]
        return [*start, "return " + (" and ".join(tests) or "True")]

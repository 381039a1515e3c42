"""The hit path of a decorated function, generated for its own signature.

A hit costs what its instructions cost, so nothing general is left in it: the wrapper has the function's own parameters,
looks the raw arguments up in a dict of its own (the *front*), compares the clock with the entry's deadline, adds one to
two integers and returns. Building a key, counting a miss, choosing a tier all happen behind `miss`.

Raw arguments are keys only where that is safe: `1`, `True` and `1.0` are equal, and an object may define equality as it
likes, so each one's exact class is checked, or travels in the key. Anything else takes the slow path, which knows the
injective stored key.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import count
from types import NoneType
from typing import Any, Final
from uuid import UUID

from .entry import Entry

RAW_SAFE: Final = frozenset({str, int, bool, bytes, NoneType, UUID, date})
"""Classes whose equality is exact enough to stand for the stored key, once the class itself is part of the raw key."""

_SOLE: Final = {"str": str, "int": int, "bytes": bytes, "bool": bool, "UUID": UUID}

UNSAFE: Final = object()
"""The raw key of arguments that must not be one."""

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Compiled:
    """The generated functions.

    Attributes:
        call: what users call; `(bound, *arguments)` for a method.
        collect: the same parameters; returns `(names to values, positional, keyword arguments)`.
        bind: takes `(front.get, monotonic, miss, decode)`; what `call` uses from then on.
        hits: returns how many calls the front has answered.
    """

    call: Callable[..., Any]
    collect: Callable[..., tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]]
    bind: Callable[..., None]
    hits: Callable[[], int]


def compile_call(
    function: Callable[..., Any],
    signature: inspect.Signature,
    expressions: Sequence[str],
    *,
    types: dict[str, Any],
    asynchronous: bool,
    immutable: bool,
    bound: str | None = None,
) -> Compiled:
    """Generate the hit path of a function.

    Args:
        function: the function, for names and defaults.
        signature: its signature.
        expressions: Python source of every value the key depends on.
        types: the resolved annotations of its parameters.
        asynchronous: whether the wrapper is a coroutine function.
        immutable: whether entries hold live values alone, so that the check for a serialised one falls away.
        bound: the name of the first parameter where that is the instance or class of a method; the generated functions
            then take an object with an `obj` attribute in its place.
    """
    parameters = list(signature.parameters.values())
    namespace: dict[str, Any] = {"_nc_safe": RAW_SAFE, "_nc_UNSAFE": UNSAFE}
    declared: list[str] = []
    positional: list[str] = []
    keywords: list[str] = []
    names: list[str] = []
    previous: Any = None
    for index, parameter in enumerate(parameters):
        kind, name = parameter.kind, parameter.name
        if previous is inspect.Parameter.POSITIONAL_ONLY and kind is not previous:
            declared.append("/")
        if kind is inspect.Parameter.KEYWORD_ONLY and previous not in (
            inspect.Parameter.KEYWORD_ONLY,
            inspect.Parameter.VAR_POSITIONAL,
        ):
            declared.append("*")
        previous = kind
        source = name
        if parameter.default is not inspect.Parameter.empty:
            namespace[f"_nc_d{index}"] = parameter.default
            source = f"{name}=_nc_d{index}"
        if kind is inspect.Parameter.VAR_POSITIONAL:
            declared.append(f"*{name}")
            positional.append(f"*{name}")
        elif kind is inspect.Parameter.VAR_KEYWORD:
            declared.append(f"**{name}")
            keywords.append(f"**{name}")
        elif kind is inspect.Parameter.KEYWORD_ONLY:
            declared.append(source)
            keywords.append(f"{name!r}: {name}")
        else:
            declared.append("_nc_b" if name == bound else source)
            positional.append(name)
        names.append(f"{name!r}: {name}")
    if previous is inspect.Parameter.POSITIONAL_ONLY:
        declared.append("/")
    head = ", ".join(declared)
    everything = f"{{{', '.join(names)}}}, ({''.join(f'{one}, ' for one in positional)}), {{{', '.join(keywords)}}}"
    checks, raw = _raw(expressions, types, namespace)
    unbind = f"{bound} = _nc_b.obj" if bound else "pass"
    key_needs_bound = bound is not None and any(
        e.startswith((f"{bound}.", f"id({bound})")) or e == bound for e in expressions
    )
    define, wait = ("async def", "await ") if asynchronous else ("def", "")
    value = "_nc_e.value" if immutable else "_nc_e.value if _nc_e.body is None else _nc_decode(_nc_e.body)"
    miss = f"return {wait}_nc_miss(%s, {everything.replace('%', '%%')})"
    source = f"""\
def _nc_make(_nc_get, _nc_monotonic, _nc_miss, _nc_decode):
    _nc_hits = 0
    {define} call({head}):
        nonlocal _nc_hits
        {unbind if key_needs_bound else "pass"}
        if {checks}:
            _nc_e = _nc_get({raw})
            if _nc_e is not None and _nc_monotonic() < _nc_e.deadline:
                _nc_hits += 1
                _nc_e.hits += 1
                return {value}
            {unbind}
            {miss % raw}
        {unbind}
        {miss % "_nc_UNSAFE"}
    def collect({head}):
        {unbind}
        return {everything}
    def bind(get, monotonic, miss, decode):
        nonlocal _nc_get, _nc_monotonic, _nc_miss, _nc_decode
        _nc_get, _nc_monotonic, _nc_miss, _nc_decode = get, monotonic, miss, decode
    def hits():
        return _nc_hits
    return call, collect, bind, hits
"""
    filename = f"<novacron_cache {getattr(function, '__qualname__', function)} {next(_numbers)}>"
    # Registered, so that a traceback through the wrapper shows its lines.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), namespace)  # noqa: S102 - made of the function's own parameter names
    front: dict[Any, Entry] = {}
    return Compiled(*namespace["_nc_make"](front.get, None, None, None))


def _raw(expressions: Sequence[str], types: dict[str, Any], namespace: dict[str, Any]) -> tuple[str, str]:
    """Return the source of the check that raw arguments may be a key, and of that key."""
    checks: list[str] = []
    parts: list[str] = []
    for index, expression in enumerate(expressions):
        if expression.startswith("id("):
            parts.append(expression)
            continue
        declared = types.get(expression)
        sole = next((name for name, cls in _SOLE.items() if cls is declared), None)
        if sole is not None:
            namespace[f"_nc_t{index}"] = declared
            checks.append(f"{expression}.__class__ is _nc_t{index}")
            parts.append(expression)
        else:
            checks.append(f"(_nc_c{index} := {expression}.__class__) in _nc_safe")
            parts += [f"_nc_c{index}", expression]
    if not parts:
        return "True", "None"
    return " and ".join(checks) or "True", parts[0] if len(parts) == 1 else f"({', '.join(parts)})"

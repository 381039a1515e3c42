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
from typing import Any, Final, Literal
from uuid import UUID
from weakref import ref

from .entry import Entry
from .finalizing import when_gone

RAW_SAFE: Final = frozenset({str, int, bool, bytes, NoneType, UUID, date})
"""Classes whose equality is exact enough to stand for the stored key, once the class itself is part of the raw key."""

_SOLE: Final = {"str": str, "int": int, "bytes": bytes, "bool": bool, "UUID": UUID}

UNSAFE: Final = object()
"""The raw key of arguments that must not be one."""

Owners = Literal["one", "watched", "scoped", "shared"]
"""How a raw key tells the instances of a method apart.

`one`: not at all, or the key names what does. `watched`: only the one given to `watch` is answered, any other takes the
slow path. `scoped`: by `cache_scope`; an instance without one takes the slow path. `shared`: by `cache_scope`, where
None is one.
"""

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Compiled:
    """The generated functions.

    Attributes:
        call: what users call; `(bound, *arguments)` for a method.
        collect: the same parameters; returns `(names to values, positional, keyword arguments)`.
        bind: takes `(front, monotonic, miss, decode, horizon)`, and behind them what answers a call that the condition
            keeps from the cache; what `call` uses from then on.
        hits: returns how many calls the front has answered.
        watch: takes a weak reference to the instance that `watched` calls may come from.
    """

    call: Callable[..., Any]
    collect: Callable[..., tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]]
    bind: Callable[..., None]
    hits: Callable[[], int]
    watch: Callable[[ref[Any]], None]


def compile_call(
    function: Callable[..., Any],
    signature: inspect.Signature,
    expressions: Sequence[str],
    *,
    types: dict[str, Any],
    asynchronous: bool,
    immutable: bool,
    bound: str | None = None,
    owners: Owners = "one",
    condition: Callable[..., Any] | None = None,
    condition_takes: Sequence[str] = (),
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
        owners: how instances are told apart.
        condition: asked first, at each call, whether the cache is to answer; a function without one pays nothing.
        condition_takes: the parameters that it is given, by their names.
    """
    parameters = list(signature.parameters.values())
    # Parameters may be called `id` or `getattr`: nothing here relies on a builtin's own name.
    namespace: dict[str, Any] = {
        "_nc_safe": RAW_SAFE, "_nc_UNSAFE": UNSAFE, "_nc_getattr": getattr,
        "_nc_AttributeError": AttributeError, "_nc_KeyError": KeyError,
    }  # fmt: skip
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
    unbind = f"{bound} = _nc_b.obj" if bound else "pass"
    key_needs_bound = owners != "one" or (
        bound is not None and any(e.startswith(f"{bound}.") or e == bound for e in expressions)
    )
    simple, reads = _read_attributes(expressions)
    checks, raw = _raw(simple, types, namespace, bound, owners)
    define, wait = ("async def", "await ") if asynchronous else ("def", "")
    value = "_nc_e.value" if immutable else "_nc_e.value if _nc_e.body is None else _nc_decode(_nc_e.body)"
    miss = f"return {wait}_nc_miss(%s, {everything.replace('%', '%%')})"
    read = ""
    if reads:
        # What lacks an attribute is the slow path's to explain.
        read = f"""
        try:
            {"; ".join(reads)}
        except _nc_AttributeError:
            {unbind}
            {miss % "_nc_UNSAFE"}"""
    ask = ""
    if condition is not None:
        namespace["_nc_condition"] = condition
        given = ", ".join(f"{name}={name}" for name in condition_takes)
        ask = f"""
        {unbind}
        if not _nc_condition({given}):
            return {wait}_nc_exclude({everything})"""
    at_once = "pass" if condition is not None or not key_needs_bound else unbind
    source = f"""\
def _nc_make(_nc_front, _nc_monotonic, _nc_miss, _nc_decode, _nc_horizon, _nc_exclude, _nc_first):
    _nc_hits = 0
    {define} call({head}):
        nonlocal _nc_hits{ask}
        {at_once}{read}
        if {checks}:
            try:
                _nc_e = _nc_front[{raw}]
            except _nc_KeyError:
                pass
            else:
                if (_nc_now := _nc_monotonic()) < _nc_e.deadline and _nc_now < _nc_horizon.valid_until:
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
    def bind(front, monotonic, miss, decode, horizon, exclude=None):
        nonlocal _nc_front, _nc_monotonic, _nc_miss, _nc_decode, _nc_horizon, _nc_exclude
        _nc_front, _nc_monotonic, _nc_miss, _nc_decode, _nc_horizon = front, monotonic, miss, decode, horizon
        _nc_exclude = exclude
    def hits():
        return _nc_hits
    def watch(first):
        nonlocal _nc_first
        _nc_first = first
    return call, collect, bind, hits, watch
"""
    filename = f"<novacron_cache {getattr(function, '__qualname__', function)} {next(_numbers)}>"
    # Registered, so that a traceback through the wrapper shows its lines.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), namespace)  # noqa: S102 - made of the function's own parameter names
    front: dict[Any, Entry] = {}
    compiled = Compiled(*namespace["_nc_make"](front, None, None, None, None, None, _nobody))
    when_gone(compiled.call, linecache.cache.pop, filename, None)
    for made in (compiled.call, compiled.collect):
        # The interpreter names a function in the TypeError for wrong arguments.
        made.__name__ = getattr(function, "__name__", made.__name__)
        made.__qualname__ = getattr(function, "__qualname__", made.__name__)
    return compiled


def _nobody() -> None:
    """Stand for a weak reference to nothing."""


def _read_attributes(expressions: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the expressions with a variable for each attribute, and the source that reads each attribute once."""
    simple: list[str] = []
    reads: list[str] = []
    for index, expression in enumerate(expressions):
        if "." in expression:
            reads.append(f"_nc_v{index} = {expression}")
            expression = f"_nc_v{index}"
        simple.append(expression)
    return simple, reads


def _raw(
    expressions: Sequence[str], types: dict[str, Any], namespace: dict[str, Any], bound: str | None, owners: Owners
) -> tuple[str, str]:
    """Return the source of the check that raw arguments may be a key, and of that key."""
    checks: list[str] = []
    parts: list[str] = []
    if owners == "watched":
        # Calling a weak reference costs less than `id` and a comparison, and no later object is taken for the first.
        checks.append(f"_nc_first() is {bound}")
    elif owners != "one":
        scope = f"(_nc_s := _nc_getattr({bound}, 'cache_scope', None))"
        if owners == "scoped":
            checks.append(f"{scope} is not None and _nc_s.__class__ in _nc_safe")
        else:
            checks.append(f"{scope}.__class__ in _nc_safe")
        parts += ["_nc_s.__class__", "_nc_s"]
    for index, expression in enumerate(expressions):
        declared = types.get(expression)
        sole = next((name for name, cls in _SOLE.items() if cls is declared), None)
        if sole is not None:
            namespace[f"_nc_t{index}"] = declared
            checks.append(f"{expression}.__class__ is _nc_t{index}")
            parts.append(expression)
        else:
            checks.append(f"(_nc_c{index} := {expression}.__class__) in _nc_safe")
            parts += [f"_nc_c{index}", expression]
    raw = "None" if not parts else parts[0] if len(parts) == 1 else f"({', '.join(parts)})"
    return " and ".join(checks) or "True", raw

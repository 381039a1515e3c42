"""Arguments of cached functions, from text and JSON: as an operator writes them, not as the application has them.

A parameter's annotation says what a text is meant to be: `42` is a number for `n: int` and text for `name: str`. What
has no annotation stays what it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, get_args

import click

if TYPE_CHECKING:
    from ..requests import Request

__all__ = ["call_of", "chunks", "controller_of", "read_lines", "request_for"]


def controller_of(function: Any) -> Any:
    """Return what stands behind a cached function, or a cached method of an instance; None for anything else."""
    found = getattr(function, "cache_controller", None)
    if found is None and hasattr(function, "__self__"):
        found = getattr(type(function), "controller", None)
    return found


def call_of(controller: Any, given: Any) -> Any:
    """Return one call, as `warm` takes it, with each argument of its parameter's type.

    Args:
        controller: what stands behind the function.
        given: its only argument, a list of arguments, or a mapping of parameters to arguments.

    Raises:
        click.BadParameter: the function does not take it.
    """
    named = dict(given) if isinstance(given, Mapping) else {}
    positional = () if named else tuple(given) if isinstance(given, list | tuple) else (given,)
    signature = controller.signature
    instance = (None,) if controller.bound is not None else ()
    try:
        bound = signature.bind(*instance, *positional, **named)
    except TypeError as error:
        raise click.BadParameter(f"{given!r} are no arguments of {controller.label}: {error}") from None
    hints = _hints(controller)
    for name, value in bound.arguments.items():
        if name in hints and signature.parameters[name].kind not in _VARIADIC:
            bound.arguments[name] = _as(hints[name], value, f"{controller.label}: {name}={value!r}")
    args, kwargs = bound.args[len(instance) :], bound.kwargs
    if not kwargs:
        return args
    return {**dict(zip((one for one in signature.parameters if one != controller.bound), args, strict=False)), **kwargs}


def read_lines(lines: Iterable[str]) -> Iterator[Any]:
    """Yield what each line holds: JSON, one call a line; empty lines are passed over.

    Raises:
        click.BadParameter: a line is no JSON, or no text; the message says which.
    """
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _read(line, number)
    except UnicodeDecodeError as error:
        raise click.BadParameter(
            f"it is no text in {error.encoding} ({error.reason})", param_hint="--args-file"
        ) from None


def _read(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(
            f'line {number} is not JSON ({error}); write one call a line, such as "vm-1", [1, 2] or '
            f'{{"vm_id": "vm-1"}}',
            param_hint="--args-file",
        ) from None


def request_for(cache: Any, controller: Any, key: str) -> Request | None:
    """Return the request of the call that has a logical key, or None where the key does not tell its arguments."""
    texts = controller.template.match(key)
    if texts is None or controller.bound is not None:
        return None
    hints, defaults = _hints(controller), controller.signature.parameters
    element = getattr(controller, "element", None)
    if element is not None and (each := get_args(hints.get(controller.each))):
        hints = {**hints, element: each[0]}
    names = {*controller.names, *([element] if element is not None else [])}
    if not texts.keys() <= names:
        return None
    values: dict[str, Any] = {}
    for name in names:
        if name in texts:
            try:
                values[name] = _from_text(hints.get(name, str), texts[name])
            except ValueError:
                return None
        else:
            values[name] = defaults[name].default
    override = cache.tag_override(controller.declaration)
    keys = controller.keys if override is None else controller._key_maker(override)
    request: Request = keys.request(cache.plan(controller.declaration), values)
    return request if request.logical == key else None


def chunks(calls: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of up to so many calls."""
    rest = iter(calls)
    while chunk := list(islice(rest, size)):
        yield chunk


def _hints(controller: Any) -> dict[str, Any]:
    from ..decorators import hints_of

    return hints_of(controller.function)


def _from_text(type_: Any, text: str) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(type_).validate_strings(text)  # what does not fit is a ValueError


def _as(type_: Any, value: Any, what: str) -> Any:
    """Return a value as its parameter's type; what pydantic knows nothing of stays as it is."""
    from pydantic import PydanticUserError, TypeAdapter, ValidationError

    try:
        adapter = TypeAdapter(type_)
    except PydanticUserError:
        return value
    try:
        return adapter.validate_strings(value) if isinstance(value, str) else adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise click.BadParameter(f"{what}: {problem}") from None


def _variadic() -> frozenset[Any]:
    from inspect import Parameter

    return frozenset({Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD})


_VARIADIC = _variadic()

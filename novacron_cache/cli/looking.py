"""`novacron-cache get` and `explain`: one key, as the application's next call would find it.

A logical key does not say of what type its value is. A plain one (`cache.set("motd", ...)`) needs nothing more; for the
others `--model` names the model or function, or `--app` the module to look for them in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from .targets import Target, controllers_of, explained, found_at, json_option, opened, target_options, within

if TYPE_CHECKING:
    from .. import Cache
    from ..requests import Request

__all__ = ["explain", "get"]

_model_option = click.option("--model", metavar="MODULE:NAME", help="The cache model, or the cached function.")


@click.command(epilog="Exit codes: 0 it is cached, 1 it is not, 2 the command could not start.")
@click.argument("key")
@_model_option
@json_option
@target_options
def get(key: str, model: str | None, as_json: bool, target: Target) -> None:
    """Print the value that is cached under KEY, as JSON.

    Nothing is loaded. This is the only command that shows a value. Bytes that are no text are shown in base64 (its form
    for URLs), and what JSON has no form for as Python would write it.
    """
    from .. import flows
    from ..drivers import drive

    with opened(target) as cache, explained():
        for request in _requests(cache, key, model, target):
            (entry,) = drive(cache.engine, flows.find(cache.engine, [request]))
            if entry is None:
                continue
            value = cache.engine.hand_out(entry, request.plan)
            if not as_json:
                click.echo(_shown(_as_json(value)))
                return
            told = {
                "key": key,
                "model": request.plan.name,
                "ttl": round(max(0.0, entry.expires - cache.engine.clock.monotonic()), 3),
                "tags": list(entry.tags),
                "value": json.loads(_as_json(value)),
            }
            click.echo(json.dumps(told, indent=2))
            return
    if as_json:
        click.echo(json.dumps({"key": key, "model": None, "ttl": None, "tags": [], "value": None}, indent=2))
    click.echo(f"nothing is cached under {key}; `explain` says why{_hint(model, target)}", err=True)
    raise click.exceptions.Exit(1)


@click.command(epilog="Exit codes: 0 the next call would hit, 1 it would miss, 2 the command could not start.")
@click.argument("key")
@_model_option
@json_option
@target_options
def explain(key: str, model: str | None, as_json: bool, target: Target) -> None:
    """Say what each shared tier has under KEY, and why the next call would miss; nothing is changed.

    Process memory belongs to the processes of the application, so it is not looked into.
    """
    from ..drivers import drive
    from ..explaining import explain as look

    with opened(target) as cache, explained():
        requests = list(_requests(cache, key, model, target))
        found = [drive(cache.engine, look(cache.engine, request)) for request in requests]
    if len(found) > 1:
        # That nothing is stored as a plain value too is not worth a word.
        found = [one for one in found if one.name or one.reason != "cold"]
    for one in found:
        one.tiers.pop("memory", None)
    if as_json:
        click.echo(json.dumps([one.as_dict() for one in found], indent=2))
    else:
        from ..keys import printable

        for one in found:
            told = "hit" if one.tier else f"miss: {one.reason}"
            click.echo(f"{printable(one.key)} ({one.name or 'plain'}): {told}")
            for tier, state in one.tiers.items():
                click.echo(f"  {tier:<8} {state}")
            if one.tier is not None:
                click.echo(
                    f"  age {one.age or 0.0:.1f} s, {one.remaining or 0.0:.1f} s left, {one.size} B of {one.codec}"
                )
            states = one.tag_states or dict.fromkeys(one.tags, "unknown")
            if states:
                shown = ", ".join(tag if state == "current" else f"{tag} ({state})" for tag, state in states.items())
                click.echo(f"  tags {printable(shown)}")
        if not any(one.tier for one in found) and (hint := _hint(model, target)):
            click.echo(hint.strip("; "), err=True)
    if not any(one.tier for one in found):
        raise click.exceptions.Exit(1)


def _as_json(value: object) -> str:
    """Return any value as JSON that every reader of JSON takes."""
    from pydantic_core import PydanticSerializationError, to_json

    for bytes_mode in ("utf8", "base64"):
        with suppress(PydanticSerializationError):
            return to_json(
                value, indent=2, bytes_mode=bytes_mode, inf_nan_mode="strings", fallback=repr
            ).decode()  # fmt: skip
    return json.dumps(repr(value))  # half a pair of surrogates, or nested too deep


def _shown(text: str) -> str:
    """Return JSON as it may be shown on a terminal; what is no print is inside its strings, and escaped there."""
    return "\n".join(
        line if line.isprintable() else "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)
        for line in text.split("\n")
    )


def _hint(model: str | None, target: Target) -> str:
    if model is None and target.app is None:
        return "; a plain key was looked for: name the model or function with --model, or the module with --app"
    return ""


def _requests(cache: Cache, key: str, model: str | None, target: Target) -> Iterator[Request]:
    """Yield what calls the application may make for a logical key.

    Raises:
        click.BadParameter: the model or function does not exist, or has no such key.
    """
    from ..declaring import declaration_of, key_of, models_with_loaders
    from .arguments import controller_of, request_for

    if model is not None:
        found = found_at(model, "--model")
        controller = controller_of(found)
        if controller is None:
            if declaration_of(found) is None:
                raise click.BadParameter(
                    f"{model} is neither a cache model nor a cached function", param_hint="--model"
                )
            yield cache._request(key, found)
            return
        request = request_for(cache, controller, key)
        if request is None:
            raise click.BadParameter(
                f"{key!r} does not give the arguments of {model}, whose key is {controller.template.text!r}",
                param_hint="--model",
            )
        yield request
        return
    seen: set[str] = set()
    for controller in controllers_of(cache, target.app):
        request = request_for(cache, controller, key)
        if request is not None and request.key not in seen:
            seen.add(request.key)
            yield request
    inside = (target.app or "").partition(":")[0]
    for one in models_with_loaders() if target.app else ():
        if within(one.__module__, inside) and key_of(one) is not None:
            request = cache._request(key, one)
            if request.key not in seen:
                seen.add(request.key)
                yield request
    yield cache._request(key)

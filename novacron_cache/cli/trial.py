"""`test`: whether the servers on this machine do what a cache needs of them, tried with the cache itself.

Two caches stand for two processes of an application. What one writes the other reads, what one invalidates the other
must not return; with `--failover` the master is killed while one goes on calling.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .servers import explained, local_servers, state_dir
from .targets import json_option

if TYPE_CHECKING:
    from .. import Cache
    from ..topology.local import LocalServers

__all__ = ["trial"]

KEYS: Final = 100
_LINKED: Final = 5.0  # seconds in which a foreign invalidation must have arrived
_RECOVERED: Final = 15.0  # seconds in which a cache must find the new master


class Failed(click.ClickException):
    """A step did not do what it should."""


@click.command("test", epilog="Exit codes: as those of `status`; 1 when a step failed.")
@click.option("--failover", is_flag=True, help="Kill the master, and time how long the others need.")
@json_option
@state_dir
def trial(failover: bool, as_json: bool, state_dir: Path | None) -> None:
    """Try the servers through the cache.

    Two caches write, read and invalidate, as two processes of an application would. The keys are in a namespace of
    their own, and are removed. With --failover the master is killed and started again.
    """
    from .. import SettingsError

    with explained():
        servers = local_servers(state_dir, quiet=as_json)
        servers.require_all()
        if failover and servers.topology.kind == "standalone":
            raise click.UsageError("--failover: nobody takes over from a single server; set up sentinel or cluster")
        try:
            outcome = _run(servers, failover)
        except SettingsError as error:
            raise Failed(str(error)) from error
    if as_json:
        click.echo(json.dumps(outcome, indent=2))
        return
    for step, facts in outcome.items():
        said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
        click.echo(f"{step:<11} ok   {said}")


def _run(servers: LocalServers, failover: bool) -> dict[str, dict[str, Any]]:
    import secrets

    from .. import Cache, CacheSettings

    settings = CacheSettings(
        namespace=f"novacron-test-{secrets.token_hex(3)}",
        redis={**servers.topology.redis_settings, "password": servers.state.application_password},
    )
    outcome: dict[str, dict[str, Any]] = {}
    with ExitStack() as stage:
        stage.callback(_erase, servers, f"nc:{settings.namespace}:")
        one, other = stage.enter_context(Cache(settings)), stage.enter_context(Cache(settings))
        steps: dict[str, Callable[[], dict[str, Any]]] = {
            "write": lambda: _write(one),
            "read": lambda: _read(other),
            "invalidate": lambda: _invalidate(one, other),
        }
        if failover:
            steps["failover"] = lambda: _fail_over(servers, one, other)
        for step, run in steps.items():
            outcome[step] = run()
    return outcome


def _write(cache: Cache) -> dict[str, Any]:
    failures: list[Any] = []
    cache.on("tier_failed", failures.append)
    began = time.perf_counter()
    for number in range(KEYS):
        cache.set(f"thing:{number}", number, ttl=60, tags=["trial"])
    seconds = time.perf_counter() - began
    if failures:
        raise Failed(f"write: {failures[0].error}")
    return {"values": KEYS, "milliseconds_each": round(seconds / KEYS * 1000, 3)}


def _read(cache: Cache) -> dict[str, Any]:
    began = time.perf_counter()
    found = [cache.get(f"thing:{number}") for number in range(KEYS)]
    seconds = time.perf_counter() - began
    if found != list(range(KEYS)):
        raise Failed(
            f"read: {KEYS - sum(map(int.__eq__, range(KEYS), map(_number, found)))} of {KEYS} values are missing"
        )
    return {"values": KEYS, "milliseconds_each": round(seconds / KEYS * 1000, 3)}


def _number(value: Any) -> int:
    return value if isinstance(value, int) else -1


def _invalidate(one: Cache, other: Cache) -> dict[str, Any]:
    from .. import InvalidationPending

    began = time.perf_counter()
    try:
        one.invalidate_tags("trial", wait=True)
    except InvalidationPending as error:
        raise Failed(f"invalidate: {error}") from error
    while any(other.get(f"thing:{number}") is not None for number in range(KEYS)):
        if time.perf_counter() - began > _LINKED:
            raise Failed(f"invalidate: another process still reads what was invalidated {_LINKED:.0f} s ago")
        time.sleep(0.001)
    if any(one.get(f"thing:{number}") is not None for number in range(KEYS)):
        raise Failed("invalidate: the invalidating process itself still reads it")
    return {"values": KEYS, "milliseconds_until_gone_elsewhere": round((time.perf_counter() - began) * 1000, 3)}


def _fail_over(servers: LocalServers, cache: Cache, other: Cache) -> dict[str, Any]:
    from ..topology.crashing import crash

    calls, longest = 0, 0.0

    def call() -> None:
        nonlocal calls, longest
        began = time.perf_counter()
        value = cache.get_or_load(f"during:{calls % KEYS}", lambda: "loaded", ttl=60)
        if value != "loaded":
            raise Failed(f"failover: a call returned {value!r}")
        calls, longest = calls + 1, max(longest, time.perf_counter() - began)

    with servers.state.locked():
        recovery = crash(servers, call)
    deadline, number = time.monotonic() + _RECOVERED, 0
    cache.set("after:0", 0, ttl=60)
    while other.get(f"after:{number}") != number:
        if time.monotonic() > deadline:
            raise Failed(f"failover: {_RECOVERED:.0f} s after it, what one process writes another does not read yet")
        time.sleep(0.05)
        number += 1
        cache.set(f"after:{number}", number, ttl=60)
    return {
        "killed": recovery.victim,
        "master_now": recovery.heir,
        "promoted_after_seconds": round(recovery.promoted, 2),
        "writable_after_seconds": round(recovery.writable, 2),
        "whole_after_seconds": round(recovery.whole, 2),
        "calls_meanwhile": calls,
        "failed_calls": 0,
        "longest_call_seconds": round(longest, 3),
    }


def _erase(servers: LocalServers, prefix: str) -> None:
    """Remove the keys of the test from every master."""
    from contextlib import suppress

    from ..topology.wire import Refusal

    for server in servers.topology.data:
        with suppress(OSError, Refusal), servers.connect(server) as wire:
            if wire.call("ROLE")[0] != "master":
                continue
            cursor = "0"
            while True:
                cursor, keys = wire.call("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", 1000)
                for key in keys:
                    wire.call("UNLINK", key)
                if cursor == "0":
                    break

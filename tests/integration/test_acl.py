"""The access rule in the documentation is enough for everything the cache does, and names nothing that it does not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import PATIENT, ServerProcess, redis_binary, required, running, valkey_binary, wait_until

from novacron_cache import Cache, CacheModel, CacheSettings, cached
from novacron_cache.link import LinkState

pytestmark = pytest.mark.servers

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
PASSWORD = "a-long-password"
WITHOUT_PERMISSION = {"auth", "hello"}
"""Whoever connects may say these; they are how one logs in."""


class Machine(CacheModel, key="machine:<machine_id>", ttl="1m", tags=["node:<node_id>"]):
    machine_id: str
    node_id: str


def rule() -> list[str]:
    """Return the rule as it stands in the documentation, for the user `shop` and the namespace `shop`."""
    found = re.search(r"^ACL SETUSER shop (.*(?:\n +.*)*)$", PAGE.read_text(), re.MULTILINE)
    assert found, f"{PAGE} has no access rule"
    return shlex.split(found[1].replace("\\\n", " "))


def allowed() -> set[str]:
    return {word[1:] for word in rule() if word.startswith("+")}


@pytest.fixture(scope="module", params=["valkey", "redis7"])
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    binary = valkey_binary() if request.param == "valkey" else redis_binary()
    with running(required(binary, request.param)) as started:
        assert started.command("ACL", "SETUSER", "shop", *rule()) == b"+OK\r\n"
        yield started


def settings(server: ServerProcess, namespace: str) -> CacheSettings:
    redis = {"url": server.url, "username": "shop", "password": PASSWORD, **PATIENT}
    return CacheSettings(namespace=namespace, redis=redis)


@pytest.fixture
def failures() -> list[Any]:
    return []


@pytest.fixture
def cache(server: ServerProcess, failures: list[Any]) -> Iterator[Cache]:
    server.flush()
    with Cache(settings(server, "shop")) as opened:
        for kind in ("tier_failed", "link_lost", "invalidation_delayed"):
            opened.on(kind, failures.append)
        yield opened


def linked(cache: Cache) -> None:
    cache.get("anything")
    link = cache.engine.link
    assert link is not None
    wait_until(lambda: link.state is LinkState.UP)


async def everything(cache: Cache) -> None:
    """Do, in both modes, whatever sends a command of another kind."""

    @cached(Machine, cache=cache)
    def machine(machine_id: str) -> Machine:
        return Machine(machine_id=machine_id, node_id="n1")

    linked(cache)
    machine("m1")
    cache.set("a", 1, tags=["red"])
    await cache.aset("b", 2, tags=["red", "round"])
    cache.touch("a", "2m")
    assert cache.get_many(["a", "b"]) == {"a": 1, "b": 2}
    for receipt in (
        cache.invalidate("a"),
        cache.invalidate_tags("red"),
        cache.invalidate_tags("red", "round", match="all"),
        await cache.ainvalidate_pattern("m*:m?"),
        cache.invalidate_model(Machine),
        await cache.aclear(purge=True),
    ):
        assert receipt.done
    with cache.invalidating(tags=["red"]), cache.invalidating(tags=["red"]):
        cache.get_or_load("held", lambda: 1, tags=["red"])
    # The log of rules is read by whoever finds its head moved.
    machine("m1")
    cache.invalidate_pattern("x*:?")
    linked(cache)
    assert cache.get("c") is None
    tier: Any = cache.engine.authority
    tier.ping()
    tier.info()


async def test_the_rule_is_enough(cache: Cache, failures: list[Any]) -> None:
    await everything(cache)
    assert failures == []


async def test_the_rule_names_no_command_that_is_never_sent(server: ServerProcess, cache: Cache) -> None:
    server.command("CONFIG", "RESETSTAT")
    await everything(cache)
    report = server.command("INFO", "commandstats").decode()
    sent = set(re.findall(r"cmdstat_([a-z|]+):", report)) - {"config|resetstat"}
    assert sent - WITHOUT_PERMISSION == allowed()


def test_another_namespace_is_out_of_reach(server: ServerProcess) -> None:
    with Cache(settings(server, "shop2")) as cache:
        refused: list[Any] = []
        cache.on("tier_failed", refused.append)
        cache.set("a", 1)
        assert refused
        assert "lacks a permission" in str(refused[0].error)
    assert server.command("KEYS", "nc:shop2:*") == b"*0\r\n"

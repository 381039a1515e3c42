"""A user of the server that is held to one application's keys is enough for all of the product, and for nothing else.

`tests/integration/test_acl.py` holds the rule in the documentation to the commands that are sent; here the whole
product runs under it: processes that share a load, links, audits, the monitor and every command of an operator.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from cli.operated import NAMESPACE, App, imported_from
from integration.test_acl import PASSWORD, rule
from security.witness import Witness
from servers import PATIENT, ServerProcess, redis_binary, required, running, valkey_binary, wait_until

from novacron_cache import Cache, cached
from novacron_cache.events import InvalidationDelayed, LinkLost, Miss, TierFailed
from novacron_cache.link import LinkState
from novacron_cache.observe.fleet import Fleet

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module", params=["valkey", "redis7"])
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    binary = valkey_binary() if request.param == "valkey" else redis_binary()
    with running(required(binary, request.param)) as started:
        fenced = [word.replace("nc:shop:", f"nc:{NAMESPACE}:") for word in rule()]
        assert started.command("ACL", "SETUSER", "shop", *fenced) == b"+OK\r\n"
        started.command("ACL", "SETUSER", "default", "resetpass", ">of-the-operator")
        yield started


@pytest.fixture
def url(server: ServerProcess) -> str:
    with redis.Redis.from_url(server.url, password="of-the-operator") as operator:
        operator.flushall()
    return server.url.replace("redis://", f"redis://shop:{PASSWORD}@")


@pytest.fixture
def app(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    with imported_from(tmp_path, monkeypatch):
        yield App(url, tmp_path, tmp_path / "disk")


def linked(cache: Cache) -> None:
    cache.get("anything")
    wait_until(lambda: cache.engine.link is not None and cache.engine.link.state is LinkState.UP)


def test_processes_share_loads_invalidations_and_figures_under_the_rule(app: App) -> None:
    with app.open() as one, app.open() as other:
        refused: list[Any] = []
        for cache in (one, other):
            for kind in (TierFailed, LinkLost, InvalidationDelayed):
                cache.on(kind, refused.append)
            linked(cache)
        loads: list[str] = []
        begun, ended = threading.Event(), threading.Event()

        def slow(name: str) -> str:
            loads.append(name)
            begun.set()
            assert ended.wait(10.0)
            return name

        first = cached(str, key="slow:<name>", name="slow", cache=one)(slow)
        second = cached(str, key="slow:<name>", name="slow", cache=other)(slow)
        leading = threading.Thread(target=first, args=["a"])
        leading.start()
        assert begun.wait(10.0)
        following = threading.Thread(target=second, args=["a"])
        following.start()
        ended.set()
        for thread in (leading, following):
            thread.join(10.0)
        assert loads == ["a"]
        one.set("k", 1)
        assert other.get("k") == 1
        one.invalidate("k")
        wait_until(lambda: other.get("k") is None)
        fleet = Fleet(one)

        def both() -> bool:
            fleet.look()
            return len(fleet.processes) == 2

        wait_until(both)
        assert refused == []


def test_every_command_of_an_operator_works_under_the_rule(app: App, tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0) -> Any:
        result = app.run(*arguments)
        assert result.exit_code == code, (arguments, result.output)
        assert "permission" not in result.output or arguments[0] == "doctor", result.output
        return result.output

    where = app.where
    run("warm", f"{app.name}:machine", "--args-from", f"{app.name}:machines")
    run("scan", "machine:*", *where)
    run("get", "machine:m-1", "--app", app.name)
    run("explain", "machine:m-1", "--app", app.name)
    run("stats", "--no-processes", *where)
    run("stats", *where)
    run("top", "--rounds", "1", "--interval", "0.5", *where)
    run("audit", f"{app.name}:cache", "--seconds", "0.5")
    run("backup", str(tmp_path / "copy"), *where)
    run("restore", str(tmp_path / "copy"), *where)
    run("invalidate", "--tag", "node:n1", "--dry-run", *where)
    run("invalidate", "--tag", "node:n1", *where)
    run("explain", "machine:m-1", "--app", app.name, code=1)
    run("invalidate", "--all", "--purge", "--yes", *where)
    run("scan", *where, code=1)


def test_doctor_finds_no_permission_missing_and_the_fence_right(app: App) -> None:
    result = app.run("doctor", "--json", *app.where)
    told = json.loads(result.stdout)
    found = [one for one in told["findings"] if one["check"] in ("permissions", "fence", "login")]
    assert {one["check"] for one in found} >= {"permissions", "fence"}
    assert [one for one in found if one["severity"] != "ok"] == []
    assert told["counts"]["problem"] == 0


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("MONITOR",),
        ("ACL", "LIST"), ("SHUTDOWN", "NOSAVE"), ("SCRIPT", "FLUSH"), ("REPLICAOF", "NO", "ONE"), ("SAVE",),
        ("GET", "nc:another:v:k"), ("SET", "nc:another:v:k", "1"), ("SET", "plain", "1"), ("PUBLISH", "x", "y"),
        ("EVAL", "return redis.call('MGET', 'nc:another:v:k')", "0"), ("SUBSCRIBE", "x"), ("MGET", "nc:another:v:k"),
    ],
    ids=lambda command: " ".join(command[:2]),
)  # fmt: skip
def test_whoever_has_its_password_can_do_no_more(url: str, command: tuple[str, ...]) -> None:
    with (
        redis.Redis.from_url(url) as client,
        pytest.raises(redis.exceptions.ResponseError, match=r"permission|ACL|can.t access"),
    ):
        client.execute_command(*command)


def test_a_user_without_a_permission_is_an_event_a_metric_and_an_alert(server: ServerProcess) -> None:
    url = server.url.replace("redis://", f"redis://shop:{PASSWORD}@")
    with Cache.connect(url, namespace="another", redis=PATIENT) as cache:
        witness = Witness(cache)
        assert cache.get_or_load("k", lambda: "loaded") == "loaded"
        witness.failed("redis", "lacks a permission")
        assert [event.reason for event in witness.of(Miss)] == ["tier_down"]
        witness.alarmed("permission")


def test_a_wrong_password_is_an_event_a_metric_and_an_alert(server: ServerProcess) -> None:
    url = server.url.replace("redis://", "redis://shop:wrong@")
    with Cache.connect(url, namespace=NAMESPACE, redis=PATIENT) as cache:
        witness = Witness(cache)
        assert cache.get_or_load("k", lambda: "loaded") == "loaded"
        witness.failed("redis", "refused the credentials")
        witness.alarmed("credentials")

"""The link against real servers: what is signalled arrives, and what goes wrong is noticed."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from link.recorder import Recorder
from servers import FaultProxy, Options, ServerProcess, wait_until

from novacron_cache.effects import Capture, Item, Renew, Store
from novacron_cache.link import LinkState, TrackingLink
from novacron_cache.markers import RULES, Rule, key_dep, new_id, tag_dep
from novacron_cache.tiers.redis import RedisConnections, RedisTier

pytestmark = pytest.mark.servers

BOUND = 60.0


class Linked:
    """A tier, its link, and what the link says."""

    def __init__(self, url: str, namespace: str = "link", *, bound: float = BOUND) -> None:
        self.tier = RedisTier(RedisConnections(Options(url=url)), namespace)
        self.recorder = Recorder()
        self.link = TrackingLink(
            self.tier.connect,
            prefix=self.tier.commands.signals,
            parse=self.tier.commands.parse_signal,
            subscriber=self.recorder,
            bound=bound,
        )

    def up(self) -> Linked:
        self.link.ensure()
        wait_until(lambda: self.link.state is LinkState.UP)
        return self

    def close(self) -> None:
        self.link.stop()
        self.tier.close()


@pytest.fixture
def open_link() -> Iterator[Callable[..., Linked]]:
    opened: list[Linked] = []

    def open_(url: str, namespace: str = "link", **options: Any) -> Linked:
        opened.append(Linked(url, namespace, **options))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


@pytest.mark.parametrize("dep", [key_dep("vm:1"), tag_dep("node {é} *%:x"), "n", "m:VMState", RULES])
def test_a_renewed_marker_is_signalled_once_with_its_new_id(
    valkey_server: ServerProcess, open_link: Callable[..., Linked], dep: str
) -> None:
    one = open_link(valkey_server.url).up()
    marker_id = new_id()
    one.tier.perform(Renew([(dep, marker_id)], 60.0))
    assert one.link.barrier(5.0)
    assert one.recorder.signals == [(dep, marker_id)]


def test_redis_7_signals_too(redis7_server: ServerProcess, open_link: Callable[..., Linked]) -> None:
    one = open_link(redis7_server.url).up()
    marker_id = new_id()
    one.tier.perform(Renew([("n", marker_id)], 60.0))
    assert one.link.barrier(5.0)
    assert one.recorder.signals == [("n", marker_id)]


def test_a_rule_signals_the_head_of_the_log(valkey_server: ServerProcess, open_link: Callable[..., Linked]) -> None:
    one = open_link(valkey_server.url).up()
    rule_id = new_id()
    one.tier.perform(Renew([], 60.0, [(rule_id, Rule(glob="v*1").encode())]))
    assert one.link.barrier(5.0)
    assert one.recorder.signals == [(RULES, rule_id)]


def test_storing_and_capturing_are_silent_but_a_new_key_id_is_not(
    valkey_server: ServerProcess, open_link: Callable[..., Linked]
) -> None:
    one = open_link(valkey_server.url).up()
    one.tier.perform(Store([Item("v", b"1", 10.0)], extend=["n"], life=60.0))
    marker_id = new_id()
    one.tier.perform(Capture(["n"], 60.0))
    one.tier.perform(Capture(["n"], 60.0, renew=[("k:v", marker_id)]))
    assert one.link.barrier(5.0)
    assert one.recorder.signals == [("k:v", marker_id)]


def test_another_namespace_is_not_heard(valkey_server: ServerProcess, open_link: Callable[..., Linked]) -> None:
    one, other = open_link(valkey_server.url).up(), open_link(valkey_server.url, "other")
    other.tier.perform(Renew([("n", new_id())], 60.0))
    assert one.link.barrier(5.0)
    assert one.recorder.signals == []


def test_heartbeats_move_the_horizon(valkey_server: ServerProcess, open_link: Callable[..., Linked]) -> None:
    one = open_link(valkey_server.url).up()
    first = one.recorder.valid_until
    wait_until(lambda: one.recorder.valid_until > first)
    assert one.recorder.valid_until <= time.monotonic() + BOUND


def test_a_server_that_forgets_everything_loses_the_link(
    valkey_server: ServerProcess, open_link: Callable[..., Linked]
) -> None:
    one = open_link(valkey_server.url).up()
    other = RedisConnections(Options(url=valkey_server.url)).client()
    other.execute_command("FLUSHALL")
    other.close()
    wait_until(lambda: one.recorder.lost == ["the server forgot everything"])
    wait_until(lambda: one.recorder.ups == 2)


def test_a_black_hole_is_noticed_within_the_bound_and_healed(
    valkey_server: ServerProcess, open_link: Callable[..., Linked]
) -> None:
    bound = 2.0
    with FaultProxy(valkey_server.port) as proxy:
        one = open_link(proxy.url, bound=bound).up()
        proxy.hold()
        last = one.recorder.valid_until
        wait_until(lambda: one.recorder.lost)
        assert one.recorder.valid_until >= last
        assert time.monotonic() <= one.recorder.valid_until + bound
        proxy.heal()
        wait_until(lambda: one.recorder.ups == 2)


def test_whoever_comes_first_waits_for_a_link_that_is_coming_up(
    valkey_server: ServerProcess, open_link: Callable[..., Linked]
) -> None:
    one = open_link(valkey_server.url)
    one.link.ensure()
    assert one.link.barrier(10.0)


def test_nobody_waits_for_a_link_that_was_lost_and_comes_back(
    valkey_server: ServerProcess, open_link: Callable[..., Linked], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = open_link(valkey_server.url).up()
    # It finds the server again, and then hears nothing from it.
    monkeypatch.setattr(one.link, "_beat", lambda peer: None)
    one.link.drop("a reason")
    wait_until(lambda: one.link.state is LinkState.ARMING)
    said: list[bool] = []
    waiting = threading.Thread(target=lambda: said.append(one.link.barrier(60.0)))
    waiting.start()
    try:
        wait_until(lambda: said == [False])
    finally:
        one.link.stop()
        waiting.join(10)


def test_a_barrier_on_a_lost_link_says_so(valkey_server: ServerProcess, open_link: Callable[..., Linked]) -> None:
    one = open_link(valkey_server.url)
    assert not one.link.barrier(1.0)


async def test_tasks_wait_for_a_barrier_without_blocking_the_loop(
    valkey_server: ServerProcess, open_link: Callable[..., Linked]
) -> None:
    one = open_link(valkey_server.url).up()
    assert all(await asyncio.gather(*(one.link.abarrier(5.0) for _ in range(20))))


def test_stopping_wakes_whoever_waits_and_ends_the_thread(
    valkey_server: ServerProcess, open_link: Callable[..., Linked]
) -> None:
    one = open_link(valkey_server.url).up()
    one.link.stop()
    assert not one.link.barrier(1.0)
    assert not [thread for thread in threading.enumerate() if thread.name == "novacron_cache link"]


def test_a_forked_child_does_not_disturb_its_parents_link(
    valkey_server: ServerProcess, open_link: Callable[..., Linked]
) -> None:
    one = open_link(valkey_server.url).up()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            one.link.ensure()
            wait_until(lambda: one.link.state is LinkState.UP)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    marker_id = new_id()
    one.tier.perform(Renew([("n", marker_id)], 60.0))
    assert one.link.barrier(5.0)
    assert one.recorder.signals == [("n", marker_id)]
    assert one.recorder.lost == []


def test_a_full_server_still_takes_an_invalidation(
    valkey_server: ServerProcess, open_link: Callable[..., Linked]
) -> None:
    one = open_link(valkey_server.url).up()
    admin = RedisConnections(Options(url=valkey_server.url)).client()
    admin.execute_command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    admin.execute_command("CONFIG", "SET", "maxmemory", "1")
    try:
        marker_id = new_id()
        assert one.tier.perform(Renew([("n", marker_id)], 60.0))
        assert one.link.barrier(5.0)
        assert one.recorder.signals == [("n", marker_id)]
    finally:
        admin.execute_command("CONFIG", "SET", "maxmemory", "0")
        admin.close()

"""One link to several masters: it vouches for what all of them have vouched for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import IMPATIENT, FaultProxy, Options, ServerProcess, wait_until

from novacron_cache.effects import Renew
from novacron_cache.link import LinkState, TrackingLink
from novacron_cache.markers import new_id
from novacron_cache.tiers.redis import RedisConnections, RedisTier

pytestmark = pytest.mark.servers

BOUND = 2.0


class Recorder:
    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.valid_until = 0.0

    def link_up(self, valid_until: float) -> None:
        self.told.append(("up", None))
        self.valid_until = valid_until

    def link_beat(self, valid_until: float) -> None:
        self.valid_until = valid_until

    def link_lost(self, reason: str) -> None:
        self.told.append(("lost", reason))

    def signalled(self, signals: list[tuple[str, bytes]]) -> None:
        self.told += [("signal", signal) for signal in signals]

    def count(self, what: str) -> int:
        return [told for told, _ in self.told].count(what)


class Masters:
    """Servers behind proxies, one tier for each, and one link to those that are named."""

    def __init__(self, servers: dict[str, ServerProcess]) -> None:
        self.proxies = {name: FaultProxy(server.port) for name, server in servers.items()}
        self.tiers = {
            name: RedisTier(RedisConnections(Options(url=proxy.url, **IMPATIENT)), "link")
            for name, proxy in self.proxies.items()
        }
        self.names = list(servers)
        self.confirmed: Callable[[], float] = time.monotonic
        self.recorder = Recorder()
        some = next(iter(self.tiers.values()))
        self.link = TrackingLink(
            lambda name: self.tiers[name].connect(),
            prefix=some.commands.signals,
            parse=some.commands.parse_signal,
            subscriber=self.recorder,
            bound=BOUND,
            masters=lambda: tuple(self.names),
            confirmed=lambda: self.confirmed(),
        )

    def up(self) -> Masters:
        self.link.ensure()
        wait_until(lambda: self.link.state is LinkState.UP)
        return self

    def close(self) -> None:
        self.link.stop()
        for tier in self.tiers.values():
            tier.close()
        for proxy in self.proxies.values():
            proxy.close()


@pytest.fixture
def masters(valkey_server: ServerProcess, redis7_server: ServerProcess) -> Iterator[Masters]:
    found = Masters({"a": valkey_server, "b": redis7_server})
    yield found
    found.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("novacron_cache link")] == []


def test_signals_of_every_master_arrive(masters: Masters) -> None:
    masters.up()
    signals = [(name, new_id()) for name in masters.names]
    for dep, marker_id in signals:
        masters.tiers[dep].perform(Renew([(dep, marker_id)], 60))
        assert masters.link.barrier(5)
    assert [what for told, what in masters.recorder.told if told == "signal"][-2:] == signals


def test_it_is_up_only_while_all_of_them_are(masters: Masters) -> None:
    masters.proxies["b"].hold()
    masters.link.ensure()
    wait_until(lambda: masters.recorder.count("lost"))  # b: no answer in time
    assert masters.recorder.count("up") == 0
    masters.proxies["b"].heal()
    masters.up()
    masters.proxies["a"].reset()
    wait_until(lambda: masters.recorder.count("up") == 2)
    ups_and_downs = [(told, what) for told, what in masters.recorder.told if told != "signal"]
    assert [told for told, _ in ups_and_downs[-3:]] == ["up", "lost", "up"]
    assert "(a)" in ups_and_downs[-2][1]


def test_a_slow_master_does_not_keep_the_signals_of_another_waiting(masters: Masters) -> None:
    masters.up()
    masters.proxies["b"].hold()
    marker_id = new_id()
    masters.tiers["a"].perform(Renew([("n", marker_id)], 60))
    wait_until(lambda: ("signal", ("n", marker_id)) in masters.recorder.told)
    told = [kind for kind, _ in masters.recorder.told]
    assert "lost" not in told[: told.index("signal")]  # nor was it waited for until it was given up


def test_the_horizon_is_that_of_the_master_heard_from_least_lately(masters: Masters) -> None:
    masters.up()
    masters.proxies["b"].hold()
    held = time.monotonic()
    wait_until(lambda: masters.link.state is not LinkState.UP)
    assert masters.recorder.valid_until <= held + BOUND


def test_a_barrier_waits_for_all(masters: Masters) -> None:
    masters.up()
    masters.proxies["b"].delay(0.1)
    start = time.monotonic()
    assert masters.link.barrier(5)
    assert time.monotonic() - start >= 0.1
    masters.proxies["b"].hold()
    assert not masters.link.barrier(0.1)


def test_a_master_that_is_added_takes_the_link_down_until_it_is_heard(masters: Masters) -> None:
    masters.names = ["a"]
    masters.up()
    masters.proxies["b"].hold()
    masters.names = ["a", "b"]
    masters.link.nudge()
    wait_until(lambda: ("lost", "the masters changed") in masters.recorder.told)
    assert masters.link.state is not LinkState.UP
    masters.proxies["b"].heal()
    wait_until(lambda: masters.link.state is LinkState.UP)
    masters.names = ["b"]
    masters.link.nudge()
    wait_until(lambda: masters.recorder.told.count(("lost", "the masters changed")) == 2)
    wait_until(lambda: masters.link.state is LinkState.UP)


def test_it_vouches_for_nothing_beyond_the_last_confirmation(masters: Masters) -> None:
    masters.up()
    last = time.monotonic()
    masters.confirmed = lambda: last
    wait_until(lambda: masters.recorder.count("lost"))
    assert masters.recorder.told[-1] == ("lost", "the masters are not confirmed any more")
    assert masters.recorder.valid_until <= last + BOUND
    assert masters.link.state is not LinkState.UP
    masters.confirmed = time.monotonic
    wait_until(lambda: masters.link.state is LinkState.UP)


def test_without_a_master_there_is_no_link(masters: Masters) -> None:
    masters.names = []
    masters.link.ensure()
    assert not masters.link.barrier(0.2)
    masters.names = ["a", "b"]
    masters.link.nudge()
    wait_until(lambda: masters.link.state is LinkState.UP)

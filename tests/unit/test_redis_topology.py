"""What is decided about a deployment without a server: maps, redirections, majorities."""

from __future__ import annotations

import math
from typing import Any

import pytest
from redis.exceptions import AskError, MovedError, ResponseError, TryAgainError

from novacron_cache.drivers import ask
from novacron_cache.effects import DOWN, Fetch
from novacron_cache.engine import Engine
from novacron_cache.entry import SystemClock
from novacron_cache.errors import TierUnavailableError
from novacron_cache.tiers.redis_nodes import ClusterMap, host_port, joined
from novacron_cache.tiers.redis_routing import MAX_HOPS, Routing, key_of, slot_of
from novacron_cache.tiers.redis_watch import confirmed

NODES = """\
aaa 10.0.0.1:7001@17001,node-1 myself,master - 0 0 1 connected 0-5460 [93->-bbb]
bbb 10.0.0.2:7001@17001,node-2 master - 0 1 2 connected 5461-10922
ccc 10.0.0.3:7001@17001,node-3 master - 0 1 3 connected 10923-16382 16383
ddd 10.0.0.4:7001@17001,node-4 slave aaa 0 1 1 connected
eee 10.0.0.5:7001@17001,node-5 master - 0 1 0 connected
fff 10.0.0.6:7001@17001,node-6 master,fail - 0 1 0 disconnected
ggg :0@0 master,noaddr - 0 1 0 disconnected
"""


# --- the map ----------------------------------------------------------------------------------------------------------


def test_a_map_says_who_serves_what_and_where_something_may_be_signalled() -> None:
    told = ClusterMap.parse(NODES, "10.0.0.1:7001")
    assert told.serving == {"10.0.0.1:7001", "10.0.0.2:7001", "10.0.0.3:7001"}
    # A master without slots may be about to get some; one that is gone, or nowhere, is not.
    assert set(told.masters) == told.serving | {"10.0.0.5:7001"}
    owners = told.owners()
    assert [owners[slot][-6] for slot in (0, 5460, 5461, 16382, 16383)] == ["1", "1", "2", "3", "3"]
    assert told.epoch == 3
    assert [member.slots for member in told.members if member.serves] == ["0-5460", "5461-10922", "10923-16382,16383"]


def test_a_map_goes_by_announced_names_where_certificates_do() -> None:
    assert "node-1:7001" in ClusterMap.parse(NODES, "10.0.0.1:7001", named=True).serving


def test_a_node_that_does_not_know_its_address_is_where_it_was_asked() -> None:
    told = ClusterMap.parse("aaa :7001@17001 myself,master - 0 0 1 connected 0-16383\n", "[::1]:7001")
    assert told.serving == {"[::1]:7001"}


def test_a_promoted_replica_succeeds_its_master_and_a_moved_slot_is_no_succession() -> None:
    old = ClusterMap.parse(NODES, "10.0.0.1:7001")
    promoted = NODES.replace("master - 0 0 1 connected 0-5460 [93->-bbb]", "master,fail - 0 0 1 disconnected").replace(
        "slave aaa 0 1 1 connected", "master - 0 1 4 connected 0-5460"
    )
    new = ClusterMap.parse(promoted, "10.0.0.4:7001")
    assert new.successors(old) == [("0-5460", "10.0.0.1:7001", "10.0.0.4:7001")]
    moved = NODES.replace("0-5460", "1-5460").replace("0 1 0 connected\nfff", "0 1 5 connected 0\nfff")
    assert ClusterMap.parse(moved, "10.0.0.1:7001").successors(old) == []


@pytest.mark.parametrize("address", ["10.0.0.1:7001", "node-1:7001", "[::1]:7001"])
def test_addresses_are_split_and_joined(address: str) -> None:
    assert joined(*host_port(address)) == address


# --- redirections -----------------------------------------------------------------------------------------------------


class Cluster:
    """Two nodes, and which of them is believed to serve everything."""

    def __init__(self, *commands: tuple[Any, ...]) -> None:
        self.belief = "a:1"
        self.moves: list[tuple[int, str]] = []
        self.routing = Routing(commands, lambda _: self.belief, self.moved)

    def moved(self, slot: int, address: str) -> None:
        self.moves.append((slot, address))
        self.belief = address

    def turn(self, *replies: Any) -> list[Any]:
        """Answer what travels to the only node there is to ask; return what that was."""
        ((address, sent),) = self.routing.groups().items()
        wire = self.routing.wire(sent)
        self.routing.answered(address, sent, replies)
        return [address, *wire]


def test_a_moved_slot_is_followed_and_remembered() -> None:
    cluster = Cluster(("GET", "k"))
    assert cluster.turn(MovedError("7 b:2")) == ["a:1", ("GET", "k")]
    assert cluster.moves == [(7, "b:2")]
    assert cluster.turn(b"v") == ["b:2", ("GET", "k")]
    assert cluster.routing.groups() == {}
    assert cluster.routing.replies == [b"v"]


def test_asking_elsewhere_is_for_once() -> None:
    cluster = Cluster(("GET", "k"), ("GET", "l"))
    cluster.turn(AskError("7 b:2"), b"l")
    assert cluster.turn(b"OK", TryAgainError("later")) == ["b:2", ("ASKING",), ("GET", "k")]
    assert cluster.turn(b"OK", b"v") == ["b:2", ("ASKING",), ("GET", "k")]
    assert cluster.routing.replies == [b"v", b"l"]
    assert cluster.moves == []


def test_a_node_without_a_name_of_its_own_is_where_it_was_asked() -> None:
    cluster = Cluster(("GET", "k"))
    cluster.turn(MovedError("7 :2"))
    assert cluster.moves == [(7, "a:2")]


def test_redirections_are_bounded() -> None:
    cluster = Cluster(("GET", "k"))
    for _ in range(MAX_HOPS + 1):
        cluster.turn(MovedError("7 b:2"))
    assert cluster.routing.groups() == {}
    assert isinstance(cluster.routing.replies[0], MovedError)


def test_trying_again_waits_longer_each_time() -> None:
    cluster = Cluster(("EVAL", "script", 2, "k", "l"))
    cluster.turn(TryAgainError("moving"))
    first = cluster.routing.pause
    cluster.turn(TryAgainError("moving"))
    assert 0 < first < cluster.routing.pause < 0.1


def test_waiting_for_replicas_goes_to_every_node_and_the_least_counts() -> None:
    routing = Routing(
        [("SET", "a"), ("WAIT", 1, 200), ("SET", "b")], lambda command: f"{command[1]}:1", lambda *_: None
    )
    groups = routing.groups()
    assert [routing.wire(sent) for sent in groups.values()] == [
        [("SET", "a"), ("WAIT", 1, 200)],
        [("SET", "b"), ("WAIT", 1, 200)],
    ]
    for (address, sent), count in zip(groups.items(), (2, 1), strict=True):
        routing.answered(address, sent, [b"OK", count])
    assert routing.replies == [b"OK", 1, b"OK"]


def test_other_errors_are_replies() -> None:
    cluster = Cluster(("GET", "k"))
    cluster.turn(ResponseError("WRONGTYPE"))
    assert isinstance(cluster.routing.replies[0], ResponseError)


def test_a_script_goes_where_its_first_key_lives() -> None:
    assert key_of(("EVAL", "return 1", 2, "m:{a}", "s:{a}", "x")) == "m:{a}"
    assert key_of(("TIME",)) is None
    assert slot_of("m:{a}") == slot_of(b"s:1:{a}") == slot_of("a")


# --- majorities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "needed", "since"),
    [([5.0, 9.0, 7.0], 2, 7.0), ([5.0], 1, 5.0), ([5.0], 2, -math.inf), ([], 1, -math.inf), ([9.0, 9.0, 1.0], 3, 1.0)],
)
def test_confirmed_is_when_the_last_of_a_majority_was_asked(asked: list[float], needed: int, since: float) -> None:
    assert confirmed(asked, needed) == since


# --- partial failures -------------------------------------------------------------------------------------------------


class Failing:
    name = "redis"
    has_clock = False

    def __init__(self, *, partial: bool) -> None:
        self.partial = partial

    def perform(self, operation: object) -> None:
        raise TierUnavailableError("a shard is down", tier="redis", partial=self.partial)


@pytest.mark.parametrize("partial", [True, False])
def test_a_partial_failure_does_not_open_the_breaker(partial: bool) -> None:
    tier: Any = Failing(partial=partial)
    engine = Engine(clock=SystemClock(), memory=None, shared=[tier], caps={}, pipeline=None)  # type: ignore[arg-type]  # unused
    failures: list[str] = []
    engine.listeners.on("*", lambda event: failures.append(event.kind))
    for _ in range(3):
        assert ask(engine, tier, Fetch(["k"])) is DOWN
    assert engine.breakers["redis"].is_open is not partial
    assert failures.count("tier_failed") == (3 if partial else 2)

"""What sentinels and nodes say about who the masters are, and how far that is believed: without a server."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from abandoned import let_go, waiting_in_a_closed_loop
from redis.exceptions import AuthenticationError, ResponseError
from servers import wait_until

from novacron_cache import CacheSettings
from novacron_cache.errors import TierUnavailableError
from novacron_cache.testing import ManualClock
from novacron_cache.tiers.redis_cluster_watch import ClusterWatch
from novacron_cache.tiers.redis_peers import PeerLostError
from novacron_cache.tiers.redis_sentinel import SentinelConnections, SentinelWatch
from novacron_cache.tiers.redis_watch import NEVER, Watch

BOUND = 3.0
SENTINELS = ("10.0.0.1:26379", "10.0.0.2:26379", "10.0.0.3:26379")
ONE, OTHER = b"10.0.1.1", b"10.0.1.2"


def nobody(name: str) -> Any:
    raise ConnectionRefusedError(name)


# -- sentinels ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sentinels(clock: ManualClock) -> SentinelWatch:
    return SentinelWatch(
        "mymaster",
        SENTINELS,
        nobody,
        replicas=("10.0.1.9:6379",),
        bound=BOUND,
        patience=0.01,
        monotonic=clock.monotonic,
    )


def name(watch: SentinelWatch, number: int, master: bytes, replicas: Any = ()) -> None:
    watch.hear(SENTINELS[number], [[master, b"6379"], list(replicas)], watch.monotonic())


def test_a_master_is_believed_when_a_majority_names_it_and_for_as_long_as_the_bound(
    sentinels: SentinelWatch, clock: ManualClock
) -> None:
    name(sentinels, 0, ONE)
    assert (sentinels.masters(), sentinels.trusted) == ((), False)
    clock.advance(1.0)
    name(sentinels, 1, ONE)
    assert (sentinels.masters(), sentinels.trusted) == (("10.0.1.1:6379",), True)
    clock.advance(BOUND - 1.1)
    assert sentinels.trusted
    clock.advance(0.2)
    assert not sentinels.trusted, "the first of the two was asked that long ago"
    assert sentinels.masters() == ("10.0.1.1:6379",)


def test_another_master_is_told_of_once_a_majority_names_it(sentinels: SentinelWatch) -> None:
    changes: list[str] = []
    sentinels.on_change.append(lambda: changes.append(*sentinels.masters()))
    for number in range(3):
        name(sentinels, number, ONE)
    name(sentinels, 0, OTHER)
    assert changes == ["10.0.1.1:6379"]
    name(sentinels, 1, OTHER)
    assert changes == ["10.0.1.1:6379", "10.0.1.2:6379"]
    assert sentinels.replaced == [("mymaster", "10.0.1.1:6379", "10.0.1.2:6379")]


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (None, "knows no master 'mymaster'; check redis.sentinel_master"),
        (ResponseError("unknown command 'SENTINEL'"), "is not a sentinel; redis.addresses has to name the sentinels"),
        (ResponseError("BUSY" + "x" * 300), "10.0.0.1:26379: BUSYx"),
    ],
)
def test_a_sentinel_that_names_nobody_takes_its_word_back_and_why_is_told(
    sentinels: SentinelWatch, reply: Any, problem: str
) -> None:
    for number in (0, 1):
        name(sentinels, number, ONE)
    sentinels.hear(SENTINELS[0], [reply, ResponseError("no")], sentinels.monotonic())
    assert problem in str(sentinels.refusal())
    assert "fewer than 2 of the 3 sentinels" in str(sentinels.refusal())
    sentinels.miss(SENTINELS[2], "no route", None)
    name(sentinels, 2, ONE)
    assert sentinels.trusted


def test_replicas_are_shown_as_the_sentinels_know_them_in_either_form(sentinels: SentinelWatch) -> None:
    lists = [[b"ip", b"10.0.1.2", b"port", b"6379", b"flags", b"slave"]]
    name(sentinels, 0, ONE, lists)
    name(sentinels, 1, ONE, [*lists, {b"ip": b"10.0.1.3", b"port": b"6379", b"flags": b"slave,s_down"}])
    told = {(node.address, node.role): node.ok for node in sentinels.topology().nodes}
    assert told == {
        (SENTINELS[0], "sentinel"): True,
        (SENTINELS[1], "sentinel"): True,
        (SENTINELS[2], "sentinel"): False,
        ("10.0.1.1:6379", "master"): True,
        ("10.0.1.9:6379", "replica"): False,
        ("10.0.1.2:6379", "replica"): True,
        ("10.0.1.3:6379", "replica"): False,
    }
    sentinels.hear(SENTINELS[0], [[ONE, b"6379"], ResponseError("NOPERM")], sentinels.monotonic())
    assert len(sentinels.topology().nodes) == len(told), "what was known stays known"


def test_before_anybody_has_spoken_there_is_no_master_to_show(sentinels: SentinelWatch) -> None:
    told = sentinels.topology()
    assert [node.role for node in told.nodes] == ["sentinel", "sentinel", "sentinel", "replica"]
    assert told.masters == ()
    assert sentinels.confirmed_at() == NEVER


def test_a_master_that_was_listed_as_a_replica_is_shown_once(sentinels: SentinelWatch) -> None:
    for number in (0, 1):
        name(sentinels, number, ONE, [[b"ip", ONE, b"port", b"6379", b"flags", b"slave"]])
    roles = [node.role for node in sentinels.topology().nodes if node.address == "10.0.1.1:6379"]
    assert roles == ["master"]


# -- waiting for them --------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(sentinels: SentinelWatch, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the poll was told; nobody is asked in fact."""
    asked: list[str] = []
    monkeypatch.setattr(sentinels._poll, "ensure", lambda: asked.append("begun"))
    monkeypatch.setattr(sentinels._poll, "ask_again", lambda: asked.append("again"))
    return asked


Require = Callable[[Watch], Any]


async def blocking(watch: Watch) -> None:
    await asyncio.to_thread(watch.require)


async def awaiting(watch: Watch) -> None:
    await watch.arequire()


@pytest.mark.parametrize("require", [blocking, awaiting])
async def test_whoever_needs_a_confirmed_master_waits_a_little_for_one(
    sentinels: SentinelWatch, asked: list[str], require: Require
) -> None:
    with pytest.raises(TierUnavailableError, match="fewer than 2"):
        await require(sentinels)
    sentinels.patience = 10.0
    waiting = asyncio.ensure_future(require(sentinels))
    await asyncio.to_thread(wait_until, lambda: sentinels._waiters)
    name(sentinels, 0, ONE)
    assert not waiting.done()
    name(sentinels, 1, ONE)
    await asyncio.wait_for(waiting, 10)
    assert sentinels._waiters == []
    before = len(asked)
    await require(sentinels)
    assert asked[before:] == ["begun"], "confirmed already: nobody is asked for that"


def test_whoever_waited_in_a_loop_that_is_closed_keeps_nobody_from_hearing(
    sentinels: SentinelWatch, asked: list[str]
) -> None:
    sentinels.patience = 10.0
    gone = waiting_in_a_closed_loop(sentinels.arequire())
    for number in (0, 1):
        name(sentinels, number, ONE)
    assert sentinels.trusted
    let_go(gone)


def test_everybody_is_asked_again_no_more_often_than_makes_sense(
    sentinels: SentinelWatch, asked: list[str], clock: ManualClock
) -> None:
    for _ in range(3):
        sentinels.refresh()
    assert asked.count("again") == 1
    clock.advance(10.0)
    sentinels.refresh()
    assert asked.count("again") == 2


# -- the nodes of a cluster --------------------------------------------------------------------------------------------


NODES = """\
aaa 10.0.0.1:7001@17001,node-1 myself,master - 0 0 1 connected 0-8191
bbb 10.0.0.2:7001@17001,node-2 master - 0 1 2 connected 8192-16383
ccc 10.0.0.3:7001@17001,node-3 slave aaa 0 1 1 connected
ddd 10.0.0.4:7001@17001,node-4 handshake - 0 1 0 disconnected
eee :0@0,node-5 slave,noaddr aaa 0 1 0 disconnected
"""
PROMOTED = (
    NODES.replace("myself,master - 0 0 1 connected 0-8191", "master,fail - 0 0 1 disconnected")
    .replace("slave aaa 0 1 1 connected", "master - 0 1 3 connected 0-8191")
)  # fmt: skip
SEEDS = ("10.0.0.1:7001", "10.0.0.2:7001")


@pytest.fixture
def nodes(clock: ManualClock) -> ClusterWatch:
    return ClusterWatch(
        SEEDS, nobody, replicas=("10.0.0.8:7001",), bound=BOUND, patience=0.01, monotonic=clock.monotonic
    )  # fmt: skip


def tell(watch: ClusterWatch, node: str, text: Any) -> None:
    watch.hear(node, [text if isinstance(text, Exception) else text.encode()], watch.monotonic())


def test_a_map_is_believed_when_a_majority_of_its_masters_has_it(nodes: ClusterWatch) -> None:
    assert set(nodes.witnesses()) == set(SEEDS)
    tell(nodes, SEEDS[0], NODES)
    assert not nodes.trusted
    assert "no majority of the cluster's 2 masters" in str(nodes.refusal())
    tell(nodes, SEEDS[1], NODES)
    assert nodes.trusted
    assert set(nodes.masters()) == set(SEEDS)
    assert nodes.owner(0) == SEEDS[0]


def test_a_promoted_replica_takes_the_place_and_the_name_of_its_master(nodes: ClusterWatch) -> None:
    for seed in SEEDS:
        tell(nodes, seed, NODES)
    tell(nodes, SEEDS[1], PROMOTED)
    assert not nodes.trusted
    tell(nodes, "10.0.0.3:7001", PROMOTED)
    assert nodes.trusted
    assert nodes.replaced == [("0-8191", "10.0.0.1:7001", "10.0.0.3:7001")]
    assert nodes.place("10.0.0.3:7001") == "10.0.0.1:7001"
    assert nodes.place("10.0.0.2:7001") == "10.0.0.2:7001"


def test_names_of_shards_are_let_go_with_their_nodes(nodes: ClusterWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("novacron_cache.tiers.redis_cluster_watch._MANY", 1)
    for number in range(6):
        serving = NODES.replace("10.0.0.1:7001", f"10.0.1.{number}:7001").replace(
            "master - 0 0 1", f"master - 0 0 {3 + number}"
        )
        tell(nodes, SEEDS[1], serving)
    assert len(nodes.replaced) == 5
    assert set(nodes._lineage) == {"10.0.1.5:7001"}
    assert nodes.place("10.0.1.5:7001") == "10.0.1.0:7001"


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (ResponseError("This instance has cluster support disabled"), "is not a node of a cluster; set redis.mode"),
        (ResponseError("unknown command 'CLUSTER'"), "is a sentinel; set redis.mode to 'sentinel'"),
        (ResponseError("LOADING " + "x" * 300), "10.0.0.1:7001: LOADING"),
        ("aaa :7001@17001 myself,master - 0 0 0 connected\n", "the cluster has not been created yet"),
    ],
)
def test_what_is_no_node_of_a_working_cluster_is_told(nodes: ClusterWatch, reply: Any, problem: str) -> None:
    tell(nodes, SEEDS[0], reply)
    assert problem in str(nodes.refusal())
    assert "no node in redis.addresses says" in str(nodes.refusal())


def test_what_a_node_said_of_a_slot_counts_until_a_map_says_otherwise(nodes: ClusterWatch) -> None:
    nodes._poll.ensure = lambda: None  # type: ignore[method-assign]  # of this test alone
    nodes._poll.ask_again = lambda: None  # type: ignore[method-assign]  # of this test alone
    nodes.moved(7, "10.0.0.2:7001")  # before there is a map: it will tell
    tell(nodes, SEEDS[0], NODES)
    assert nodes.owner(7) == SEEDS[0]
    nodes.moved(7, "10.0.0.2:7001")
    assert nodes.owner(7) == "10.0.0.2:7001"
    assert nodes.owner(8) == SEEDS[0]


def test_nodes_that_do_not_answer_are_shown_and_the_others_are_told_apart(nodes: ClusterWatch) -> None:
    for seed in SEEDS:
        tell(nodes, seed, NODES)
    nodes.miss(SEEDS[0], "no answer in time", None)
    assert nodes.others_answer({SEEDS[0]})
    assert not nodes.others_answer({SEEDS[1]})
    told = {node.address: (node.role, node.ok) for node in nodes.topology().nodes}
    assert told == {
        "10.0.0.1:7001": ("master", False),
        "10.0.0.2:7001": ("master", True),
        "10.0.0.3:7001": ("replica", True),
        "10.0.0.8:7001": ("replica", False),
    }


# -- the connections to them -------------------------------------------------------------------------------------------


class Sentinel:
    """A sentinel as a connection finds it: it may want a password, be no sentinel that knows PING, or not be there."""

    wants: str | None = None
    refuses: Exception | None = None
    met: ClassVar[list[Sentinel]] = []

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.open = True
        self.met.append(self)

    def connect(self) -> None:
        if self.wants is not None and self.options["password"] is None:
            raise AuthenticationError("NOAUTH")
        if self.wants is not None and self.options["password"] != self.wants:
            raise AuthenticationError("WRONGPASS")

    def send_command(self, command: str) -> None:
        assert command == "PING"

    def read_response(self) -> bytes:
        if self.refuses is not None:
            raise self.refuses
        return b"PONG"

    def disconnect(self) -> None:
        self.open = False


@pytest.fixture
def dial(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    Sentinel.met.clear()

    def dial(password: str | None = None, **sentinel: Any) -> Any:
        options = CacheSettings(
            namespace="shop",
            redis={
                "mode": "sentinel", "addresses": [SENTINELS[0]], "sentinel_master": "mymaster", "password": password
            },
        ).redis  # fmt: skip
        connections = SentinelConnections(options, bound=BOUND)
        kind = type("Kind", (Sentinel,), sentinel)
        pool = SimpleNamespace(
            connection_class=kind, connection_kwargs={"username": "default", "redis_connect_func": 1}
        )
        connections.__dict__["_template"] = pool
        return connections._dial(SENTINELS[0])

    return dial


def test_a_sentinel_is_told_a_password_only_when_it_wants_one(dial: Callable[..., Any]) -> None:
    found = dial("secret")
    assert found.open
    assert [one.options["password"] for one in Sentinel.met] == [None]
    assert (found.options["host"], found.options["port"], found.options["protocol"]) == ("10.0.0.1", 26379, 2)
    Sentinel.met.clear()
    found = dial("secret", wants="secret")
    assert [(one.options["password"], one.open) for one in Sentinel.met] == [(None, False), ("secret", True)]
    assert "redis_connect_func" not in found.options


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_sentinel_that_wants_another_password_is_a_failure_without_the_one_that_was_tried(
    dial: Callable[..., Any], password: str | None
) -> None:
    with pytest.raises(TierUnavailableError) as raised:
        dial(password, wants="secret")
    assert "wrong" not in str(raised.value)
    assert not any(one.open for one in Sentinel.met)


def test_a_refusal_shows_when_it_is_asked_and_what_is_not_there_shows_at_once(dial: Callable[..., Any]) -> None:
    assert dial(refuses=ResponseError("unknown command 'PING'")).open
    with pytest.raises(TierUnavailableError):
        dial(refuses=ConnectionRefusedError("no route"))
    assert not Sentinel.met[-1].open
    with pytest.raises(KeyboardInterrupt):
        dial(refuses=KeyboardInterrupt())
    assert not Sentinel.met[-1].open


# -- asking them -------------------------------------------------------------------------------------------------------


class Asked(SentinelWatch):
    """A watch whose sentinels are sockets of the test's own."""

    def __init__(self) -> None:
        self.theirs: list[socket.socket] = []
        super().__init__("mymaster", SENTINELS[:1], self.open, bound=BOUND, patience=10.0)

    def open(self, _: str) -> Any:
        ours, theirs = socket.socketpair()
        theirs.settimeout(10.0)
        self.theirs.append(theirs)
        return SimpleNamespace(_sock=ours, disconnect=ours.close)

    def question(self) -> socket.socket:
        """Return the latest socket, once a question has been asked on it."""
        wait_until(lambda: self.theirs)
        theirs = self.theirs[-1]
        assert theirs.recv(4096).count(b"SENTINEL") == 2
        return theirs


@pytest.fixture
def watch() -> Iterator[Asked]:
    watch = Asked()
    yield watch
    watch.close()
    for theirs in watch.theirs:
        theirs.close()


ANSWER = b"*2\r\n$8\r\n10.0.1.1\r\n$4\r\n6379\r\n*0\r\n"


def test_a_sentinel_is_asked_and_what_it_says_is_believed(watch: Asked) -> None:
    watch.ensure()
    watch.question().sendall(ANSWER)
    watch.require()
    assert watch.masters() == ("10.0.1.1:6379",)


def test_a_sentinel_that_says_what_nobody_asked_for_is_asked_over_another_connection(watch: Asked) -> None:
    watch.ensure()
    watch.question().sendall(ANSWER + b"+more\r\n")
    wait_until(lambda: len(watch.theirs) == 2)
    assert watch.problems[SENTINELS[0]] == "an answer that nothing asked for"
    watch.question().sendall(ANSWER)
    wait_until(lambda: not watch.problems)


def test_a_sentinel_that_does_not_answer_in_time_is_asked_over_another_connection(watch: Asked) -> None:
    watch._poll._patience = 0.01
    watch.ensure()
    watch.question()
    wait_until(lambda: len(watch.theirs) >= 2)
    watch._poll._patience = 10.0
    wait_until(lambda: "no answer in time" in watch.problems.values())


def test_the_thread_of_a_watch_that_is_gone_ends() -> None:
    watch = Asked()
    watch.ensure()
    thread, theirs = watch._poll._thread, watch.theirs
    watch.question().sendall(ANSWER)
    watch.require()
    poll = watch._poll
    del watch
    gc.collect()
    poll.nudge()
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()
    assert list(poll._names()) == []
    with pytest.raises(PeerLostError, match="nobody listens"):
        poll._dial(SENTINELS[0])
    for one in theirs:
        one.close()

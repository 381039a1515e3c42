"""What the redis tier sends and how it reads the replies; no server needed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import redis.exceptions
from hypothesis import given
from hypothesis import strategies as st
from servers import Options

from novacron_cache.effects import Capture, Delete, Fetch, Item, Operation, Purge, ReadRules, Renew, Store
from novacron_cache.errors import SettingsError, TierError, TierUnavailableError
from novacron_cache.markers import ID_BYTES, MAX_RULES, NAMESPACE, RULES, key_dep, tag_dep
from novacron_cache.tiers.redis import RedisConnections, RedisTier
from novacron_cache.tiers.redis_commands import Batch, Commands
from novacron_cache.tiers.redis_connections import tier_error
from novacron_cache.tiers.redis_scripts import APPEND, RENEW

shop = Commands("shop")
A, B = b"a" * ID_BYTES, b"b" * ID_BYTES


def result(operation: Operation, *replies: Any) -> Any:
    return shop.parse(operation, shop.plan(operation), replies)


def number(marker_id: bytes) -> bytes:
    """An id as its marker holds it."""
    return str(int.from_bytes(marker_id, "big", signed=True)).encode()


def renewal(dep: str, marker_id: bytes, px: int) -> tuple[Any, ...]:
    """A new id and its signal, in one step."""
    return ("EVAL", RENEW, 2, f"nc:shop:m:{{{dep}}}", f"nc:shop:s:{marker_id.hex()}:{{{dep}}}", number(marker_id), px)


# --- keys -------------------------------------------------------------------------------------------------------------


def test_every_key_stands_under_the_prefix_of_its_namespace() -> None:
    assert shop.value_key("vm~1") == "nc:shop:v:vm~1"
    assert shop.marker_key(NAMESPACE) == "nc:shop:m:{n}"
    assert shop.marker_key(tag_dep("node:1")) == "nc:shop:m:{t:node:1}"


def test_the_rule_log_and_its_head_share_a_hash_tag() -> None:
    assert shop.marker_key(RULES) == "nc:shop:m:{g}"
    assert shop.plan(ReadRules()) == [Batch([("LRANGE", "nc:shop:r:{g}", 0, MAX_RULES - 1)])]


@given(st.text(), st.text())
def test_two_dependencies_never_share_a_marker(one: str, other: str) -> None:
    first, second = shop.marker_key(key_dep(one)), shop.marker_key(key_dep(other))
    assert (first == second) == (one == other)
    assert [first.count(brace) for brace in "{}"] == [1, 1]


@given(st.text(), st.text())
def test_no_namespace_reaches_into_the_keys_of_another(one: str, other: str) -> None:
    prefix, foreign = Commands(one).value_key(""), Commands(other).value_key("")
    assert prefix == foreign if one == other else not foreign.startswith(prefix)


# --- plans ------------------------------------------------------------------------------------------------------------


def test_fetch_is_one_command_for_payloads_and_markers() -> None:
    operation = Fetch(["k1", "k2"], [NAMESPACE, RULES])
    assert shop.plan(operation) == [
        Batch([("MGET", "nc:shop:v:k1", "nc:shop:v:k2", "nc:shop:m:{n}", "nc:shop:m:{g}")]),
    ]
    fetched = result(operation, [b"one", None, number(A), None])
    assert (fetched.payloads, fetched.ids) == ([b"one", None], [A, None])


def test_capture_offers_a_fresh_id_and_takes_the_one_that_was_there() -> None:
    operation = Capture([NAMESPACE, tag_dep("x")], 1.5)
    plan = shop.plan(operation)
    (set_n, set_x, extend_n, extend_x) = plan[0].commands
    assert set_n[:2] == ("SET", "nc:shop:m:{n}")
    assert set_n[3:] == ("NX", "GET", "PX", 1500)
    assert set_n[2] != set_x[2]
    assert extend_n == ("PEXPIRE", "nc:shop:m:{n}", 1500, "GT")
    assert extend_x == ("PEXPIRE", "nc:shop:m:{t:x}", 1500, "GT")
    offered, _ = shop.parse(operation, plan, [None, None, 1, 1])
    assert number(offered) == set_n[2]
    assert len(offered) == ID_BYTES
    assert shop.parse(operation, plan, [None, number(B), 1, 1]) == [offered, B]


def test_capture_renews_in_the_same_trip() -> None:
    operation = Capture([NAMESPACE], 60, renew=[(key_dep("k"), A)])
    plan = shop.plan(operation)
    assert plan[0].commands[0] == renewal("k:k", A, 60_000)
    assert shop.parse(operation, plan, [1, number(B), 1]) == [B]


def test_store_writes_then_extends() -> None:
    operation = Store([Item("k", b"v", 30)], extend=[NAMESPACE], life=60)
    assert shop.plan(operation) == [
        Batch([
            ("SET", "nc:shop:v:k", b"v", "PX", 30_000),
            ("PEXPIRE", "nc:shop:m:{n}", 60_000, "GT"),
        ])
    ]  # fmt: skip
    assert result(operation, b"OK", 1) is True


def test_renew_sets_all_markers_in_one_trip() -> None:
    operation = Renew([(NAMESPACE, A), (tag_dep("x"), B)], 10)
    assert shop.plan(operation) == [Batch([renewal("n", A, 10_000), renewal("t:x", B, 10_000)])]


@pytest.mark.parametrize(
    "operation",
    [
        Renew([(key_dep("vm:1"), A)], 60.0),
        Renew([(key_dep("vm:1"), A), (key_dep("vm:2"), B)], 60.0, obeyed=True),
        Renew([(key_dep("vm:1"), A)], 60.0, [(B, b"rule")], obeyed=True),
        Renew([], 60.0, [(B, b"rule")], obeyed=True),
        Renew([(key_dep("vm:1"), A)], 60.0, replicas=1, obeyed=True),
    ],
    ids=["not obeyed", "two", "with a rule", "a rule alone", "with replicas"],
)
def test_an_echo_is_expected_of_one_renewal_that_was_obeyed_already(operation: Renew) -> None:
    assert [batch.echo for batch in shop.plan(operation)] == [b""]
    (only,) = shop.plan(Renew([(key_dep("vm:1"), A)], 60.0, obeyed=True))
    assert only.commands == [renewal("k:vm:1", A, 60_000)]
    assert only.echo.endswith(b"\r\n" + shop.signal_key("k:vm:1", A).encode() + b"\r\n")


def test_rules_and_the_head_move_in_one_step_whose_keys_share_a_slot() -> None:
    (batch,) = shop.plan(Renew([], 10, rules=[(A, b"one"), (B, b"two")]))
    keys = ("nc:shop:m:{g}", f"nc:shop:s:{B.hex()}:{{g}}", "nc:shop:r:{g}")
    assert batch.commands == [("EVAL", APPEND, 3, *keys, number(B), 10_000, MAX_RULES - 1, A + b"one", B + b"two")]


def test_markers_and_rules_travel_together() -> None:
    (batch,) = shop.plan(Renew([(NAMESPACE, A)], 10, rules=[(B, b"r")]))
    assert [command[:2] for command in batch.commands] == [("EVAL", RENEW), ("EVAL", APPEND)]


@given(st.binary(min_size=ID_BYTES, max_size=ID_BYTES))
def test_an_id_comes_back_from_the_number_that_its_marker_holds(marker_id: bytes) -> None:
    assert result(Fetch([], [NAMESPACE]), [number(marker_id)]).ids == [marker_id]


@pytest.mark.parametrize("what", [b"", b"x" * 12, b"007", b"-0", b"+1", b" 1", b"1_0", b"1.0", b"9" * 30, 17, "17"])
def test_a_marker_that_holds_something_else_is_missing(what: Any) -> None:
    assert result(Fetch([], [NAMESPACE]), [what]).ids == [None]


# --- signals ----------------------------------------------------------------------------------------------------------


@given(st.text(), st.binary(min_size=ID_BYTES, max_size=ID_BYTES))
def test_a_signal_key_says_what_got_which_id(text: str, marker_id: bytes) -> None:
    dep = tag_dep(text)
    assert shop.parse_signal(shop.signal_key(dep, marker_id).encode()) == (dep, marker_id)


@pytest.mark.parametrize(
    "key", [b"nc:shop:v:k", b"nc:shop:s:", b"nc:shop:s:zz:{n}", b"nc:shop:s:00:n", b"nc:other:s:00:{n}", b"\xff"]
)
def test_any_other_key_is_no_signal(key: bytes) -> None:
    assert shop.parse_signal(key) is None


def test_rules_are_read_as_id_and_rule() -> None:
    assert result(ReadRules(), [B + b"two", A + b""]) == [(B, b"two"), (A, b"")]


def test_delete_unlinks() -> None:
    assert shop.plan(Delete(["a", "b"])) == [Batch([("UNLINK", "nc:shop:v:a", "nc:shop:v:b")])]


@pytest.mark.parametrize(
    ("operation", "nothing"),
    [(Fetch([]), ([], [])), (Capture([], 1), []), (Store([]), True), (Renew([], 1), True), (Delete([]), True)],
)
def test_what_asks_for_nothing_sends_nothing(operation: Operation, nothing: Any) -> None:
    assert shop.plan(operation) == []
    answer = result(operation)
    assert ((answer.payloads, answer.ids) if isinstance(operation, Fetch) else answer) == nothing


@pytest.mark.parametrize(("seconds", "px"), [(0, 1), (0.0001, 1), (0.25, 250), (1e18, 100 * 365 * 86_400_000)])
def test_durations_become_milliseconds_the_server_accepts(seconds: float, px: int) -> None:
    assert shop.plan(Store([Item("k", b"v", seconds)]))[0].commands == [("SET", "nc:shop:v:k", b"v", "PX", px)]


def test_purge_scans_to_the_end_and_unlinks_what_it_finds() -> None:
    steps = shop.steps(Purge())
    assert next(steps).commands[0][:4] == ("SCAN", 0, "MATCH", "nc:shop:v:*")
    assert steps.send([[b"17", [b"nc:shop:v:a"]]]) == Batch([("UNLINK", b"nc:shop:v:a")])
    assert steps.send([1]).commands[0][:2] == ("SCAN", b"17")
    with pytest.raises(StopIteration) as done:
        steps.send([[b"0", []]])
    assert done.value.value is True


# --- errors -----------------------------------------------------------------------------------------------------------


def named(error: Exception) -> TierError:
    return tier_error(error, where="redis://cache:6379/0", secrets=["hunter2"])


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.ConnectionError("refused"),
        redis.exceptions.TimeoutError("slow"),
        redis.exceptions.MaxConnectionsError("Too many connections"),
        redis.exceptions.BusyLoadingError("loading"),
        redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis.exceptions.ReadOnlyError("You can't write against a read only replica."),
        redis.exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        redis.exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."),
        redis.exceptions.ResponseError("Command # 1 (SET k v) of pipeline caused error: MISCONF cannot persist"),
        redis.exceptions.ClusterDownError("CLUSTERDOWN"),
        redis.exceptions.InvalidResponse("Protocol Error"),
        ConnectionResetError("reset"),
        TimeoutError(),
    ],
)
def test_a_server_that_cannot_serve_is_unavailable(error: Exception) -> None:
    assert type(named(error)) is TierUnavailableError
    assert named(error).tier == "redis"


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        redis.exceptions.DataError("Invalid input"),
        AttributeError("'NoneType' object has no attribute 'writelines'"),
    ],
)
def test_any_other_failure_is_an_error_of_the_tier(error: Exception) -> None:
    assert type(named(error)) is TierError


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.AuthenticationError("Authentication required."),
        redis.exceptions.ResponseError("WRONGPASS invalid username-password pair"),
        redis.exceptions.ResponseError("NOAUTH HELLO must be called"),
    ],
)
def test_refused_credentials_name_the_setting(error: Exception) -> None:
    assert type(named(error)) is TierUnavailableError
    assert "redis.password" in str(named(error))


def test_refused_credentials_are_found_below_a_connection_error() -> None:
    wrapper = redis.exceptions.ConnectionError("wrapped")
    wrapper.__cause__ = redis.exceptions.AuthenticationError("invalid username-password pair")
    assert "redis.password" in str(named(wrapper))


def test_the_reason_of_a_discarded_transaction_is_what_counts() -> None:
    reason = redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
    reason.__cause__ = redis.exceptions.ExecAbortError("Transaction discarded because of previous errors.")
    assert type(named(reason)) is TierUnavailableError


def test_messages_hold_no_secret_no_key_and_no_value() -> None:
    quoting = redis.exceptions.ResponseError("Command # 1 (SET nc:shop:v:k value) of pipeline caused error: ERR syntax")
    assert "nc:shop" not in str(named(quoting))
    assert "syntax" in str(named(quoting))
    unknown = redis.exceptions.ResponseError("unknown command 'UNLINK', with args beginning with: 'nc:shop:v:k'")
    assert "nc:shop" not in str(named(unknown))
    assert "hunter2" not in str(named(redis.exceptions.ConnectionError("cannot reach user:hunter2@cache")))


# --- connections ------------------------------------------------------------------------------------------------------


def settings(url: str, **more: Any) -> Options:
    return replace(Options(url=url), **more)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://cache", "redis://cache:6379/0"),
        ("redis://me:hunter2@cache:7000/3", "redis://cache:7000/3"),
        ("rediss://:hunter2@[::1]:7000?db=2", "rediss://[::1]:7000/2"),
        ("unix:///run/cache.sock?db=1&password=hunter2", "unix:///run/cache.sock"),
    ],
)
def test_an_address_is_shown_without_credentials(url: str, where: str) -> None:
    connections = RedisConnections(settings(url))
    assert connections.where == where
    tier = RedisTier(connections, "shop")
    assert "hunter2" not in f"{connections!r} {tier!r}"
    assert where in repr(tier)


def test_a_setting_wins_over_the_same_thing_in_the_url() -> None:
    connections = RedisConnections(settings("redis://a:b@cache", username="me", password="hunter2"))
    kwargs = connections.client().connection_pool.connection_kwargs
    assert (kwargs["username"], kwargs["password"]) == ("me", "hunter2")


def test_a_password_in_the_url_is_decoded() -> None:
    connections = RedisConnections(settings("redis://me:p%40ss@cache"))
    assert connections.client().connection_pool.connection_kwargs["password"] == "p@ss"


def test_a_secret_object_is_opened_only_for_the_client() -> None:
    from pydantic import SecretStr

    connections = RedisConnections(settings("redis://cache", password=SecretStr("hunter2")))
    assert connections.client().connection_pool.connection_kwargs["password"] == "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:hunter2/x@cache",
        "redis://me:hunter2@cache:port",
        "redis://me:hunter2@cache/database",
        "http://me:hunter2@cache",
        "unix://",
        "redis://cache?decode_responses=1&password=hunter2",
        "",
    ],
)
def test_a_bad_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match=r"redis\.url") as caught:
        RedisConnections(settings(url))
    assert caught.value.variable == "redis.url"
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "hunter2" not in str(chain)
        chain = None if chain.__suppress_context__ else chain.__cause__ or chain.__context__


def test_the_clients_try_once_wait_briefly_and_speak_resp3() -> None:
    briefly = {"connect_timeout": 0.25, "socket_timeout": 0.5}
    connections = RedisConnections(settings("redis://cache", max_connections=7, **briefly))
    for client in (connections.client(), connections.aclient()):
        pool = client.connection_pool
        assert (pool.max_connections, pool.timeout) == (7, 0.25)
        connection = pool.make_connection()
        assert connection.retry.get_retries() == 0
        assert (connection.socket_timeout, connection.socket_connect_timeout) == (0.5, 0.25)
        assert connection.protocol == 3
        assert not client.response_callbacks


def test_tls_verifies_unless_told_not_to() -> None:
    for verify, required in ((True, "required"), (False, "none")):
        kwargs = RedisConnections(settings("rediss://cache", tls_verify=verify)).client().connection_pool
        assert kwargs.connection_kwargs["ssl_cert_reqs"] == required
        assert kwargs.connection_kwargs["ssl_check_hostname"] is verify


def test_importing_the_tier_does_not_import_redis() -> None:
    program = "import sys; from novacron_cache.tiers.redis import RedisTier; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_closed_tier_is_unavailable_and_closes_twice() -> None:
    tier = RedisTier(RedisConnections(settings("redis://cache")), "shop")
    tier.close()
    tier.close()
    with pytest.raises(TierUnavailableError, match="closed"):
        tier.perform(Fetch(["k"]))

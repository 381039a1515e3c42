"""What `doctor` checks of the servers: whether each can keep markers, and what it costs where it keeps them badly.

What the application's own user may not ask is not asked. Permissions are the exception: one script asks the server
itself what this user may do, so that nothing has to be tried.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import quantiles
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from .findings import Finding, Severity, note, ok, problem, warning
from .targets import said

if TYPE_CHECKING:
    from .. import CacheSettings
    from ..tiers import Tier

__all__ = ["DANGEROUS", "NEEDED", "check_servers"]

PINGS: Final = 50
SLOW: Final = 0.005
"""Seconds for an answer, half of the time: what a look into the shared tier is meant to stay below."""

NEEDED: Final = (
    *("mget", "set", "pexpire", "eval", "evalsha", "lrange", "unlink", "scan", "time", "info", "ping"),
    *("client|tracking", "client|setname", "pttl", "del", "lpush", "ltrim", "type", "exists", "zadd", "zrem", "zscore"),
    *("zremrangebyscore", "zremrangebyrank"),
)
"""What the cache sends itself or through its scripts; the configuration page has the rule."""

DANGEROUS: Final = (
    *("flushall", "flushdb", "keys", "config|set", "shutdown", "debug|object", "acl|setuser", "replicaof", "monitor"),
    *("module|load", "script|flush", "swapdb", "save", "client|kill"),
)

_ASK: Final = """
local found = {}
for place, command in ipairs(ARGV) do
    local words = {}
    for word in string.gmatch(command, '[^ ]+') do words[#words + 1] = word end
    local asked, may = pcall(redis.acl_check_cmd, unpack(words))
    found[place] = (not asked) and 2 or (may and 1 or 0)
end
return found
"""

# A command is only looked at with as many words as it takes.
_WORDS: Final = {
    "mget": "mget {key}", "set": "set {key} 1", "pexpire": "pexpire {key} 1", "eval": "eval 1 0",
    "evalsha": "evalsha 1 0", "lrange": "lrange {key} 0 1", "unlink": "unlink {key}", "scan": "scan 0",
    "client|tracking": "client tracking on", "client|setname": "client setname x",
    "pttl": "pttl {key}", "del": "del {key}", "lpush": "lpush {key} 1",
    "ltrim": "ltrim {key} 0 1", "type": "type {key}", "exists": "exists {key}", "zadd": "zadd {key} 1 1",
    "zrem": "zrem {key} 1", "zscore": "zscore {key} 1", "zremrangebyscore": "zremrangebyscore {key} 0 1",
    "zremrangebyrank": "zremrangebyrank {key} 0 1", "keys": "keys *", "config|set": "config set maxmemory 1",
    "debug|object": "debug object x", "acl|setuser": "acl setuser x", "replicaof": "replicaof no one",
    "module|load": "module load x", "script|flush": "script flush", "swapdb": "swapdb 0 1",
    "client|kill": "client kill x",
}  # fmt: skip

_POLICIES: Final[dict[str, tuple[Severity, str]]] = {
    "volatile-lru": ("ok", "evicts what has not been used for longest, of what has a ttl; all of ours has"),
    "volatile-lfu": ("ok", "evicts what is used least, of what has a ttl; all of ours has"),
    "volatile-random": ("note", "evicts at random, holds and leases too: a load may be done twice"),
    "volatile-ttl": ("warning", "evicts what ends soonest: holds and leases go first, which are in use"),
    "allkeys-lru": ("note", "evicts keys without a ttl too: fine for a server that is nothing but a cache"),
    "allkeys-lfu": ("note", "evicts keys without a ttl too: fine for a server that is nothing but a cache"),
    "allkeys-random": ("note", "evicts at random, keys without a ttl too, holds and leases as well"),
    "noeviction": ("note", "evicts nothing: when memory is full, new values are not stored until old ones expire"),
}


def check_servers(tier: Tier, settings: CacheSettings) -> Iterator[Finding]:
    """Yield what is found about the servers of a redis tier."""
    from ..errors import TierError

    redis: Any = tier
    yield from _transport(settings)
    try:
        servers = redis.servers()
        for server in servers:
            redis.ask(server, "PING")
    except TierError as error:
        yield problem(
            "connection", said(error), "see that the server runs, and that redis.* of the settings lead to it"
        )
        return
    except Exception as error:  # a cluster's nodes are found by a client that has errors of its own
        yield problem("connection", f"{type(error).__name__}: {said(error)}", "see that redis.* lead to the servers")
        return
    clocks: list[float] = []
    for server in servers:
        try:
            info = _info(redis.ask(server, "INFO"))
            yield from _version(info, server)
            yield from _history(info, server)
            yield from _persistence(info, server)
            yield from _memory(info, server)
            yield from _replicas(info, settings, server)
            yield from _connections(info, settings, server)
            yield from _latency(redis, settings, server)
            yield from _clock(redis, server, clocks)
            yield from _permissions(redis, settings, server)
            yield from _push(redis, server, many=settings.redis.mode == "cluster")
        except TierError as error:
            yield problem("connection", said(error), "see docs: what a Redis ACL must allow", server)
    if len(clocks) > 1 and max(clocks) - min(clocks) > 0.5:
        yield warning(
            "clock", f"the masters' clocks differ by {max(clocks) - min(clocks):.1f} s, and values expire by them",
            "run a time service (chrony, systemd-timesyncd) on every server",
        )  # fmt: skip
    yield from _watched(redis, settings)


def _info(reply: Any) -> dict[str, str]:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def _transport(settings: CacheSettings) -> Iterator[Finding]:
    redis = settings.redis
    hosts = [host for host, _ in redis.nodes] or [urlsplit(redis.url or "").hostname or ""]
    local = redis.mode == "embedded" or (redis.url or "").startswith("unix:") or all(map(_is_local, hosts))
    if redis.tls_on and not redis.tls_verify:
        yield warning(
            "tls", "certificates are not verified: anybody in between can read and write",
            "leave tls_verify on, and name the authority in redis.tls_ca_file",
        )  # fmt: skip
    elif redis.tls_on:
        yield ok("tls", "connections are encrypted, and the server's certificate is verified")
    elif local:
        yield ok("tls", "not used; the connection does not leave this machine")
    else:
        yield warning(
            "tls", "passwords and values cross the network in the clear",
            "use rediss:// or redis.tls_ca_file, or a network that nobody else is in",
        )  # fmt: skip
    credentials = redis.password is not None or "@" in (redis.url or "")
    if not credentials and not local:
        yield warning(
            "login", "the server is used without a password",
            "give the application a user of its own (docs: what a Redis ACL must allow) and set redis.password",
        )  # fmt: skip


def _is_local(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _version(info: dict[str, str], server: str) -> Iterator[Finding]:
    version = info.get("redis_version", "")
    name = (
        f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {version or 'of unknown version'}"
    )
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < 7:
        yield problem("version", f"{name}, and 7 or later is needed", "upgrade the server", server)
    else:
        yield ok("version", name, server)


def _history(info: dict[str, str], server: str) -> Iterator[Finding]:
    role = info.get("role", "")
    if role != "master":
        yield problem("role", f"a {role or 'server of unknown role'}, not a master", "name the master", server)
    if info.get("master_replid"):
        yield ok("history", "the server names its history, so one that comes back from a copy is noticed", server)
    else:
        yield problem(
            "history", "the server does not say which history it has (master_replid)",
            "connect to it directly: a proxy hides what tells a restored server from the old one", server,
        )  # fmt: skip


def _persistence(info: dict[str, str], server: str) -> Iterator[Finding]:
    failed = [
        name
        for name, field in (
            ("snapshot", "rdb_last_bgsave_status"),
            ("log", "aof_last_write_status"),
            ("log's rewrite", "aof_last_bgrewrite_status"),
        )
        if info.get(field, "ok") != "ok"
    ]
    if failed:
        yield problem(
            "persistence", f"the last {' and '.join(failed)} failed", "see the server's log, and the room on its disk",
            server,
        )  # fmt: skip
    elif info.get("aof_enabled") == "1":
        yield ok("persistence", "an append-only log: after a restart the cache is warm", server)
    elif int(info.get("rdb_last_save_time", "0")) and int(info.get("rdb_saves", "0")):
        yield ok("persistence", "snapshots: after a restart the cache is mostly warm", server)
    else:
        yield note(
            "persistence", "no append-only log: after a restart everything is loaded anew, and nothing is stale",
            "set appendonly yes for a warm start", server,
        )  # fmt: skip


def _memory(info: dict[str, str], server: str) -> Iterator[Finding]:
    used, limit = int(info.get("used_memory", "0")), int(info.get("maxmemory", "0"))
    policy = info.get("maxmemory_policy", "")
    if not limit:
        yield warning(
            "memory", f"{_mb(used)} used and no limit: the server grows until the machine stops it",
            "set maxmemory, to half of what the machine or the container has", server,
        )  # fmt: skip
    elif used > 0.9 * limit:
        yield warning(
            "memory", f"{used / limit:.0%} of {_mb(limit)} used", "raise maxmemory, or add servers", server
        )  # fmt: skip
    else:
        yield ok("memory", f"{_mb(used)} used of {_mb(limit)}", server)
    severity, text = _POLICIES.get(policy, ("note", "is not known to this version"))
    fix = "set maxmemory-policy volatile-lru" if severity != "ok" else ""
    if not limit and severity == "note":
        fix = ""
    yield Finding("eviction", severity, f"{policy}: {text}", fix, server)


def _replicas(info: dict[str, str], settings: CacheSettings, server: str) -> Iterator[Finding]:
    replicas = int(info.get("connected_slaves", "0"))
    # The server says how many are good only where some are required.
    required = "min_slaves_good_slaves" in info
    mode = settings.redis.mode
    if mode == "sentinel" and not replicas:
        yield problem("replicas", "none is connected: nobody can take over", "see that the replicas run", server)
    elif mode == "sentinel" and not required:
        yield warning(
            "replicas", f"{replicas} connected; a master that is cut off from them goes on taking what will be lost",
            "set min-replicas-to-write 1 and min-replicas-max-lag 3", server,
        )  # fmt: skip
    elif mode == "cluster" and required:
        yield warning(
            "replicas", "writes need a replica: after a failover the shard takes none until the old master is back",
            "set min-replicas-to-write 0; the majority stops a master that is cut off", server,
        )  # fmt: skip
    elif mode == "cluster" and not replicas:
        yield warning("replicas", "none: when this master dies its shard is gone", "add a replica to it", server)
    elif replicas:
        yield ok("replicas", f"{replicas} connected", server)


def _connections(info: dict[str, str], settings: CacheSettings, server: str) -> Iterator[Finding]:
    limit, now = int(info.get("maxclients", "0")), int(info.get("connected_clients", "0"))
    own = settings.redis.max_connections + 1
    if not limit:
        return
    if now + own > limit:
        yield warning(
            "connections", f"{now} of {limit} in use, and one process may open {own} more",
            "lower redis.max_connections, or raise maxclients", server,
        )  # fmt: skip
    else:
        room = (limit - now) // own
        yield ok("connections", f"{now} of {limit} in use; there is room for {room} processes of {own}", server)


def _latency(redis: Any, settings: CacheSettings, server: str) -> Iterator[Finding]:
    times = []
    for _ in range(PINGS):
        began = time.perf_counter()
        redis.ask(server, "PING")
        times.append(time.perf_counter() - began)
    cuts = quantiles(times, n=100)
    half, most = cuts[49], cuts[98]
    text = f"an answer takes {half * 1000:.2f} ms (p50), {most * 1000:.2f} ms (p99)"
    timeout = settings.redis.socket_timeout
    if most > timeout / 2:
        yield warning(
            "latency", f"{text}; redis.socket_timeout is {timeout * 1000:.0f} ms",
            "bring the server nearer, or raise redis.socket_timeout", server,
        )  # fmt: skip
    elif half > SLOW:
        yield warning("latency", text, "bring the server nearer: each look into it takes as long", server)
    else:
        yield ok("latency", text, server)


def _clock(redis: Any, server: str, offsets: list[float]) -> Iterator[Finding]:
    before = time.time()
    seconds, micro = redis.ask(server, "TIME")
    offset = int(seconds) + int(micro) / 1e6 - (before + time.time()) / 2
    offsets.append(offset)
    text = f"the server's clock is {abs(offset):.3f} s {'ahead' if offset > 0 else 'behind'}; values expire by it"
    if abs(offset) > 5:
        yield warning("clock", text, "run a time service (chrony, systemd-timesyncd) on both", server)
    else:
        yield ok("clock", text, server)


def _permissions(redis: Any, settings: CacheSettings, server: str) -> Iterator[Finding]:
    from ..errors import TierError

    prefix = redis.commands.value_key("")
    needed = [*NEEDED, *(("cluster|nodes",) if settings.redis.mode == "cluster" else ())]
    own = [_WORDS.get(one, one.replace("|", " ")).format(key=f"{prefix}doctor") for one in needed]
    foreign = "mget nc:doctor-of-another-application:x"
    try:
        asked = [*own, *(_WORDS.get(one, one.replace("|", " ")) for one in DANGEROUS), foreign]
        found = redis.ask(server, "EVAL", _ASK, 0, *asked)
    except TierError as error:
        yield problem("permissions", said(error), "allow +eval; docs: what a Redis ACL must allow", server)
        return
    missing = [name for name, may in zip(needed, found, strict=False) if may == 0]
    if missing:
        allow = " ".join(f"+{one}" for one in missing)
        user = settings.redis.username or "default"
        yield problem(
            "permissions", f"the user may not send {', '.join(missing)}", f"run: ACL SETUSER {user} {allow}", server
        )  # fmt: skip
    else:
        yield ok("permissions", "the user may send all that the cache does", server)
    too_much = [name for name, may in zip(DANGEROUS, found[len(needed) :], strict=False) if may == 1]
    if too_much or found[-1] == 1:
        more = f"commands such as {', '.join(too_much[:4])}" if too_much else ""
        keys = "keys of other applications" if found[-1] == 1 else ""
        yield warning(
            "fence", f"the user may use {' and '.join(filter(None, (more, keys)))}",
            f"give the application a user that is held to ~{prefix.removesuffix('v:')}* (docs: what a Redis ACL must "
            f"allow)", server,
        )  # fmt: skip
    else:
        yield ok("fence", f"the user is held to {prefix.removesuffix('v:')}*", server)


def _push(redis: Any, server: str, *, many: bool) -> Iterator[Finding]:
    """Check on a connection of its own that the server would push what is invalidated."""
    connection: Any = None
    try:
        connection = redis.connect(server) if many else redis.connect()
        prefix = redis.commands.signals
        connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix, check_health=False)
        connection.read_response()
        yield ok("push", "RESP3 and tracking: invalidations of other processes arrive as they happen", server)
    except Exception as error:
        yield warning(
            "push", f"no push messages ({said(error)}): other processes notice an invalidation within staleness_bound",
            "connect without a proxy that hides RESP3, and allow +client|tracking", server,
        )  # fmt: skip
    finally:
        if connection is not None:
            connection.disconnect()


def _watched(redis: Any, settings: CacheSettings) -> Iterator[Finding]:
    """Check what is known of the deployment as a whole."""
    look = getattr(redis, "topology", None)
    if look is None:
        return
    found = look()
    if not getattr(found, "confirmed", True):
        yield problem(
            "topology", "no majority has said lately which servers are the masters",
            "see that most of redis.addresses can be reached from here",
        )  # fmt: skip
    else:
        yield ok("topology", f"{settings.redis.mode}: a majority agrees which servers are the masters")


def _mb(size: int) -> str:
    return f"{size / 2**20:.0f} MB"

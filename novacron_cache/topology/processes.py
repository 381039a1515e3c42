"""Processes that outlive the command that started them, and are never mistaken for another.

A process id says little by itself: the kernel gives it to somebody else as soon as its process is gone. So what is
remembered is the id together with the moment its process began, and a signal goes through a handle that was opened
before that moment was compared: whatever happens in between, it reaches the process that was meant, or none.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Process", "deliver", "end", "identify", "remember", "remembered", "spawn", "titled"]

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_AGAIN: Final = 0.5  # seconds
_POLL: Final = 0.01  # seconds between two looks at a process that is ending


class Process(NamedTuple):
    """One process, then and now: its id, and when it began.

    Attributes:
        pid: the process id.
        began: the moment, in a form that is only good for comparing.
    """

    pid: int
    began: str

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return identify(self.pid) == self


def identify(pid: int) -> Process | None:
    """Return the process that has this id now; None when there is none, or it has ended and nobody has noticed yet."""
    if _BOOT.exists():
        try:
            # The name in parentheses may hold anything, so the fields are counted from the last one.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        state, ticks = fields[0], fields[19]
        # Ticks count from the start of the machine.
        return None if state in {"Z", "X"} else Process(pid, f"{_BOOT.read_text().strip()}/{ticks}")
    said = subprocess.run(  # noqa: S603 - our own words
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True, text=True, check=False, env={"LC_ALL": "C", "TZ": "UTC"},
    ).stdout.split(maxsplit=1)  # fmt: skip
    return None if len(said) < 2 or said[0].startswith("Z") else Process(pid, said[1].strip())


def spawn(command: Sequence[str], directory: Path) -> Process:
    """Start a process of its own session, and remember it in its directory.

    Args:
        command: what to run.
        directory: gets `process.json`, and `server.log` with what the process prints.

    Raises:
        OSError: it cannot be started.
    """
    with (directory / "server.log").open("ab") as log:
        started = subprocess.Popen(  # noqa: S603 - a server we chose
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            umask=0o077,
            cwd=directory,
        )
    _ours[started.pid] = started
    process = identify(started.pid) or Process(started.pid, "ended at once")
    remember(process, directory)
    return process


def remember(process: Process, directory: Path) -> None:
    """Write down which process serves a directory."""
    new = directory / "process.json.new"
    new.write_text(json.dumps(process._asdict()))
    new.replace(directory / "process.json")


def remembered(directory: Path) -> Process | None:
    """Return the process that was started for a directory, if that very one still runs."""
    with suppress(OSError, ValueError, TypeError):
        process = Process(**json.loads((directory / "process.json").read_text()))
        if _reaped(process) and process.alive:
            return process
    return None


def titled(words: str) -> Process | None:
    """Return the process of this user with these words in its title; None when there is none, or nobody can tell."""
    if not _BOOT.exists():
        return None
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                title = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                if f" {words} " in f" {title} ":
                    return identify(int(entry.name))
    return None


def end(process: Process, patience: float) -> bool:
    """End a process: ask it, wait, and kill it when it does not.

    Args:
        process: the one to end; another that has its id meanwhile is left alone.
        patience: seconds it has to save its data.

    Returns:
        Whether it ended by itself.
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        # Asked again: a server that is writing its first log refuses to go before it has.
        if not deliver(process, signal.SIGTERM) or _await_end(process, min(_AGAIN, patience)):
            return True
    deliver(process, signal.SIGKILL)
    _await_end(process, patience)
    return False


def deliver(process: Process, signum: signal.Signals) -> bool:
    """Send a signal to a process, and say whether it was still there."""
    if hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal"):
        try:
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return False
        except OSError:  # a kernel without them
            pass
        else:
            try:
                if not process.alive:
                    return False
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signum)
                    return True
                return False
            finally:
                os.close(handle)
    if not process.alive:
        return False
    with suppress(ProcessLookupError):
        os.kill(process.pid, signum)
        return True
    return False


# Children of this process stay in the table of processes until somebody asks for their status.
_ours: dict[int, subprocess.Popen[bytes]] = {}


def _reaped(process: Process) -> bool:
    """Collect the status of a child of ours, and say whether the process may still run."""
    child = _ours.get(process.pid)
    if child is not None and child.poll() is not None:
        del _ours[process.pid]
        return False
    return True


def _await_end(process: Process, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while _reaped(process) and process.alive:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True

"""Keeps an embedded server from outliving its owner, however the owner dies.

A dying process cannot be trusted to clean up: `kill -9` runs no handler. What the kernel always does is close its
files. So this script stands between the two, reading a pipe whose only writing end the owner holds: while the owner
lives, the read blocks; its end means that the owner is gone or has let go, and the server is stopped and its directory
removed. That works on every POSIX system and costs nothing while it waits.

It runs as a program of its own, by path, in an isolated interpreter that loads neither this package nor any other:

    python -I -S supervisor.py DIRECTORY SERVER [ARGUMENT...]

Standard input is the pipe. On standard output it says `started PID`, and `exited STATUS` if the server ends by itself.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

PATIENCE = 2.0
"""Seconds a server may take to stop when asked; then it is killed."""


def die_with(parent: int) -> None:
    """In the server, before it runs: on Linux, have the kernel kill it should even this supervisor be killed."""
    if sys.platform == "linux":
        with contextlib.suppress(Exception):
            import ctypes

            pr_set_pdeathsig = 1
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was killed before the kernel was asked


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and wait until it is gone."""
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def say(text: str) -> None:
    """Tell the owner, if it still listens."""
    with contextlib.suppress(OSError):
        os.write(1, text.encode() + b"\n")


def main(directory: str, command: list[str]) -> None:
    """Run the server until the owner is gone."""
    # A terminal's interrupt reaches the whole group; the owner decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = None
    try:
        # The server holds the writing end of this pipe and nobody else does: its end means that the server is gone.
        alive, held = os.pipe()
        with Path(directory, "server.log").open("ab") as log:
            server = subprocess.Popen(  # noqa: S603 - the command comes from the owner
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[held],
                preexec_fn=partial(die_with, os.getpid()),  # safe: this process has one thread
            )
        os.close(held)
        say(f"started {server.pid}")
        readable, _, _ = select.select([0, alive], [], [])
        if 0 not in readable:
            say(f"exited {server.wait()}")
            while os.read(0, 512):  # the owner may want to read the log before it goes
                pass
    except OSError as error:
        say(f"failed {error}")
    finally:
        if server is not None:
            stop(server)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

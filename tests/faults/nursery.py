"""Where a scenario's processes come from: one that has imported everything forks them, which costs milliseconds.

It has neither threads nor caches, so its children are as good as processes started by hand. A child's standard streams
are its parent's to say; the nursery itself only learns what to run.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from servers import process_exists

TESTS = Path(__file__).parents[1]
PROGRAMS = (
    "faults.process", "faults.victims", "faults.cold", "faults.damaging", "faults.listening", "faults.soaking",
)  # fmt: skip


class Child:
    """A process that the nursery has forked."""

    def __init__(self, pid: int, stdin: int, stdout: int, log: Path) -> None:
        self.pid, self._stdin, self._stdout, self.log = pid, stdin, stdout, log
        self._pending = b""

    def say(self, line: str) -> None:
        os.write(self._stdin, line.encode() + b"\n")

    def line(self, what: str, patience: float) -> str:
        """Return the next line that it says."""
        end = time.monotonic() + patience
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._stdout], [], [], max(end - time.monotonic(), 0.0))
            more = os.read(self._stdout, 1 << 20) if ready else b""
            if not more:
                why = "said nothing" if not ready else "ended"
                raise RuntimeError(f"a process that was asked for {what} {why}: {self.log.read_text()[-2000:]}")
            self._pending += more
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self, *, patience: float = 10.0) -> None:
        """End the input, and the process if it does not end by itself."""
        with contextlib.suppress(OSError):
            self.go_on()
        os.close(self._stdin)
        end = time.monotonic() + patience
        while process_exists(self.pid):
            if time.monotonic() > end:
                with contextlib.suppress(OSError):
                    os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.005)
        os.close(self._stdout)


class Nursery:
    """Starts the processes of scenarios, for the length of a block."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        command = [sys.executable, "-m", "faults.nursery", str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=TESTS, pass_fds=[theirs.fileno()])
        theirs.close()

    def start(self, program: str, arguments: list[str], log: Path) -> Child:
        """Run a program's `main`; what it writes to its standard error goes to a file."""
        (stdin, our_end), (our_start, stdout) = os.pipe(), os.pipe()
        with log.open("ab") as errors:
            message = json.dumps([program, arguments]).encode()
            socket.send_fds(self._socket, [message], [stdin, stdout, errors.fileno()])
        os.close(stdin)
        os.close(stdout)
        return Child(int(self._socket.recv(64)), our_end, our_start, log)

    def close(self) -> None:
        self._socket.close()
        self._process.wait(10)


_open: list[Nursery] = []


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    """Return the nursery that is open, or open one for the length of a block."""
    if _open:
        yield _open[-1]
        return
    made = Nursery()
    _open.append(made)
    try:
        yield made
    finally:
        _open.remove(made)
        made.close()


def main() -> None:
    """Fork children until nobody asks any more."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in PROGRAMS:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system waits for the children
    while True:
        message, streams, _, _ = socket.recv_fds(control, 1 << 16, 3)
        if not message:
            return
        program, arguments = json.loads(message)
        pid = os.fork()
        if pid:
            for stream in streams:
                os.close(stream)
            control.send(str(pid).encode())
            continue
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.argv = [program, *arguments]
        try:
            importlib.import_module(program).main()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


if __name__ == "__main__":
    main()

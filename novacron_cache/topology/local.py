"""The servers of a state directory: starting, stopping and looking after them.

A command knows nothing of the one before it but what the state directory says, and servers may have died, failed over
or been started in part meanwhile. So nothing is concluded from what was done once: each operation looks first.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from . import clustering
from .health import Health, inspect
from .layout import MASTER_NAME, Server, Topology
from .problems import AlreadyRunning, NoServerBinary, NotRunning, PortTaken, StartFailed
from .processes import Process, end, remember, remembered, spawn, titled
from .state import StateDirectory
from .wire import Refusal, Wire

__all__ = ["LocalServers", "counted"]

PATIENCE: Final = 30.0
"""Seconds the servers may take to be ready; a large log takes its time to load."""
STOPPING: Final = 20.0
"""Seconds a server may take to save and end; it waits ten for replicas that lag."""

_POLL: Final = 0.05
_LOG_LINES: Final = 12

Report = Callable[[str], object]


def counted(number: int) -> str:
    """Return so many servers in words."""
    return f"{number} server{'s' * (number != 1)}"


def _silent(text: str) -> None:
    """Report to nobody."""


class LocalServers:
    """The servers that a state directory describes.

    Args:
        state: the directory.
        report: told what is going on, a line at a time.

    Raises:
        NotSetUp: the directory holds no topology.
    """

    def __init__(self, state: StateDirectory, report: Report = _silent) -> None:
        self.state = state
        self.topology: Topology = state.topology
        self.report = report

    # --- looking ------------------------------------------------------------------------------------------------------

    def connect(self, server: Server, *, timeout: float = 2.0) -> Wire:
        """Return a connection to a server, logged in as its operator.

        Raises:
            OSError: it cannot be reached.
            Refusal: it is not one of ours.
        """
        return Wire(self.topology.host, server.port, self.state.admin_password, timeout=timeout)

    def call(self, server: Server, *words: str | int) -> Any:
        """Send one command to a server and return its reply."""
        with self.connect(server) as wire:
            return wire.call(*words)

    def process(self, server: Server) -> Process | None:
        """Return the process of a server, or None when it does not run.

        Normally it is the one that was remembered. Should that be lost, as when a command was killed between the two,
        it is known by the file it was started with, which is part of its title.
        """
        directory = self.state.of(server)
        found = remembered(directory)
        if found is None and (found := titled(str(self.state.conf_of(server)))) is not None:
            remember(found, directory)
        return found

    def running(self) -> dict[Server, Process]:
        """Return the servers that run, with their processes."""
        found = ((server, self.process(server)) for server in self.topology.servers)
        return {server: process for server, process in found if process is not None}

    def health(self) -> list[Health]:
        """Return how each server is."""
        running = self.running()
        return [inspect(self, server, running.get(server)) for server in self.topology.servers]

    def master(self) -> Server | None:
        """Return the server that is the master now; None when nobody says so. Not for a cluster."""
        address = self._master_address()
        return next((server for server in self.topology.data if self._at(server) == address), None)

    def require_all(self) -> None:
        """Make sure that every server runs.

        Raises:
            NotRunning: some do not.
        """
        running = self.running()
        missing = [server.name for server in self.topology.servers if server not in running]
        if missing:
            some = f"{', '.join(missing)} of {len(self.topology.servers)} servers not running"
            which = some if running else "no server runs"
            raise NotRunning(f"{which}; run `novacron-cache start`")

    def log(self, server: Server) -> Path:
        """Return the file a server logs to."""
        return self.state.of(server) / "server.log"

    # --- starting -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start what does not run, and return when the topology as a whole is ready.

        Raises:
            AlreadyRunning: every server runs.
            PortTaken: somebody else listens where a server should; nothing was started.
            NoServerBinary: the server is not there any more.
            StartFailed: a server did not come up; those started by this call were stopped again.
        """
        running = self.running()
        missing = [server for server in self.topology.servers if server not in running]
        if not missing:
            raise AlreadyRunning(f"{counted(len(running))} already running; `novacron-cache status` shows how they are")
        if running:
            self.report(f"{len(running)} of {counted(len(self.topology.servers))} already running; starting the others")
        if not Path(self.topology.binary).is_file():
            raise NoServerBinary(
                f"the server {self.topology.binary} is gone; run `novacron-cache setup --replace` to choose another"
            )
        self._check_ports(missing)
        started: list[Server] = []
        try:
            self._start([server for server in missing if server.part != "sentinel"], started)
            if self.topology.kind == "cluster":
                clustering.form(self)
            # A sentinel looks for replicas when it starts and then every ten seconds: they come first.
            self._await([server for server in self.topology.servers if server.part == "server"])
            self._start([server for server in missing if server.part == "sentinel"], started)
            self.ready()
        except BaseException:
            self.stop(started)
            raise

    def restart(self, server: Server) -> None:
        """Stop one server and start it again; return when it and those it works with are ready.

        Raises:
            StartFailed: it or they are not.
        """
        process = self.process(server)
        if process is not None:
            self.end(server, process)
        self.revive(server)

    def revive(self, server: Server) -> None:
        """Start a server that died; return when all do their work.

        Raises:
            StartFailed: it or others do not.
        """
        self.wait(lambda: self.process(server) is None, f"the end of {server.name}")
        self._start([server], [])
        self.ready()

    def ready(self) -> None:
        """Return when every server does its work.

        Raises:
            StartFailed: some do not.
        """
        self._await(self.topology.servers)

    def _start(self, servers: Iterable[Server], started: list[Server]) -> None:
        servers = tuple(servers)
        address = self._master_address() if self.topology.sentinels and servers else None
        for server in servers:
            itself = server.part == "server" and address == self._at(server)
            command = self.state.configure(self.topology, server, None if itself else address)
            try:
                spawn(command, self.state.of(server))
            except OSError as error:
                raise NoServerBinary(f"{self.topology.binary} cannot be run: {error}") from error
            started.append(server)
        for server in servers:
            self.wait(partial(self._answers, server), f"{server.name} to answer", [server])
            self.report(f"{server.name} answers on port {server.port}")

    def _answers(self, server: Server) -> bool:
        if self.process(server) is None:
            raise StartFailed(f"{server.name} ended as soon as it was started:\n{self._tail(server)}")
        try:
            return bool(self.call(server, "PING") == "PONG")
        except (OSError, Refusal):  # still loading
            return False

    def _await(self, servers: Iterable[Server]) -> None:
        servers = tuple(servers)
        problems: dict[str, str] = {}

        def ready() -> bool:
            problems.clear()
            for server in servers:
                if problem := inspect(self, server, self.process(server)).problem:
                    problems[server.name] = problem
                    return False
            return True

        self.wait(
            ready, "the servers to be ready", servers, lambda: "; ".join(f"{n}: {p}" for n, p in problems.items())
        )

    def wait(
        self,
        condition: Callable[[], object],
        what: str,
        servers: Iterable[Server] = (),
        why: Callable[[], str] = str,
        patience: float = PATIENCE,
    ) -> None:
        """Return when a condition holds.

        Raises:
            StartFailed: it did not in time; the message ends with why, and with the logs of the servers.
        """
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"{server.name}:\n{self._tail(server)}" for server in tuple(servers)[:1])
                raise StartFailed(f"waited {patience:.0f} s for {what} in vain: {why()}\n{logs}".rstrip(": \n"))
            time.sleep(_POLL)

    def _check_ports(self, servers: Iterable[Server]) -> None:
        for server in servers:
            for port in server.ports:
                family = socket.AF_INET6 if ":" in self.topology.host else socket.AF_INET
                with socket.socket(family) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind((self.topology.host, port))
                    except OSError as error:
                        raise PortTaken(
                            f"{server.name} cannot have port {port} of {self.topology.host} ({error.strerror}); "
                            "end what listens there, or choose others: `novacron-cache setup --replace --port ...`"
                        ) from error

    def _tail(self, server: Server) -> str:
        path = self.log(server)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(f"  {line}" for line in lines[-_LOG_LINES:]) or "  (it logged nothing)"

    def _master_address(self) -> tuple[str, int]:
        """Return where the master is.

        As the sentinels that run say, else as they wrote it down. Should that one not run, and another one call itself
        master, then a failover is about to be announced.
        """
        address = self._named_master()
        named = next((server for server in self.topology.data if self._at(server) == address), None)
        if named is not None and self.process(named) is None:
            for server in self.topology.data:
                with suppress(OSError, Refusal):
                    if self.process(server) is not None and self.call(server, "ROLE")[0] == "master":
                        return self._at(server)
        return address

    def _at(self, server: Server) -> tuple[str, int]:
        return self.topology.host, server.port

    def _named_master(self) -> tuple[str, int]:
        newest, found = -1, None
        for sentinel in self.topology.sentinels:
            if self.process(sentinel) is None:
                continue
            with suppress(OSError, Refusal):
                said = self.call(sentinel, "SENTINEL", "MASTER", MASTER_NAME)
                epoch = int(dict(zip(said[::2], said[1::2], strict=True))["config-epoch"])
                # Not what it says above: until a failover has ended, that is the old one.
                host, port = self.call(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
                if epoch > newest:
                    newest, found = epoch, (host, int(port))
        return found or self.state.master_on_record(self.topology)

    # --- stopping -----------------------------------------------------------------------------------------------------

    def stop(self, servers: Iterable[Server] | None = None) -> list[Server]:
        """Stop servers, and return those that ran.

        Sentinels go first, or they would choose a new master; then replicas, for a master waits for those that lag.

        Args:
            servers: which; None stops all.
        """
        wanted = self.topology.servers if servers is None else tuple(servers)
        running = {server: process for server, process in self.running().items() if server in wanted}
        for server in sorted(running, key=self._stopping_order):
            self.end(server, running[server])
        return list(running)

    def end(self, server: Server, process: Process) -> None:
        """Stop one server."""
        by_itself = end(process, STOPPING)
        self.report(f"{server.name} stopped" if by_itself else f"{server.name} did not stop and was killed")

    def _stopping_order(self, server: Server) -> int:
        if server.part == "sentinel":
            return 0
        with suppress(OSError, Refusal):
            return 1 if self.call(server, "ROLE")[0] == "slave" else 2
        return 1

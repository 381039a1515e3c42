"""The state directory: all that local servers have and need, in one place that only its owner can enter.

    topology.json              which servers there are
    conf/                      the shared configuration, a copy to edit: it takes effect with the next restart
    passwords/                 admin (the user `default`) and application (the user `cache`)
    users.acl, sentinel-users.acl
    server-1/, sentinel-1/...  for each server its configuration, log, data, and which process it is

The conf files are those that the Compose files mount. A server writes what it learns into the file it was started with,
so each gets a small one of its own, written anew at every start, that includes the copies and adds what is its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .layout import MASTER_NAME, Server, Topology
from .problems import AlreadySetUp, Busy, NotSetUp, WrongRequest

__all__ = ["StateDirectory", "conf_files"]

_CONF: Final = ("node.conf", "replicated.conf", "cluster.conf", "sentinel.conf")
_USERS: Final = ("users.acl", "sentinel-users.acl")
_MARK: Final = "topology.json"

# A server reads these as a pattern, or as the end of a quoted word.
_UNFIT: Final = set('*?[]"\\\n\r')


def conf_files() -> Path:
    """Return the directory of the shared conf files: in an installed package beside this module, else in `compose/`."""
    installed = Path(__file__).with_name("conf")
    return installed if installed.is_dir() else Path(__file__).parents[2] / "compose" / "conf"


class StateDirectory:
    """A directory that holds a topology, or is about to.

    Args:
        path: the directory; it need not exist.

    Raises:
        WrongRequest: the path holds characters that a server's configuration cannot.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        if unfit := sorted(_UNFIT & set(str(self.path))):
            raise WrongRequest(f"--state-dir {self.path}: a server cannot be told a path with {unfit[0]!r} in it")

    def create(self, topology: Topology, *, password: str | None = None) -> None:
        """Write a new topology; what is there already stays.

        Args:
            topology: which servers.
            password: of the user `cache`, with which applications log in; None makes one.

        Raises:
            AlreadySetUp: there is a topology here.
            WrongRequest: the directory holds something else, or the password does not fit.
        """
        if self.exists:
            raise AlreadySetUp(f"{self.path} holds servers already; --replace removes them and their data")
        if self.path.exists() and any(name for name in os.listdir(self.path) if name != "lock"):  # noqa: PTH208
            raise WrongRequest(f"{self.path} is not empty and holds no servers; name another --state-dir")
        if password is not None and (not password or not password.isprintable()):
            raise WrongRequest("the password is empty, or holds characters that cannot be typed")
        for directory in (self.path, self.path / "conf", self.path / "passwords"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        for name in _CONF:
            shutil.copyfile(conf_files() / name, self.path / "conf" / name)
        self._secret("passwords/admin", secrets.token_hex(24))
        self._secret("passwords/application", password or secrets.token_hex(24))
        for name in _USERS:
            self._secret(name, self._users((conf_files() / name).read_text()))
        for server in topology.servers:
            self.of(server).mkdir(mode=0o700)
        # Last: a directory with it is complete.
        topology.write(self.path / _MARK)

    def remove(self) -> None:
        """Remove the topology and the data of its servers, which must not run."""
        (self.path / _MARK).unlink(missing_ok=True)
        # By their names: the list of servers may be what cannot be read.
        servers = [path for path in self.path.iterdir() if re.fullmatch(r"(server|node|sentinel)-\d+", path.name)]
        for directory in (*servers, self.path / "conf", self.path / "passwords"):
            shutil.rmtree(directory, ignore_errors=True)
        for name in _USERS:
            (self.path / name).unlink(missing_ok=True)

    @property
    def exists(self) -> bool:
        """Whether servers are set up here."""
        return (self.path / _MARK).exists()

    @property
    def topology(self) -> Topology:
        """The topology that is set up here.

        Raises:
            NotSetUp: there is none.
        """
        return Topology.read(self.path / _MARK)

    @property
    def admin_password(self) -> str:
        """The password of the user `default`, who may do everything."""
        return self._read("passwords/admin")

    @property
    def application_password(self) -> str:
        """The password of the user `cache`, with which applications log in."""
        return self._read("passwords/application")

    def of(self, server: Server) -> Path:
        """Return the directory of a server."""
        return self.path / server.name

    def conf_of(self, server: Server) -> Path:
        """Return the configuration of a server."""
        return self.of(server) / ("sentinel.conf" if server.part == "sentinel" else "server.conf")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other command from changing the servers until the block ends.

        Raises:
            NotSetUp: there is no such directory.
            Busy: another command is at it.
        """
        try:
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise NotSetUp(f"{self.path} holds no servers; run `novacron-cache setup` first") from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"another command is changing the servers of {self.path}; wait for it") from None
            yield
        finally:
            os.close(handle)

    # --- what each server is told -------------------------------------------------------------------------------------

    def configure(self, topology: Topology, server: Server, master: tuple[str, int] | None) -> list[str]:
        """Write the configuration of a server and return the command that runs it.

        Args:
            topology: all servers.
            server: the one to run.
            master: the address of the master it follows; None makes it one. Not for nodes of a cluster.
        """
        if server.part == "sentinel":
            path = self._sentinel_conf(topology, server, master)
            return [topology.binary, str(path), "--sentinel"]
        lines = [f"include {self._quoted('conf/node.conf')}"]
        if topology.kind != "standalone":
            extra = "cluster" if server.part == "node" else "replicated"
            lines.append(f"include {self._quoted(f'conf/{extra}.conf')}")
        lines += [*self._common(topology, server, "users.acl"), "masteruser default"]
        lines.append(f"masterauth {self.admin_password}")
        if server.part == "node":
            lines.append(f"cluster-port {server.bus_port}")
        elif master is not None:
            lines.append(f"replicaof {master[0]} {master[1]}")
        path = self._secret(f"{server.name}/server.conf", "\n".join(lines) + "\n")
        return [topology.binary, str(path)]

    def master_on_record(self, topology: Topology) -> tuple[str, int]:
        """Return the address of the master as the sentinels wrote it down last; at first, that of the first server."""
        newest, found = -1, (topology.host, topology.data[0].port)
        for sentinel in topology.sentinels:
            path = self.conf_of(sentinel)
            text = path.read_text() if path.exists() else ""
            address = re.search(rf"^sentinel monitor {MASTER_NAME} (\S+) (\d+) ", text, re.MULTILINE)
            epoch = re.search(rf"^sentinel config-epoch {MASTER_NAME} (\d+)", text, re.MULTILINE)
            if address and (number := int(epoch[1]) if epoch else 0) > newest:
                newest, found = number, (address[1], int(address[2]))
        return found

    def _sentinel_conf(self, topology: Topology, server: Server, master: tuple[str, int] | None) -> Path:
        path = self.conf_of(server)
        if path.exists():
            # What it learned stays; what it is told may have changed since.
            options = "port|bind|dir|daemonize|proc-title-template|aclfile|logfile|include"
            told = rf"({options}|sentinel (auth|sentinel)-(user|pass)( {MASTER_NAME})?) .*"
            lines = [line for line in path.read_text().splitlines() if not re.fullmatch(told, line)]
        else:
            host, port = master or (topology.host, topology.data[0].port)
            text = (self.path / "conf" / "sentinel.conf").read_text()
            text = re.sub(
                rf"^sentinel monitor {MASTER_NAME} .*$",
                f"sentinel monitor {MASTER_NAME} {host} {port} {topology.quorum}",
                text,
                flags=re.MULTILINE,
            )
            lines = [line for line in text.splitlines() if not re.match("(port|bind) ", line)]
        admin = self.admin_password
        lines += [
            *self._common(topology, server, "sentinel-users.acl"),
            f"sentinel auth-user {MASTER_NAME} default",
            f"sentinel auth-pass {MASTER_NAME} {admin}",
            "sentinel sentinel-user default",
            f"sentinel sentinel-pass {admin}",
        ]
        return self._secret(f"{server.name}/sentinel.conf", "\n".join(lines) + "\n")

    def _common(self, topology: Topology, server: Server, users: str) -> list[str]:
        return [
            f"port {server.port}",
            f"bind {topology.host}",
            "daemonize no",
            # The file is in the title, so that a server can be told from others of its kind.
            'proc-title-template "{title} {config-file} {listen-addr} {server-mode}"',
            f"dir {self._quoted(server.name)}",
            f"aclfile {self._quoted(users)}",
            f"logfile {self._quoted(f'{server.name}/server.log')}",
        ]

    # --- files --------------------------------------------------------------------------------------------------------

    def _users(self, text: str) -> str:
        """Switch the users of a file on, with the digests of their passwords: the file itself holds no secret."""
        for user, password in (("default", self.admin_password), ("cache", self.application_password)):
            digest = hashlib.sha256(password.encode()).hexdigest()
            text = text.replace(f"user {user} off resetpass ", f"user {user} on resetpass #{digest} ")
        return text

    def _quoted(self, name: str) -> str:
        return f'"{self.path / name}"'

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text().rstrip("\n")
        except OSError as error:
            raise NotSetUp(f"{self.path / name} cannot be read; run `novacron-cache setup --replace`") from error

    def _secret(self, name: str, text: str) -> Path:
        """Write a file for its owner's eyes only, as a whole or not at all."""
        path = self.path / name
        new = path.with_name(path.name + ".new")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
            file.write(text)
        return new.replace(path)

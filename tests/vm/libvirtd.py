"""A libvirtd of the test's own, serving libvirt's test driver on a unix socket, and virsh as another process.

It needs no virtualisation: the test driver simulates domains inside the daemon, so that several processes see the same
ones over a real connection, with real events.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import required, wait_until


def need_libvirt() -> None:
    """Skip without libvirt-python, except in CI."""
    found = importlib.util.find_spec("libvirt")
    required(Path(found.origin) if found is not None and found.origin else None, "libvirt-python")


def _program(name: str) -> Path:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return required(Path(found) if found else None, name)


class LibvirtdProcess:
    """One daemon; every end goes through the process that this object started."""

    def __init__(self) -> None:
        need_libvirt()
        self._daemon, self._virsh = _program("libvirtd"), _program("virsh")
        self.directory = Path(tempfile.mkdtemp(prefix="ncl-"))  # short enough for the path of a socket
        self.socket = self.directory / "libvirt-sock"
        self.uri = f"test+unix:///default?socket={self.socket}"
        self._environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            **dict.fromkeys(("HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(self.directory)),
        }
        # What root starts is the system's daemon and wants the system's users; anybody else's is a session's.
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        config = self.directory / "libvirtd.conf"
        config.write_text(
            f'unix_sock_dir = "{self.directory}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n'
            f'log_outputs = "4:stderr"\n'
        )
        config.chmod(0o644)
        self.process: subprocess.Popen[Any] | None = None

    def start(self) -> LibvirtdProcess:
        self.socket.unlink(missing_ok=True)
        with (self.directory / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._daemon, "--config", self.directory / "libvirtd.conf", "--pid-file", self.directory / "pid"],
                env=self._environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as,
            )
        wait_until(self._answers, what="an answer of libvirtd")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            log = (self.directory / "daemon.log").read_text(errors="replace")
            pytest.fail(f"libvirtd ended with {self.process.returncode}:\n{log}")
        return self.socket.exists() and self._run("uri").returncode == 0

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._virsh, "--connect", self.uri, *words],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )

    def virsh(self, *words: str, check: bool = True) -> None:
        """Have another process change something."""
        done = self._run(*words)
        assert done.returncode == 0 or not check, done.stderr

    def pause(self) -> None:
        """Hang the daemon: its sockets stay open and nobody reads them."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the daemon as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.resume()
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def running() -> Iterator[LibvirtdProcess]:
    daemon = LibvirtdProcess()
    try:
        yield daemon.start()
    finally:
        daemon.close()


def domain(name: str, *, memory_kib: int = 65536) -> str:
    """Return the description of a domain."""
    return (
        f"<domain type='test'><name>{name}</name><memory>{memory_kib}</memory><vcpu>1</vcpu>"
        f"<os><type>hvm</type></os></domain>"
    )

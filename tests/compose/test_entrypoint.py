"""What the containers run, run as local processes: the same scripts and conf files, with and without TLS.

No container engine is needed for that: the scripts take the names of the server, the client and all directories from
the environment. The client is that of Debian's redis-server, for the tests' own server brings none.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from cli.local_servers import free_ports
from servers import free_port, redis_binary, required, wait_until

pytestmark = pytest.mark.servers

COMPOSE = Path(__file__).parents[2] / "compose"
PASSWORDS = {"cache_password": "application-secret", "cache_admin_password": "operator-secret"}


def tool(name: str) -> str:
    found = shutil.which(name)
    return str(required(None if found is None else Path(found), name))


class Fleet:
    """Servers started by `entrypoint.sh`, each in a directory of its own that stands for its container."""

    def __init__(self, directory: Path, *, tls: bool) -> None:
        self.directory = directory
        self.tls = tls
        self.client = tool("redis-cli")
        self.server = str(required(redis_binary(), "redis-server 7 or later"))
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        secrets = directory / "secrets"
        secrets.mkdir()
        for name, password in PASSWORDS.items():
            (secrets / name).write_text(password)
        if tls:
            self._certify()
        conf = shutil.copytree(COMPOSE / "conf", directory / "conf")
        text = (conf / "tls.conf").read_text()
        sentinel = (conf / "sentinel.conf").read_text()
        (conf / "sentinel.conf").write_text(
            sentinel.replace("down-after-milliseconds mymaster 3000", "down-after-milliseconds mymaster 2000")
        )
        (conf / "tls.conf").write_text(text.replace("/run/tls/", f"{directory}/tls/"))

    def environment(self, port: int, **more: str) -> dict[str, str]:
        here = self.directory / str(port)
        return {
            "PATH": os.environ["PATH"], "PORT": str(port), "NAME": "localhost", "BIND": "127.0.0.1 -::1",
            "CONF": str(self.directory / "conf"), "SECRETS": str(self.directory / "secrets"),
            "RUN": str(here), "DATA": str(here / "data"), "SERVER": self.server, "CLI": self.client,
            "TLS": "yes" if self.tls else "no", "TLS_DIR": str(self.directory / "tls"), **more,
        }  # fmt: skip

    def start(self, role: str, port: int, **more: str) -> None:
        (self.directory / str(port) / "data").mkdir(parents=True, exist_ok=True)
        with (self.directory / str(port) / "log").open("ab") as log:
            self.processes[port] = subprocess.Popen(
                ["/bin/sh", str(COMPOSE / "entrypoint.sh"), role],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment(port, **more),
            )  # fmt: skip

    def stop(self, port: int, signum: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(port)
        process.send_signal(signum)
        process.wait(10)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def log(self, port: int) -> str:
        return (self.directory / str(port) / "log").read_text(errors="replace")

    def ask(self, port: int, *words: str, user: str = "default") -> str:
        password = PASSWORDS["cache_password" if user == "cache" else "cache_admin_password"]
        secure = ["--tls", "--cacert", str(self.directory / "tls" / "ca.crt")] if self.tls else []
        done = subprocess.run(
            [self.client, *secure, "-h", "localhost", "-p", str(port), "--user", user, *words],
            capture_output=True, text=True, check=False, timeout=30,
            env={**os.environ, "REDISCLI_AUTH": password},
        )  # fmt: skip
        return done.stdout.strip()

    def healthy(self, role: str, port: int) -> bool:
        done = subprocess.run(
            ["/bin/sh", str(COMPOSE / "healthcheck.sh"), role],
            capture_output=True, check=False, timeout=30, env=self.environment(port),
        )  # fmt: skip
        return done.returncode == 0

    def form(self, ports: range) -> subprocess.CompletedProcess[str]:
        nodes = " ".join(f"127.0.0.1:{port}" for port in ports)
        return subprocess.run(
            ["/bin/sh", str(COMPOSE / "form-cluster.sh")],
            capture_output=True, text=True, check=False, timeout=30, env=self.environment(0, NODES=nodes),
        )  # fmt: skip

    def _certify(self) -> None:
        directory = self.directory / "tls"
        directory.mkdir()
        subprocess.run(
            [
                *(tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"),
                *("-out", str(directory / "server.crt"), "-keyout", str(directory / "server.key")),
            ],
            check=True,
            capture_output=True,
        )
        shutil.copyfile(directory / "server.crt", directory / "ca.crt")


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    started = Fleet(tmp_path, tls=request.param)
    try:
        yield started
    finally:
        started.close()


def role(fleet: Fleet, port: int) -> str:
    return fleet.ask(port, "role").partition("\n")[0]


def test_a_master_its_replicas_and_sentinels_find_each_other_and_survive_the_master(fleet: Fleet) -> None:
    servers, sentinels = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
    where = {
        "MASTER": f"localhost:{servers[0]}",
        "SENTINELS": " ".join(f"localhost:{port}" for port in sentinels),
    }
    for port in servers:
        fleet.start("server", port, **where)
    for port in servers:
        wait_until(lambda port=port: fleet.healthy("server", port), what=f"health of {port}\n{fleet.log(port)}")
    assert [role(fleet, port) for port in servers] == ["master", "slave", "slave"]
    for port in sentinels:
        fleet.start("sentinel", port, **where)
    for port in sentinels:
        wait_until(lambda port=port: fleet.healthy("sentinel", port), what=f"health of {port}")
        wait_until(lambda port=port: "num-slaves\n2" in fleet.ask(port, "sentinel", "master", "mymaster"))
    assert fleet.ask(servers[0], "set", "nc:shop:k", "v", user="cache") == "OK"

    fleet.stop(servers[0], signal.SIGKILL)
    heir = int(wait_until(lambda: _new_master(fleet, sentinels, servers[0]), deadline=20, what="a failover"))
    assert fleet.ask(heir, "get", "nc:shop:k") == "v"

    # The old master comes back with the same environment, and asks who is the master now.
    fleet.start("server", servers[0], **where)
    wait_until(lambda: fleet.healthy("server", servers[0]) and role(fleet, servers[0]) == "slave", what="a replica")
    assert f"replicaof localhost {heir}" in (fleet.directory / str(servers[0]) / "data" / "server.conf").read_text()


def _new_master(fleet: Fleet, sentinels: list[int], old: int) -> str:
    named = {fleet.ask(port, "sentinel", "get-master-addr-by-name", "mymaster") for port in sentinels}
    found = named.pop().split("\n")[-1] if len(named) == 1 else ""
    return found if found != str(old) and found and role(fleet, int(found)) == "master" else ""


def test_nodes_wait_for_the_others_and_become_a_cluster_once(fleet: Fleet) -> None:
    first = free_ports(6, below=22_000)  # the ports for their talk are ten thousand above
    ports = range(first, first + 6)
    for port in ports:
        fleet.start("cluster", port)
    for port in ports:
        wait_until(lambda port=port: fleet.healthy("cluster", port), what=f"health of {port}\n{fleet.log(port)}")
        assert "cluster_known_nodes:1" in fleet.ask(port, "cluster", "info")

    formed = fleet.form(ports)
    assert formed.returncode == 0, formed.stdout + formed.stderr
    for port in ports:
        wait_until(lambda port=port: "cluster_state:ok" in fleet.ask(port, "cluster", "info"), what="a cluster")
    wait_until(lambda: sorted(role(fleet, port) for port in ports) == ["master"] * 3 + ["slave"] * 3, what="replicas")
    assert all(fleet.healthy("cluster", port) for port in ports)
    assert "a cluster already" in fleet.form(ports).stdout


def test_users_may_do_what_they_are_for(fleet: Fleet) -> None:
    port = free_port()
    fleet.start("server", port, MASTER=f"localhost:{port}")
    wait_until(lambda: fleet.healthy("server", port), what=f"health\n{fleet.log(port)}")
    fleet.ask(port, "config", "set", "min-replicas-to-write", "0")
    assert fleet.ask(port, "set", "nc:shop:k", "v", user="cache") == "OK"
    for refused in (["get", "other"], ["flushall"], ["config", "get", "*"], ["keys", "nc:*"], ["shutdown"]):
        assert fleet.ask(port, *refused, user="cache").startswith("NOPERM"), refused


def test_no_password_is_on_a_command_line_or_readable_by_others(fleet: Fleet) -> None:
    port = free_port()
    fleet.start("server", port, MASTER=f"localhost:{port}")
    wait_until(lambda: fleet.healthy("server", port), what=f"health\n{fleet.log(port)}")
    words = Path(f"/proc/{fleet.processes[port].pid}/cmdline").read_bytes().decode()
    assert not any(password in words for password in PASSWORDS.values())
    here = fleet.directory / str(port)
    holding = [
        path
        for path in here.rglob("*")
        if path.is_file() and any(password.encode() in path.read_bytes() for password in PASSWORDS.values())
    ]
    assert [path.name for path in holding] == ["server.conf"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in holding)


@pytest.mark.parametrize(
    ("password", "says"), [("", "CACHE_PASSWORD is empty"), ('a" b', "passwords may hold letters, digits")]
)
def test_a_password_that_does_not_fit_is_refused(tmp_path: Path, password: str, says: str) -> None:
    for name in PASSWORDS:
        (tmp_path / name).write_text("operator-secret" if "admin" in name else password)
    done = subprocess.run(
        ["/bin/sh", str(COMPOSE / "entrypoint.sh"), "server"],
        capture_output=True, text=True, check=False, timeout=30,
        env={"PATH": os.environ["PATH"], "PORT": "1", "SECRETS": str(tmp_path), "RUN": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode != 0
    assert says in done.stderr
    assert not password or password not in done.stderr


class TestMonitor:
    """`monitor.sh`, with the `novacron-cache` of this environment on its path."""

    TOKEN = "a-token-that-is-long-enough"

    def environment(self, directory: Path, **more: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(directory), "SECRETS": str(directory / "secrets"), **more}

    def run(self, role: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(COMPOSE / "monitor.sh"), role],
            capture_output=True, text=True, check=False, timeout=20, env=environment,
        )  # fmt: skip

    def test_it_watches_the_servers_as_the_applications_user_and_asks_for_its_token(self, fleet: Fleet) -> None:
        port, here = free_port(), fleet.directory
        (here / "secrets" / "cache_monitor_token").write_text(self.TOKEN)
        fleet.start("server", port, MASTER=f"localhost:{port}")
        wait_until(lambda: fleet.healthy("server", port), what=f"health\n{fleet.log(port)}")
        fleet.ask(port, "config", "set", "min-replicas-to-write", "0")
        ports = {"METRICS_PORT": str(free_port()), "WEBUI_PORT": str(free_port())}
        tls = {"NOVACRON_CACHE_REDIS__TLS_CA_FILE": str(here / "tls" / "ca.crt")} if fleet.tls else {}
        environment = self.environment(
            here, NOVACRON_CACHE_NAMESPACE="shop", NOVACRON_CACHE_REDIS__USERNAME="cache",
            NOVACRON_CACHE_REDIS__URL=f"redis{'s' * fleet.tls}://localhost:{port}", **ports, **tls,
        )  # fmt: skip
        assert self.run("health", environment).returncode != 0
        with (here / "monitor.log").open("wb") as log:
            monitor = subprocess.Popen(
                ["/bin/sh", str(COMPOSE / "monitor.sh"), "run"], stdout=log, stderr=log, env=environment
            )
        try:
            wait_until(
                lambda: self.run("health", environment).returncode == 0,
                deadline=30, what=f"the monitor\n{(here / 'monitor.log').read_text()}",
            )  # fmt: skip
            health = json.loads(self.get(ports["METRICS_PORT"], self.TOKEN))
            assert (health["status"], health["problems"]) == ("healthy", [])
            with pytest.raises(HTTPError, match="401"):
                self.get(ports["METRICS_PORT"], "another-token-that-is-long")
            words = Path(f"/proc/{monitor.pid}/cmdline").read_bytes().decode()
            assert self.TOKEN not in words
        finally:
            monitor.terminate()
            monitor.wait(20)

    def get(self, port: str, token: str) -> bytes:
        request = Request(f"http://127.0.0.1:{port}/health", headers={"Authorization": f"Bearer {token}"})
        with urlopen(request, timeout=10) as answer:  # noqa: S310 - our own server
            found: bytes = answer.read()
            return found

    @pytest.mark.parametrize("missing", ["CACHE_PASSWORD", "CACHE_MONITOR_TOKEN", "CACHE_NAMESPACE"])
    def test_what_is_missing_is_named_as_in_the_environment_file(self, tmp_path: Path, missing: str) -> None:
        (tmp_path / "secrets").mkdir()
        for name in ("CACHE_PASSWORD", "CACHE_MONITOR_TOKEN"):
            (tmp_path / "secrets" / name.lower()).write_text("" if name == missing else "a-secret")
        namespace = "" if missing == "CACHE_NAMESPACE" else "shop"
        done = self.run("run", self.environment(tmp_path, NOVACRON_CACHE_NAMESPACE=namespace))
        assert done.returncode == 64
        assert f"{missing} is empty: set it in .env" in done.stderr


@pytest.mark.parametrize("script", sorted(COMPOSE.glob("*.sh")), ids=lambda script: script.name)
def test_the_scripts_are_valid_for_a_plain_shell(script: Path) -> None:
    shell = shutil.which("dash") or "/bin/sh"
    assert subprocess.run([shell, "-n", str(script)], check=False).returncode == 0
    assert script.read_text().startswith("#!/bin/sh\n")
    assert not re.search(r"\[\[|\blocal\b|<<<", script.read_text())

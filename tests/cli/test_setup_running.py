"""Servers on this machine, driven by the real command line: started, looked at, restarted, killed, stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cli.local_servers import COMMAND, Local
from servers import PATIENT, process_exists, redis_binary, required, wait_until

from novacron_cache import Cache, CacheSettings
from novacron_cache.topology.local import LocalServers
from novacron_cache.topology.problems import Busy
from novacron_cache.topology.processes import Process, deliver, identify
from novacron_cache.topology.state import StateDirectory
from novacron_cache.topology.wire import Refusal, Wire

pytestmark = pytest.mark.servers


@pytest.fixture
def local() -> Iterator[Local]:
    made = Local()
    yield made
    made.close()


def settings(local: Local, namespace: str = "shop") -> CacheSettings:
    state = StateDirectory(local.state)
    redis = {**state.topology.redis_settings, "password": state.application_password, **PATIENT}
    return CacheSettings(namespace=namespace, redis=redis)


class TestOneServer:
    def test_starts_serves_and_leaves_nothing_running(self, local: Local) -> None:
        port = local.setup("standalone")
        assert "standalone is ready after" in local.ok("start")
        [server] = local.status()["servers"]
        assert server == {
            **server, "name": "server-1", "role": "master", "port": port, "ok": True, "problem": None
        }  # fmt: skip
        assert server["memory_bytes"] > 100_000
        assert [one.pid for one in local.processes()] == [server["pid"]]
        table = local.ok("status")
        assert re.search(rf"server-1\s+master\s+{server['pid']}\s+{port}\s+[\d.]+ MiB\s+ok", table)
        outcome = json.loads(local.ok("test", "--json"))
        assert list(outcome) == ["write", "read", "invalidate"]
        assert "1 server stopped" in local.ok("stop")
        assert local.processes() == []
        assert local.run("status").returncode == 8
        for command in (["start"], ["restart"]):
            done = local.run(*command, "--json")
            assert (done.returncode, done.stderr) == (0, "")
            said = json.loads(done.stdout)
            assert said == {"kind": "standalone", "ready": True, "seconds": said["seconds"], "servers": ["server-1"]}
        assert json.loads(local.ok("stop", "--json")) == {"kind": "standalone", "stopped": ["server-1"]}
        assert json.loads(local.ok("stop", "--json")) == {"kind": "standalone", "stopped": []}
        assert local.ok("stop") == "no server runs\n"

    def test_keeps_its_data_over_a_restart_and_applies_what_was_edited(self, local: Local) -> None:
        local.setup("standalone")
        local.ok("start")
        servers = LocalServers(StateDirectory(local.state))
        [server] = servers.topology.servers
        servers.call(server, "SET", "nc:shop:k", "v")
        conf = local.state / "conf" / "node.conf"
        conf.write_text(conf.read_text().replace("maxmemory 512mb", "maxmemory 64mb"))
        local.ok("restart")
        assert servers.call(server, "GET", "nc:shop:k") == "v"
        assert servers.call(server, "CONFIG", "GET", "maxmemory")[1] == str(64 * 2**20)

    def test_listens_on_loopback_and_lets_nobody_in_without_a_password(self, local: Local) -> None:
        port = local.setup("standalone")
        local.ok("start")
        [process] = local.processes()
        assert {connection.laddr.ip for connection in process.net_connections() if connection.status == "LISTEN"} == {
            "127.0.0.1"
        }
        with socket.create_connection(("127.0.0.1", port), 2) as client:
            client.sendall(b"PING\r\n")
            assert client.recv(100).startswith(b"-NOAUTH")
        with pytest.raises(Refusal, match="WRONGPASS"):
            Wire("127.0.0.1", port, "guessed")

    def test_starting_it_twice_changes_nothing_and_says_so(self, local: Local) -> None:
        local.setup("standalone")
        local.ok("start")
        before = [one.pid for one in local.processes()]
        done = local.run("start")
        assert done.returncode == 4
        assert "already running" in done.stderr
        assert [one.pid for one in local.processes()] == before
        done = local.run("setup", "standalone", "--replace")
        assert done.returncode == 4
        assert "novacron-cache stop" in done.stderr

    def test_a_port_that_is_taken_is_named(self, local: Local) -> None:
        port = local.setup("standalone")
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))
            other.listen()
            done = local.run("start")
            assert done.returncode == 5
            assert f"server-1 cannot have port {port} of 127.0.0.1" in done.stderr
            assert local.processes() == []
            # And nobody told the stranger a password.
            other.settimeout(0)
            with pytest.raises(BlockingIOError):
                other.accept()

    def test_a_server_that_does_not_come_up_is_explained_by_its_log(self, local: Local) -> None:
        local.setup("standalone")
        conf = local.state / "conf" / "node.conf"
        conf.write_text(f"{conf.read_text()}\nno-such-option yes\n")
        done = local.run("start")
        assert done.returncode == 7
        assert "no-such-option" in done.stderr
        assert local.processes() == []

    def test_a_binary_that_is_gone_is_named(self, local: Local) -> None:
        local.setup("standalone")
        path = local.state / "topology.json"
        path.write_text(re.sub(r'"binary": ".*"', '"binary": "/nonexistent/valkey-server"', path.read_text()))
        done = local.run("start")
        assert done.returncode == 6
        assert "/nonexistent/valkey-server is gone" in done.stderr

    @pytest.mark.parametrize(
        "arguments", [["restart", "--rolling"], ["test", "--failover"]], ids=lambda words: " ".join(words)
    )
    def test_nothing_that_needs_a_second_server_is_tried_with_one(self, local: Local, arguments: list[str]) -> None:
        local.setup("standalone")
        local.ok("start")
        assert local.run(*arguments).returncode == 2
        assert local.status()["ok"] is True

    def test_its_log_is_shown_and_followed(self, local: Local) -> None:
        local.setup("standalone")
        local.ok("start")
        assert len(local.ok("logs", "server-1", "-n", "2").splitlines()) == 2
        assert local.run("logs", "server-9").returncode == 2
        # A shell has what it starts in the background ignore Ctrl-C, and these tests may have been started so.
        heeding = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {COMMAND[2]}"
        following = subprocess.Popen(
            [*COMMAND[:2], heeding, "logs", "--follow", "-n", "0"],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "NOVACRON_STATE_DIR": str(local.state)},
        )  # fmt: skip
        try:
            servers = LocalServers(StateDirectory(local.state))
            stop = threading.Event()

            def save() -> None:
                while not stop.wait(0.1):
                    servers.call(servers.topology.servers[0], "SAVE")

            saving = threading.Thread(target=save)
            saving.start()
            assert following.stdout is not None
            assert "DB saved" in following.stdout.readline()
        finally:
            stop.set()
            saving.join()
            following.send_signal(signal.SIGINT)
            try:
                following.communicate(timeout=10)
            finally:
                following.kill()
                following.communicate()

    def test_the_one_of_debian_works_too(self, local: Local) -> None:
        local.setup("standalone", binary=required(redis_binary(), "redis-server 7 or later"))
        local.ok("start")
        assert local.status()["servers"][0]["version"].startswith("redis 7.")
        local.ok("test")
        local.ok("stop")
        assert local.processes() == []


class TestIdentity:
    def test_a_process_that_has_the_id_of_a_server_by_chance_is_left_alone(self, local: Local) -> None:
        local.setup("standalone")
        bystander = subprocess.Popen(["/bin/sleep", "60"])
        try:
            record = {"pid": bystander.pid, "began": "long ago"}
            (local.state / "server-1" / "process.json").write_text(json.dumps(record))
            assert local.ok("stop") == "no server runs\n"
            assert local.run("status").returncode == 8
            assert bystander.poll() is None
            # Not even with its own id: the moment it began is another one.
            assert not deliver(Process(bystander.pid, "long ago"), signal.SIGKILL)
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()

    def test_a_process_is_told_by_its_id_and_its_beginning(self) -> None:
        child = subprocess.Popen(["/bin/sleep", "60"])
        try:
            process = identify(child.pid)
            assert process is not None
            assert process.alive
            assert deliver(process, signal.SIGKILL)
            wait_until(lambda: not process.alive, what="the end of the process")  # it is a zombie
            assert not deliver(process, signal.SIGKILL)
        finally:
            child.wait()
        assert identify(child.pid) is None

    def test_a_server_whose_record_was_lost_is_found_by_its_title(self, local: Local) -> None:
        local.state = local.root / "with a blank"
        local.setup("standalone")
        local.ok("start")
        [before] = local.processes()
        (local.state / "server-1" / "process.json").unlink()
        assert local.status()["servers"][0]["pid"] == before.pid
        assert "1 server stopped" in local.ok("stop")
        assert not process_exists(before.pid)

    def test_two_commands_do_not_change_the_servers_at_once(self, local: Local) -> None:
        local.setup("standalone")
        state = StateDirectory(local.state)
        with state.locked():
            done = local.run("start")
            assert done.returncode == 9
            assert "another command" in done.stderr
            with pytest.raises(Busy), state.locked():
                pass
        local.ok("start")


class Traffic(threading.Thread):
    """An application: writes through the master that the sentinels or nodes name, and calls a cached loader."""

    def __init__(self, local: Local) -> None:
        super().__init__(name="traffic")
        self.servers = LocalServers(StateDirectory(local.state))
        self.cache = Cache(settings(local))
        self.acknowledged: list[int] = []
        self.gaps: list[float] = []
        self.calls = 0
        self.failed: list[BaseException] = []
        self.done = threading.Event()

    def run(self) -> None:
        last, number = time.monotonic(), 0
        while not self.done.is_set():
            try:
                assert self.cache.get_or_load(f"vm:{self.calls % 50}", lambda: "loaded", ttl=60) == "loaded"
                self.calls += 1
            except BaseException as error:
                self.failed.append(error)
            if self.write(number):
                now = time.monotonic()
                self.gaps.append(now - last)
                self.acknowledged.append(number)
                last, number = now, number + 1

    def write(self, number: int) -> bool:
        try:
            with self.servers.connect(self.master(), timeout=4) as wire:
                return bool(wire.call("SET", f"{{load}}:{number}", "1") == "OK")
        except (OSError, Refusal):
            return False

    def master(self) -> Any:
        servers = self.servers
        if servers.topology.kind == "sentinel":
            for sentinel in servers.topology.sentinels:
                try:
                    port = servers.call(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[1]
                    return servers.topology.find(port)
                except (OSError, Refusal):
                    continue
        for node in servers.topology.data:
            try:
                with servers.connect(node) as wire:
                    slot = wire.call("CLUSTER", "KEYSLOT", "{load}")
                    for first, last, (_, port, *_), *_ in wire.call("CLUSTER", "SLOTS"):
                        if first <= slot <= last:
                            return servers.topology.find(str(port))
            except (OSError, Refusal):
                continue
        raise ConnectionError("nobody knows the master")

    def __enter__(self) -> Traffic:
        self.start()
        wait_until(lambda: len(self.acknowledged) > 20, what="traffic")
        return self

    def __exit__(self, *_: object) -> None:
        written = len(self.acknowledged)
        wait_until(lambda: len(self.acknowledged) > written + 20 or not self.is_alive(), what="traffic afterwards")
        self.done.set()
        self.join(30)
        self.cache.close()

    def lost(self) -> list[int]:
        with self.servers.connect(self.master()) as wire:
            return [number for number in self.acknowledged if wire.call("GET", f"{{load}}:{number}") is None]


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
@pytest.mark.timeout(120)
class TestManyServers:
    def test_restart_under_load_survive_their_master_and_come_back_as_they_were(self, local: Local, kind: str) -> None:
        local.setup(kind)
        local.impatient()
        local.ok("start")
        status = local.status()
        assert status["ok"] is True
        masters = 1 if kind == "sentinel" else 3
        assert sum(server["role"] == "master" for server in status["servers"]) == masters
        assert len({server["pid"] for server in status["servers"]}) == 6

        with Traffic(local) as traffic:
            local.ok("restart", "--rolling")
        assert traffic.failed == []
        assert traffic.lost() == []
        assert max(traffic.gaps) < 20  # seconds; two, on a machine that has nothing else to do
        after = local.status()
        assert after["ok"] is True
        assert not {server["pid"] for server in after["servers"]} & {server["pid"] for server in status["servers"]}

        outcome = json.loads(local.ok("test", "--failover", "--json"))["failover"]
        assert outcome["failed_calls"] == 0
        assert outcome["killed"] != outcome["master_now"]
        assert 0 < outcome["promoted_after_seconds"] <= outcome["writable_after_seconds"]
        assert outcome["writable_after_seconds"] - outcome["promoted_after_seconds"] < 5
        assert local.server(name=outcome["killed"])["role"] == "replica"

        roles = {server["name"]: server["role"] for server in local.status()["servers"]}
        local.ok("stop")
        assert local.processes() == []
        local.ok("start")
        assert {server["name"]: server["role"] for server in local.status()["servers"]} == roles

        victim = local.server(role="master")
        os.kill(victim["pid"], signal.SIGKILL)
        done = wait_until(lambda: _degraded(local), what="a status that is not ok")
        assert re.search(rf"{victim['name']} .*does not run", done.stdout)
        refused = local.run("test")
        assert refused.returncode == 8
        assert f"{victim['name']} of 6 servers not running" in refused.stderr
        completed = local.run("start")
        assert completed.returncode == 0, completed.stderr
        assert "5 of 6 servers already running" in completed.stderr
        assert local.status()["ok"] is True

    def test_none_is_left_when_one_cannot_start(self, local: Local, kind: str) -> None:
        local.setup(kind)
        last = StateDirectory(local.state).topology.servers[-1]
        with socket.socket() as other:
            other.bind(("127.0.0.1", last.port))
            other.listen()
            done = local.run("start")
        assert done.returncode == 5
        assert f"{last.name} cannot have port {last.port}" in done.stderr
        assert local.processes() == []


def _degraded(local: Local) -> subprocess.CompletedProcess[str] | None:
    done = local.run("status")
    return done if done.returncode == 1 else None

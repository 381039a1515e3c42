"""`backup` and `restore`: the file is whole and private, and what was invalidated meanwhile does not come back."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.operated import NAMESPACE, App, imported_from
from servers import ServerProcess, wait_until

from novacron_cache import Cache
from novacron_cache.effects import Purge
from novacron_cache.tiers import backup_file


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An application whose disk keeps the markers too."""
    with imported_from(tmp_path, monkeypatch):
        yield App(None, tmp_path, tmp_path / "disk")


@pytest.fixture
def served(valkey_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An application whose server keeps the markers."""
    with imported_from(tmp_path, monkeypatch):
        yield App(valkey_server.url, tmp_path, tmp_path / "disk")


def fill(app: App) -> None:
    with app.open() as cache:
        for name in ("kept", "by-key", "by-tag", "by-pattern", "rewritten"):
            cache.set(f"v:{name}", "old", tags=[name])
        cache.set("large", "x" * 100_000)


def change(app: App) -> None:
    """Invalidate each value but one, each in another way."""
    with app.open() as cache:
        assert cache.invalidate("v:by-key", wait=True).done
        assert cache.invalidate_tags("by-tag", wait=True).done
        assert cache.invalidate_pattern("v:*pattern", wait=True).done
        cache.set("v:rewritten", "new")


def lose_values(app: App) -> None:
    """Remove every payload from every tier; markers stay."""
    with app.open() as cache:
        for tier in cache.engine.shared:
            tier.perform(Purge())


def lose_disk(app: App) -> None:
    assert app.disk is not None
    app.disk.rename(app.disk.with_name(f"lost-{len(list(app.directory.iterdir()))}"))


def there(app: App) -> dict[str, str]:
    with app.open() as cache:
        found: dict[str, str] = cache.get_many(["v:kept", "v:by-key", "v:by-tag", "v:by-pattern", "v:rewritten"])
        return found


# -- coherence --------------------------------------------------------------------------------------------------------


@pytest.mark.servers
@pytest.mark.parametrize("lost", ["values", "directory"])
def test_behind_a_server_what_was_invalidated_since_is_not_served(served: App, lost: str) -> None:
    fill(served)
    told = served.json("backup", str(served.directory / "file"), *served.where)
    assert (told["values"], told["verified"]) == (6, True)
    change(served)
    lose_values(served)
    if lost == "directory":
        lose_disk(served)
    assert there(served) == {}
    told = served.json("restore", str(served.directory / "file"), *served.where)
    assert (told["restored"], told["unreadable"], told["markers"]) == (6, 0, 0)
    assert there(served) == {"v:kept": "old"}
    with served.open() as cache:
        assert cache.get("large") == "x" * 100_000


def test_where_the_disk_keeps_the_markers_what_was_invalidated_since_is_not_served(alone: App) -> None:
    fill(alone)
    alone.json("backup", str(alone.directory / "file"), *alone.where)
    change(alone)
    lose_values(alone)
    assert alone.json("restore", str(alone.directory / "file"), *alone.where)["restored"] == 6
    assert there(alone) == {"v:kept": "old"}


def test_what_is_there_is_newer_than_the_backup_and_stays(alone: App) -> None:
    fill(alone)
    alone.json("backup", str(alone.directory / "file"), *alone.where)
    change(alone)
    told = alone.json("restore", str(alone.directory / "file"), *alone.where)
    assert (told["restored"], told["present"]) == (0, 6)
    assert there(alone) == {"v:kept": "old", "v:rewritten": "new"}


def test_a_running_process_sees_neither_what_it_invalidated_nor_an_error(alone: App) -> None:
    fill(alone)
    alone.json("backup", str(alone.directory / "file"), *alone.where)
    with alone.open() as cache:
        assert cache.get("v:by-tag") == "old"
        cache.invalidate_tags("by-tag", wait=True)
        cache.engine.shared[0].perform(Purge())
        alone.json("restore", str(alone.directory / "file"), *alone.where)
        assert cache.get("v:by-tag") is None
        assert cache.get("v:by-tag", consistency="strong") is None
        assert cache.get("v:kept", consistency="strong") == "old"


def test_a_directory_that_was_lost_believes_nothing_of_a_backup(alone: App) -> None:
    fill(alone)
    alone.json("backup", str(alone.directory / "file"), *alone.where)
    change(alone)
    lose_disk(alone)
    result = alone.run("restore", str(alone.directory / "file"), *alone.where)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--nothing-changed-since" in result.stderr
    assert there(alone) == {}


def test_a_directory_that_is_in_use_again_takes_values_and_serves_none_of_them(alone: App) -> None:
    fill(alone)
    alone.json("backup", str(alone.directory / "file"), *alone.where)
    change(alone)
    lose_disk(alone)
    with alone.open() as cache:
        cache.set("v:by-tag", "newer")  # draws markers of its own
        for options in ([], ["--nothing-changed-since"]):
            told = alone.json("restore", str(alone.directory / "file"), *options, *alone.where)
            assert told["markers"] == 0
        assert there(alone) == {"v:by-tag": "newer"}


def test_an_operator_who_knows_that_nothing_changed_gets_everything_back(alone: App) -> None:
    fill(alone)
    alone.json("backup", str(alone.directory / "file"), *alone.where)
    lose_disk(alone)
    told = alone.json("restore", str(alone.directory / "file"), "--nothing-changed-since", *alone.where)
    assert told["restored"] == 6
    assert told["markers"] > 6
    assert len(there(alone)) == 5
    # From here on it is a directory like any other.
    change(alone)
    assert there(alone) == {"v:kept": "old", "v:rewritten": "new"}


def test_a_rule_of_before_the_backup_holds_after_it(alone: App) -> None:
    fill(alone)
    with alone.open() as cache:
        cache.invalidate_pattern("v:*pattern", wait=True)
    alone.json("backup", str(alone.directory / "file"), *alone.where)
    lose_disk(alone)
    alone.json("restore", str(alone.directory / "file"), "--nothing-changed-since", *alone.where)
    assert "v:by-pattern" not in there(alone)
    assert len(there(alone)) == 4


def test_a_hold_keeps_the_markers_of_a_backup_out(alone: App) -> None:
    fill(alone)
    alone.json("backup", str(alone.directory / "file"), *alone.where)
    lose_disk(alone)
    with alone.open() as cache, cache.invalidating(tags=["kept"], hold="30s"):
        result = alone.run("restore", str(alone.directory / "file"), "--nothing-changed-since", *alone.where)
        assert result.exit_code == 2
        assert "has markers of its own" in result.stderr


@pytest.mark.servers
def test_a_backup_from_behind_a_server_has_no_markers_to_believe(served: App, alone: App) -> None:
    fill(served)
    served.json("backup", str(served.directory / "file"), *served.where)
    lose_disk(served)
    result = served.run(
        "restore", str(served.directory / "file"), "--nothing-changed-since", "--disk", str(served.disk),
        "--namespace", NAMESPACE,
    )  # fmt: skip
    assert result.exit_code == 2
    assert "has no markers" in result.stderr


@pytest.mark.servers
def test_behind_a_server_nobody_has_to_say_that_nothing_changed(served: App) -> None:
    fill(served)
    served.json("backup", str(served.directory / "file"), *served.where)
    result = served.run("restore", str(served.directory / "file"), "--nothing-changed-since", *served.where)
    assert result.exit_code == 2
    assert "the server knows what changed" in result.stderr


# -- the file ---------------------------------------------------------------------------------------------------------


def test_a_backup_is_one_state_of_the_directory_while_others_write(alone: App) -> None:
    fill(alone)
    stop = threading.Event()
    with alone.open() as cache:

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                # Both or neither, in one transaction.
                cache.set_many({f"pair:{number % 50}:a": number, f"pair:{number % 50}:b": "y" * 40_000})

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(5):
                alone.json("backup", str(alone.directory / f"file{number}"), *alone.where)
        finally:
            stop.set()
            writer.join()
    for number in range(5):
        with (alone.directory / f"file{number}").open("rb") as file:
            keys = {record[1] for record in backup_file.Records(file, "f") if record[0] == "p"}
        first, second = ({key[:-2] for key in keys if key.endswith(end)} for end in (":a", ":b"))
        assert second <= first
        assert {key for key in keys if "kept" in key}


def test_the_file_is_for_its_owner_alone_and_no_other_is_replaced(alone: App) -> None:
    fill(alone)
    file = alone.directory / "file"
    alone.json("backup", str(file), *alone.where)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    result = alone.run("backup", str(file), *alone.where)
    assert result.exit_code == 2
    assert "--replace" in result.stderr
    assert file.read_bytes() == before
    assert alone.run("backup", str(file), "--replace", *alone.where).exit_code == 0
    assert [path.name for path in alone.directory.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "longer", "foreign", "empty"])
def test_a_damaged_file_is_refused_before_anything_is_touched(alone: App, damage: str) -> None:
    fill(alone)
    file = alone.directory / "file"
    alone.json("backup", str(file), *alone.where)
    data = file.read_bytes()
    middle = len(data) // 2
    file.write_bytes(
        {
            "cut": data[:middle],
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "longer": data + b"x",
            "foreign": b"SQLite format 3\0" + data,
            "empty": b"",
        }[damage]
    )
    lose_values(alone)
    result = alone.run("restore", str(file), *alone.where)
    assert (result.exit_code, result.stdout) == (2, "")
    assert ("is damaged" if damage in {"cut", "flipped", "longer"} else "is not a backup") in result.stderr
    assert there(alone) == {}


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["restore", "nothing", "--disk", "{disk}", "--namespace", NAMESPACE], "name a file that `backup` wrote"),
        (["restore", "file", "--disk", "{disk}", "--namespace", "other"], "of the namespace 'operated'"),
        (
            ["backup", "x/y/z", "--disk", "{disk}", "--namespace", NAMESPACE],
            "z cannot be written: No such file or directory",
        ),
        (["backup", "pipe", "--replace", "--disk", "{disk}", "--namespace", NAMESPACE], "is no ordinary file"),
        (["backup", "f", "--disk", "{disk}/no", "--namespace", NAMESPACE], "name the one the application uses"),
    ],
)
def test_what_cannot_be_done_is_told(
    alone: App, arguments: list[str], fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(alone.directory)
    fill(alone)
    alone.json("backup", "file", *alone.where)
    os.mkfifo("pipe")
    with Cache.connect(namespace="other", disk=alone.disk) as other:
        other.set("x", 1)
    result = alone.run(*(one.format(disk=alone.disk) for one in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert fix in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert Path("pipe").is_fifo()


def test_a_place_without_room_is_named_and_is_no_fault_of_the_directory(
    alone: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fill(alone)
    before = there(alone)
    file = alone.directory / "file"
    with monkeypatch.context() as patch:
        patch.setattr(backup_file.os, "fsync", full)
        result = alone.run("backup", str(file), *alone.where)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"Error: {file} cannot be written: No space left on device; name another place\n"
    assert [path.name for path in alone.directory.iterdir() if path.name.startswith((".", "file"))] == []
    assert there(alone) == before


def test_a_signed_backup_is_restored_by_those_who_have_the_key(alone: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOVACRON_CACHE_SIGNING_KEYS", "a-key-of-16-bytes-or-more")
    with Cache.connect(namespace=NAMESPACE, disk=alone.disk, signing_keys=["a-key-of-16-bytes-or-more"]) as cache:
        cache.set("v:kept", "old")
    alone.json("backup", str(alone.directory / "file"), *alone.where)
    lose_values(alone)
    monkeypatch.setenv("NOVACRON_CACHE_SIGNING_KEYS", "another-key-of-16-bytes")
    assert alone.json("restore", str(alone.directory / "file"), *alone.where, code=1)["unreadable"] == 1
    monkeypatch.setenv("NOVACRON_CACHE_SIGNING_KEYS", "a-key-of-16-bytes-or-more")
    assert alone.json("restore", str(alone.directory / "file"), *alone.where)["restored"] == 1


def test_no_single_byte_of_a_backup_can_change_unnoticed(alone: App) -> None:
    with alone.open() as cache:
        cache.set("v:kept", "old", tags=["kept"])
    file = alone.directory / "file"
    alone.json("backup", str(file), *alone.where)
    data = file.read_bytes()
    for position in range(len(data)):
        changed = io.BytesIO(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        with pytest.raises(backup_file.BackupError):
            backup_file.Records(changed, "file")


# -- files that somebody made -----------------------------------------------------------------------------------------


def made(path: Path, *records: tuple[object, ...]) -> Path:
    backup_file.write_file(
        path, [("h", {"namespace": NAMESPACE, "created": 1.0, "markers": True}), *records], replace=True
    )
    return path


@pytest.mark.parametrize(
    "record",
    [("x",), ("p", 1, 2.0, b""), ("p", "k", 2.0, "text"), ("m", "dep", b"short", 2.0), ("r", b"x" * 8, "rule"), ()],
)
def test_a_record_of_another_form_is_refused(alone: App, record: tuple[object, ...]) -> None:
    made(alone.directory / "file", record)  # it is read back as far as its checksum goes
    with (alone.directory / "file").open("rb") as file:
        records = backup_file.Records(file, "file")
        with pytest.raises(backup_file.BackupError, match="unknown form"):
            list(records)


def test_nothing_in_a_file_leads_out_of_the_directory(alone: App) -> None:
    fill(alone)
    assert alone.disk is not None
    before = {path for path in alone.directory.rglob("*") if not path.is_relative_to(alone.disk)}
    file = made(
        alone.directory / "file",
        ("p", "../../../outside", 9e9, b"x" * 50_000),
        ("p", "/outside", 9e9, b"x"),
        ("m", "../outside", b"x" * 8, 9e9),
    )
    told = alone.json("restore", str(file), *alone.where, code=1)
    assert (told["restored"], told["unreadable"]) == (0, 2)
    after = {path for path in alone.directory.rglob("*") if not path.is_relative_to(alone.disk)}
    assert after - before == {file}
    assert len(there(alone)) == 5


def test_a_restored_value_does_not_outlive_what_it_says_of_itself(alone: App) -> None:
    with alone.open() as cache:
        cache.set("v:kept", "old", ttl=2)
    alone.json("backup", str(alone.directory / "file"), *alone.where)
    with (alone.directory / "file").open("rb") as file:
        (payload,) = [record for record in backup_file.Records(file, "f") if record[0] == "p"]
    lose_values(alone)
    made(alone.directory / "file", ("p", payload[1], payload[2] + 1e6, payload[3]))
    wait_until(lambda: time.time() > payload[2])
    told = alone.json("restore", str(alone.directory / "file"), *alone.where)
    assert (told["restored"], told["expired"]) == (0, 1)


def test_a_backup_says_in_json_what_it_did(alone: App) -> None:
    fill(alone)
    told = json.loads(alone.run("backup", str(alone.directory / "file"), "--json", *alone.where).stdout)
    assert told["bytes"] == (alone.directory / "file").stat().st_size

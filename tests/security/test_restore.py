"""A backup that somebody made to do harm: nothing leaves the directory, nothing is run, and nothing is believed."""

from __future__ import annotations

import os
import pickle
import stat
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
import pytest
from security.witness import NAMESPACE, NEW_KEY, OLD_KEY, Directory, Trap, opened

from novacron_cache.codecs import Header, Pipeline
from novacron_cache.errors import DecodeError, TierError
from novacron_cache.markers import NAMESPACE as ROOT
from novacron_cache.markers import dependencies
from novacron_cache.tiers.backup_file import MAGIC, BackupError, Records
from novacron_cache.tiers.disk import DiskTier
from novacron_cache.tiers.disk_backup import Restored

STORED = ":~kk"
FOREVER = 4e9
HEADER = ("h", {"namespace": NAMESPACE, "created": 1e9, "markers": True})


def cut(data: bytes) -> bytes:
    """Return data with the checksum that belongs at its end."""
    return data + sha256(data).digest()


def archive(*records: Any, count: int | None = None) -> bytes:
    """Return a backup with these records and a checksum that is right: it is no secret."""
    data = MAGIC
    for record in (*records, ("e", len(records) if count is None else count)):
        packed = record if isinstance(record, bytes) else msgpack.packb(record, unicode_errors="surrogatepass")
        data += struct.pack(">I", len(packed)) + packed
    return cut(data)


@pytest.fixture
def store(tmp_path: Path) -> Directory:
    store = Directory(tmp_path / "cache")
    with opened(store) as cache:
        cache.set("k", "what is there")
    return store


def restored(store: Directory, data: bytes, *, markers: bool = False, keys: tuple[bytes, ...] = ()) -> Restored:
    """Restore a file as the command does."""
    file = store.path.parent / "planted.backup"
    file.write_bytes(data)
    pipeline = Pipeline(namespace=NAMESPACE, signing_keys=keys)

    def until(key: str, payload: bytes) -> float | None:
        try:
            return pipeline.open(key, payload)[0].stale_until
        except DecodeError:
            return None

    tier = DiskTier(store.path, namespace=NAMESPACE)
    try:
        with file.open("rb") as stream:
            return tier.restore(Records(stream, file.name), until, markers=markers)
    finally:
        tier.close()


def everything(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if "cache.db" not in path.name}


NAMES = ["../../planted", "/etc/planted", "aa/bb/../../../planted", "a\0b", "cache.db", "", "x" * 100_000]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:12])
def test_no_name_in_it_leads_out_of_the_directory(store: Directory, name: str) -> None:
    header = Header(b"f" * 8, 1e9, FOREVER, FOREVER)
    payload = Pipeline(namespace=NAMESPACE).seal(name, header, b"x" * 100_000)
    before = everything(store.path.parent)
    done = restored(store, archive(HEADER, ("p", name, FOREVER, payload)))
    assert done.stored == 1
    added = everything(store.path.parent) - before - {store.path.parent / "planted.backup"}
    assert added
    assert [path for path in added if not path.is_relative_to(store.path)] == []
    assert all(len(path.relative_to(store.path).parts) <= 3 for path in added)


def test_a_pickle_in_it_is_bytes_that_nobody_reads(store: Directory) -> None:
    done = restored(store, archive(HEADER, ("p", STORED + "2", FOREVER, pickle.dumps(Trap()))))
    assert (done.stored, done.unreadable) == (0, 1)
    assert Trap.sprung == []


def test_what_is_there_stays(store: Directory) -> None:
    payload = Pipeline(namespace=NAMESPACE).seal(STORED, Header(b"f" * 8, 1e9, FOREVER, FOREVER), b"planted")
    assert restored(store, archive(HEADER, ("p", STORED, FOREVER, payload))).present == 1
    with opened(store) as cache:
        assert cache.get("k") == "what is there"


def test_a_value_that_is_not_signed_is_not_restored_where_there_are_keys(store: Directory) -> None:
    header = Header(b"f" * 8, 1e9, FOREVER, FOREVER)
    forged = [
        Pipeline(namespace=NAMESPACE).seal("a", header, b"unsigned"),
        Pipeline(namespace=NAMESPACE, signing_keys=[OLD_KEY]).seal("b", header, b"signed by another"),
        Pipeline(namespace="another", signing_keys=[NEW_KEY]).seal("c", header, b"of another namespace"),
        Pipeline(namespace=NAMESPACE, signing_keys=[NEW_KEY]).seal("other", header, b"of another key"),
    ]
    records = [("p", key, FOREVER, payload) for key, payload in zip("abcd", forged, strict=True)]
    done = restored(store, archive(HEADER, *records), keys=(NEW_KEY,))
    assert (done.stored, done.unreadable) == (0, 4)


def test_a_value_with_ids_of_somebodys_choice_is_not_served(store: Directory) -> None:
    ids = tuple((dep, b"i" * 8) for dep in dependencies("new", "", ()))
    payload = Pipeline(namespace=NAMESPACE).seal(":~knew", Header(b"f" * 8, 1e9, FOREVER, FOREVER, ids), b"planted")
    assert restored(store, archive(HEADER, ("p", ":~knew", FOREVER, payload))).stored == 1
    with opened(store) as cache:
        assert cache.get_or_load("new", lambda: "loaded") == "loaded"


def test_markers_are_not_restored_into_a_directory_that_has_some(store: Directory) -> None:
    data = archive(HEADER, ("m", ROOT, b"i" * 8, FOREVER))
    with pytest.raises(BackupError, match="has markers of its own"):
        restored(store, data, markers=True)
    assert restored(store, data).markers == 0
    with opened(store) as cache:
        assert cache.get("k") == "what is there"


def test_a_backup_of_another_namespace_is_refused(store: Directory) -> None:
    header = ("h", {"namespace": "another", "created": 1e9, "markers": True})
    with pytest.raises(BackupError, match="is of the namespace 'another'"):
        restored(store, archive(header))


MALFORMED = {
    "no header": archive(("p", "a", FOREVER, b"x")),
    "a header of numbers": archive(("h", 5)),
    "made at the end of time": archive(("h", {"namespace": NAMESPACE, "created": 1e300, "markers": False})),
    "made never": archive(("h", {"namespace": NAMESPACE, "created": float("nan"), "markers": False})),
    "no end": archive(HEADER, count=5),
    "an unknown record": archive(HEADER, ("x", 1)),
    "a key of bytes": archive(HEADER, ("p", b"a", FOREVER, b"x")),
    "a value of text": archive(HEADER, ("p", "a", FOREVER, "x")),
    "an id that is too long": archive(HEADER, ("m", "a", b"i" * 13, FOREVER)),
    "not msgpack": archive(HEADER, b"\xc1"),
    "endless nesting": archive(HEADER, b"\x91" * 50_000),
    "a length that lies": archive(HEADER, b"\xdd\xff\xff\xff\xff"),
    "a record longer than the file": cut(archive(HEADER)[:-40] + b"\xff\xff\xff\xff"),
    "nothing": b"",
    "a zip": b"PK\x03\x04" + b"\0" * 100,
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_backup_is_refused_with_one_kind_of_error(store: Directory, what: str) -> None:
    before = everything(store.path)
    with pytest.raises(BackupError):
        restored(store, MALFORMED[what])
    assert everything(store.path) == before
    with opened(store) as cache:
        assert cache.get("k") == "what is there"


@pytest.mark.parametrize(
    "record",
    [("p", "\ud800", FOREVER, b""), ("p", "a", 2**64 - 1, b""), ("p", "a", float("nan"), b""), ("p", "a", -1, b"")],
    ids=["a key that is no text", "for ever", "for a time that is none", "expired"],
)
def test_values_that_no_database_takes_are_errors_of_the_tier_or_left_out(store: Directory, record: Any) -> None:
    header = Header(b"f" * 8, 1e9, FOREVER, FOREVER)
    payload = Pipeline(namespace=NAMESPACE).seal(record[1], header, b"x")
    try:
        done = restored(store, archive(HEADER, (*record[:3], payload)))
    except TierError:
        return
    assert done.stored + done.expired == 1


def test_the_file_is_written_for_its_owner_alone_and_through_no_link(store: Directory, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    target = tmp_path / "copy"
    (tmp_path / f".copy.{os.getpid()}.partial").symlink_to(precious)
    tier = DiskTier(store.path, namespace=NAMESPACE)
    with pytest.raises(BackupError, match="in the way"):
        tier.back_up(target, markers=False)
    (tmp_path / f".copy.{os.getpid()}.partial").unlink(missing_ok=True)
    target.symlink_to(precious)
    with pytest.raises(BackupError, match="exists"):
        tier.back_up(target, markers=False)
    tier.back_up(target, markers=False, replace=True)
    assert not target.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert precious.read_text() == "kept"
    tier.close()


def test_what_was_planted_in_the_directory_is_not_carried_on(store: Directory, tmp_path: Path) -> None:
    store.plant(STORED, mode=4, value=pickle.dumps(Trap()))
    tier = DiskTier(store.path, namespace=NAMESPACE)
    assert tier.back_up(tmp_path / "copy", markers=False)[0] == 0
    tier.close()
    assert Trap.sprung == []

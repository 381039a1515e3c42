"""Nobody's pickle is run: the disk's rows are never unpickled, and a pickled body needs the application's signature."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from security.witness import NEW_KEY, Directory, Server, Store, Trap, Witness, opened
from servers import ServerProcess

from novacron_cache import CacheSettings, SettingsError
from novacron_cache.codecs import JSON, PICKLE, Header, Pipeline
from novacron_cache.errors import DecodeError
from novacron_cache.schema import Schema

KEY = "k"
STORED = ":~kk"


@pytest.fixture(autouse=True)
def _no_trap_was_sprung() -> Any:
    Trap.sprung.clear()
    yield
    assert Trap.sprung == []


@pytest.fixture
def disk(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "cache")


def filled(store: Store, value: Any = 1, **settings: Any) -> None:
    with opened(store, **settings) as cache:
        cache.set(KEY, value)


@pytest.mark.parametrize("mode", [3, 4], ids=["text", "pickle"])
def test_a_pickled_row_of_the_disk_is_a_miss_an_event_and_an_alert(disk: Directory, mode: int) -> None:
    filled(disk)
    disk.plant(STORED, mode=mode, value=pickle.dumps(Trap()), filename=None)
    with opened(disk) as cache:
        witness = Witness(cache)
        assert cache.get_or_load(KEY, lambda: "loaded") == "loaded"
        witness.refused("disk", "unsafe", alert=True)
    with opened(disk) as cache:
        assert cache.get(KEY) == "loaded"


def test_a_pickled_file_of_the_disk_is_refused(disk: Directory) -> None:
    filled(disk, "x" * 100_000)
    (file,) = disk.path.glob("*/*/*.val")
    file.write_bytes(pickle.dumps(Trap()))
    disk.plant(STORED, mode=4, value=None, size=file.stat().st_size)
    with opened(disk) as cache:
        witness = Witness(cache)
        assert cache.get_or_load(KEY, lambda: "loaded") == "loaded"
        witness.refused("disk", "unsafe", alert=True)


def test_a_pickled_key_of_the_disk_is_nobodys_row(disk: Directory) -> None:
    filled(disk)
    disk.sql("UPDATE Cache SET key = ?, raw = 0", pickle.dumps(Trap()))
    with opened(disk) as cache:
        assert cache.get_or_load(KEY, lambda: "loaded") == "loaded"
        assert cache.clear(purge=True).done


def unsigned_pickle(namespace: str) -> bytes:
    """Return what somebody without the key can make: all right but for the signature."""
    ids = (("n", b"i" * 8),)
    header = Header(bytes([PICKLE.format_id]) + b"f" * 7, 0.0, 2e9, 2e9, ids)
    return Pipeline(namespace=namespace).seal(STORED, header, pickle.dumps(Trap()))


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned application", "signed application"])
@pytest.mark.servers
def test_a_pickle_that_is_not_signed_is_refused_wherever_it_lies(
    valkey_server: ServerProcess, disk: Directory, signed: bool
) -> None:
    keys: dict[str, Any] = {"signing_keys": [NEW_KEY], "serialization": "pickle"} if signed else {}
    for store in (disk, Server(valkey_server)):
        filled(store, **keys)
        store.write(STORED, unsigned_pickle("shop"))
        with opened(store, **keys) as cache:
            witness = Witness(cache)
            assert cache.get_or_load(KEY, lambda: "loaded") == "loaded"
            # Without a key the schema is looked at first, and no schema here is one of pickles.
            if signed:
                witness.refused(store.name, "signature", alert=True)
        store.close()


def test_a_flag_that_says_signed_is_no_signature(disk: Directory) -> None:
    keys: dict[str, Any] = {"signing_keys": [NEW_KEY], "serialization": "pickle"}
    filled(disk, **keys)
    forged = bytearray(unsigned_pickle("shop")[:-4])
    forged[3] |= 2
    for ending in (b"\0" * 36, struct.pack("<I", zlib.crc32(bytes(forged))) + b"\0" * 32):
        disk.write(STORED, bytes(forged) + ending)
        with opened(disk, **keys) as cache:
            witness = Witness(cache)
            assert cache.get_or_load(KEY, lambda: "loaded") == "loaded"
            witness.refused("disk", "signature", alert=True)


def test_pickle_without_a_signing_key_is_refused_when_the_cache_is_made() -> None:
    with pytest.raises(SettingsError, match="'pickle' runs code when it is read; set signing_keys"):
        CacheSettings(serialization="pickle")


def test_a_payload_does_not_choose_the_codec_that_reads_it() -> None:
    with pytest.raises(DecodeError):
        Schema.of(int, codec=JSON).decode(pickle.dumps(Trap()))

"""The directories that processes share: private, never through a link, and nothing in them that is another user's."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from security.witness import Directory, Witness, as_root, opened

from novacron_cache import Cache, SettingsError
from novacron_cache.observe.directory import SnapshotDirectory
from novacron_cache.observe.snapshot import Snapshot

STORED = ":~kk"
NOBODY = 65_534
LARGE = "x" * 100_000


@pytest.fixture
def store(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "cache")


def link(path: Path) -> None:
    real = path.with_name("real")
    real.mkdir(mode=0o700)
    path.symlink_to(real)


def anybodys(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def groups(path: Path) -> None:
    path.mkdir()
    path.chmod(0o770)


def foreign(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)


UNSAFE = [
    pytest.param(link, "is a symbolic link; name the directory itself", id="a link"),
    pytest.param(anybodys, "can be written to by others; run: chmod 700", id="writable by all"),
    pytest.param(groups, "can be written to by others; run: chmod 700", id="writable by a group"),
    pytest.param(foreign, f"belongs to user {NOBODY}", id="another user's", marks=as_root),
]


@pytest.mark.parametrize(("make", "why"), UNSAFE)
def test_an_unsafe_directory_is_refused_with_the_fix(store: Directory, make: Callable[[Path], None], why: str) -> None:
    make(store.path)
    with pytest.raises(SettingsError, match=why), opened(store):
        pass
    assert list(store.path.iterdir()) == []


@pytest.mark.parametrize(("make", "why"), UNSAFE)
def test_a_directory_that_becomes_unsafe_later_is_not_used(
    store: Directory, make: Callable[[Path], None], why: str
) -> None:
    with opened(store) as cache:
        make(store.path)
        witness = Witness(cache)
        assert cache.get_or_load("k", lambda: "loaded") == "loaded"
        witness.failed("disk", why)
    assert list(store.path.iterdir()) == []


def test_whatever_the_umask_nobody_else_can_read_what_is_written(store: Directory) -> None:
    before = os.umask(0)
    try:
        with opened(store) as cache:
            cache.set_many({"small": 1, "large": LARGE})
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
    found = list(store.path.rglob("*"))
    assert {".val", ".db"} <= {one.suffix for one in found}
    assert [one for one in found if one.lstat().st_mode & 0o077] == []


@as_root
@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_another_users_database_is_not_believed_and_is_made_anew(
    store: Directory, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "novacron_cache")
    with opened(store) as cache:
        cache.set("k", "planted")
    database = store.path / "cache.db"
    os.chown(database, NOBODY, NOBODY)
    database.chmod(mode)
    with opened(store) as cache:
        witness = Witness(cache, looking=False)
        assert cache.get_or_load("k", lambda: "loaded") == "loaded"
        witness.not_opened(f"cache.db belongs to user {NOBODY}", caplog)
    assert database.stat().st_uid == os.geteuid()
    assert b"planted" not in database.read_bytes()


@as_root
def test_another_users_value_file_is_refused(store: Directory) -> None:
    with opened(store) as cache:
        cache.set("k", LARGE)
    (file,) = store.path.glob("*/*/*.val")
    os.chown(file, NOBODY, NOBODY)
    with opened(store) as cache:
        witness = Witness(cache)
        assert cache.get_or_load("k", lambda: "loaded") == "loaded"
        witness.refused("disk", "unsafe", alert=True)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "aa/bb/../../../secret", "cache.db"])
def test_a_row_that_names_a_file_outside_is_refused(store: Directory, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with opened(store) as cache:
        cache.set("k", 1)
    store.plant(STORED, mode=2, value=None, filename=name, size=6)
    with opened(store) as cache:
        witness = Witness(cache)
        assert cache.get_or_load("k", lambda: "loaded") == "loaded"
        witness.refused("disk", "unsafe", alert=True)
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert Path("/etc/passwd").exists()


@pytest.mark.parametrize("level", [0, 1, 2], ids=["the file", "its folder", "the outer folder"])
def test_a_value_file_behind_a_link_is_refused(store: Directory, tmp_path: Path, level: int) -> None:
    with opened(store) as cache:
        cache.set("k", LARGE)
    (file,) = store.path.glob("*/*/*.val")
    linked = [file, *file.parents][level]
    linked.rename(tmp_path / "moved")
    linked.symlink_to(tmp_path / "moved")
    with opened(store) as cache:
        witness = Witness(cache)
        assert cache.get_or_load("k", lambda: "loaded") == "loaded"
        witness.refused("disk", "unsafe", alert=True)
    assert (tmp_path / "moved").exists()


def test_a_database_behind_a_link_is_neither_read_nor_written(
    store: Directory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "novacron_cache")
    store.path.mkdir(mode=0o700)
    (tmp_path / "elsewhere.db").write_bytes(b"precious")
    (store.path / "cache.db").symlink_to(tmp_path / "elsewhere.db")
    with opened(store) as cache:
        witness = Witness(cache, looking=False)
        assert cache.get_or_load("k", lambda: "loaded") == "loaded"
        witness.not_opened("cache.db is not a file", caplog)
    assert (tmp_path / "elsewhere.db").read_bytes() == b"precious"


def test_a_purge_leaves_no_value_in_any_file(store: Directory) -> None:
    secrets = ["a small secret " * 3, "a large secret " * 10_000]
    with opened(store) as cache:
        cache.set_many({"small": secrets[0], "large": secrets[1]})
        assert cache.clear(purge=True).done
        cache.set("k", 1)
        files = [one for one in store.path.rglob("*") if one.is_file()]
        assert [one.name for one in files if b"secret a " in one.read_bytes()] == []
    files = [one for one in store.path.rglob("*") if one.is_file()]
    assert [one.name for one in files if b"secret a " in one.read_bytes()] == []


class TestTheDirectoryOfFigures:
    """`monitor.directory`: workers read each other's files there, and remove those of the dead."""

    def test_its_files_are_private(self, tmp_path: Path) -> None:
        directory = SnapshotDirectory(tmp_path / "figures", "shop")
        directory.write(Snapshot("host:1:a"))
        found = [tmp_path / "figures", *(tmp_path / "figures").iterdir()]
        assert [one for one in found if one.stat().st_mode & 0o077] == []

    def test_a_planted_file_has_nothing_else_removed(self, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.write_text("kept")
        figures = tmp_path / "figures"
        directory = SnapshotDirectory(figures, "shop")
        (figures / "other.snapshot").write_text("kept")
        holds = ["../precious", str(precious), "other.snapshot", ["a", "list"], 5, None]
        planted = Snapshot(facts={"namespace": "shop", "holds": holds})
        (figures / "novacron_cache-shop-retired.snapshot").write_bytes(planted.encode())
        for _ in range(3):
            directory.others("host:1:me")
        assert precious.read_text() == "kept"
        assert (figures / "other.snapshot").read_text() == "kept"

    @pytest.mark.parametrize("holds", [5, "text", {"a": 1}, [[1]], None])
    def test_facts_of_another_form_are_no_crash(self, tmp_path: Path, holds: object) -> None:
        directory = SnapshotDirectory(tmp_path, "shop")
        planted = Snapshot(facts={"namespace": "shop", "holds": holds, "pid": "x", "started": [1]})
        for name in ("retired", "another"):
            (tmp_path / f"novacron_cache-shop-{name}.snapshot").write_bytes(planted.encode())
        assert len(directory.others("host:1:me")) == 2

    def test_a_link_where_a_file_is_written_is_not_followed(self, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.write_text("kept")
        figures = tmp_path / "figures"
        directory = SnapshotDirectory(figures, "shop")
        name = "novacron_cache-shop-host_1_me.snapshot"
        (figures / f"{name}.{os.getpid()}.new").symlink_to(precious)
        (figures / "novacron_cache-shop.lock").symlink_to(precious)
        for _ in range(2):
            directory.write(Snapshot("host:1:me", facts={"namespace": "shop"}))
            directory.others("host:1:you")
        assert precious.read_text() == "kept"
        assert not (figures / name).is_symlink()
        assert Snapshot.decode((figures / name).read_bytes()) is not None

    def test_a_pipe_among_them_holds_nobody(self, tmp_path: Path) -> None:
        directory = SnapshotDirectory(tmp_path, "shop")
        os.mkfifo(tmp_path / "novacron_cache-shop-x.snapshot")
        assert directory.others("host:1:me") == []


def test_a_cache_without_a_disk_makes_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Cache() as cache:
        cache.set("k", 1)
    assert list(tmp_path.iterdir()) == []

"""Directories of the disk tier come to harm; the arguments are what to do, in which directory, and how often.

This process has neither threads nor a cache. In each round it forks writers that use the directory and are killed with
SIGKILL at any moment, then does something to the files, and forks a reader that finds them so. Some readers have had
the directory open all the while. Every page tells its key and its version and is as long as these two say, so a page
that is not whole, or not the one that was asked for, shows. A page counts as old when a newer version's invalidation
had been acknowledged before the call began.

Other rounds make the directory one that cannot be written to, which is undone after a while: see `suffer`.
"""

from __future__ import annotations

import contextlib
import ctypes
import encodings.hex_codec  # noqa: F401 - for those who cannot read where it is once they run
import errno
import json
import os
import random
import resource
import select
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import novacron_cache.tiers.disk  # noqa: F401 - the same
from novacron_cache import MISSING, Cache, CacheModel, CacheSettings, cached

from .database import Database

KEYS = 24
WRITERS = 2
DIRECTORIES = 5
PATIENCE = 20.0
REBUILT = 5.0
"""Seconds in which the tier has to be of use again."""
NOBODY = 65_534
DATABASE = ("cache.db", "cache.db-wal", "cache.db-shm")
_NEW_MOUNTS, _PRIVATE = 0x20000, 0x44000


class Page(CacheModel, key="page:<n>", ttl="1m", tags=["leaf:<n>"]):
    n: int
    version: int
    text: str


@dataclass
class Found:
    """What a reader found.

    Attributes:
        reads: how many pages it asked for.
        wrong: pages of another key, or that were not whole.
        old: pages older than what had been acknowledged.
        errors: what came out of calls.
        slowest: seconds that the slowest call took, the first of all aside.
        skipped: how many calls were made while the disk was left out.
        slowest_skipped: seconds that the slowest of those took.
        first: seconds that the first one took, which opens the database.
        rebuilt: seconds until what one cache stores another one finds.
        hits: how many pages came from the disk.
    """

    reads: int = 0
    wrong: int = 0
    old: int = 0
    errors: list[str] = field(default_factory=list)
    slowest: float = 0.0
    skipped: int = 0
    slowest_skipped: float = 0.0
    first: float = 0.0
    rebuilt: float = 0.0
    hits: int = 0


def text(n: int, version: int) -> str:
    # Some are so long that they have a file of their own.
    return f"{n}.{version} " * (5, 60, 600, 9000)[n % 4]


class Reader:
    """A cache on the directory, every read of which asks the disk, and what it has found."""

    def __init__(self, directory: Path, database: Database) -> None:
        self.directory, self.database, self.found = directory, database, Found()
        self.cache = Cache(settings(directory))

        @cached(Page, cache=self.cache)
        def page(n: int) -> Page:
            version = database.version(n)
            return Page(n=n, version=version, text=text(n, version))

        self.page = page

    def read(self, n: int) -> None:
        found, began, breaker = self.found, time.monotonic_ns(), self.cache.engine.breakers["disk"]
        left_out, start = breaker.is_open, time.perf_counter()
        try:
            one = self.page(n)
        except Exception as error:
            found.errors.append(f"{type(error).__name__}: {error}")
            return
        seconds = time.perf_counter() - start
        if left_out and breaker.is_open:
            found.skipped += 1
            found.slowest_skipped = max(found.slowest_skipped, seconds)
        if found.reads:
            found.slowest = max(found.slowest, seconds)
        else:
            found.first = seconds
        found.reads += 1
        if one.n != n or one.text != text(n, one.version):
            found.wrong += 1
        elif self.database.age(n, one.version, began) > 0:
            found.old += 1

    def write(self, n: int, chance: random.Random) -> None:
        """Change a page and say so."""
        version = self.database.commit(n)
        try:
            if chance.random() < 0.5:
                receipt = self.cache.invalidate(f"page:{n}")
            else:
                receipt = self.cache.invalidate_tags(f"leaf:{n}")
        except Exception as error:
            self.found.errors.append(f"{type(error).__name__}: {error}")
            return
        if receipt.done:
            self.database.announce(n, version)

    def read_all(self) -> None:
        for n in range(KEYS):
            self.read(n)

    def wait_until_of_use(self) -> None:
        """Note when what is stored here is found by another cache."""
        began = time.monotonic()
        with Cache(settings(self.directory)) as other:
            peek = cached(Page, cache=other)(_never).peek
            while peek(1) is MISSING and time.monotonic() < began + 2 * REBUILT:
                self.page.refresh(1)
                time.sleep(0.01)
        self.found.rebuilt = time.monotonic() - began

    def report(self) -> str:
        self.found.hits = self.cache.stats().hits.get("disk", 0)
        return json.dumps(asdict(self.found))


def _never(n: int) -> Page:
    raise AssertionError("only what is there is wanted")


def settings(directory: Path) -> CacheSettings:
    return CacheSettings(namespace="pages", disk={"path": str(directory)}, memory={"enabled": False})


# -- harm -------------------------------------------------------------------------------------------------------------


def flip(file: Path, chance: random.Random) -> None:
    """Flip some bits of a file."""
    data = bytearray(file.read_bytes())
    for _ in range(chance.choice((1, 8, 64)) if data else 0):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    with file.open("r+b") as out:  # the same file, for those who have it open
        out.write(data)


def cut(file: Path, chance: random.Random) -> None:
    """Cut a file short."""
    os.truncate(file, chance.randrange(file.stat().st_size + 1))


def blank(file: Path, chance: random.Random) -> None:
    """Write zeros over a page of a file."""
    size = file.stat().st_size
    with file.open("r+b") as out:
        out.seek(chance.randrange(max(size // 4096, 1)) * 4096)
        out.write(bytes(min(4096, size)))


def remove(file: Path, _: random.Random) -> None:
    """Remove a file."""
    file.unlink(missing_ok=True)


def nothing(_: Path, __: random.Random) -> None:
    """Leave a file as the killed writers did."""


Harm = Callable[[Path, random.Random], None]
HARMS: dict[str, tuple[Harm, str]] = {
    "killed": (nothing, "cache.db"),
    **{f"{harm.__name__} {name}": (harm, name) for name in (*DATABASE, "*.val") for harm in (flip, cut, blank, remove)},
}


def harm(directory: Path, kind: str, chance: random.Random) -> None:
    """Do one kind of harm to the files of a directory, as far as there are any."""
    do, name = HARMS[kind]
    files = sorted(directory.glob(f"*/*/{name}")) if "*" in name else [directory / name]
    for file in files[:3] if "*" in name else files:
        if file.exists():
            do(file, chance)


# -- directories that cannot be written to ----------------------------------------------------------------------------


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Forbid writing to a directory and all in it to this process, which must not be root."""
    every = [directory, *directory.rglob("*")]
    before = [one.stat().st_mode for one in every]
    for one in every:
        one.chmod(0o500 if one.is_dir() else 0o400)
    try:
        yield
    finally:
        for one, mode in zip(every, before, strict=True):
            with contextlib.suppress(FileNotFoundError):
                one.chmod(mode)


@contextlib.contextmanager
def limited(_: Path) -> Iterator[None]:
    """Let this process write no file beyond a length."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def full(directory: Path) -> Iterator[None]:
    """Leave no room on the file system of a directory."""
    filler = directory.parent / "filler"
    handle = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(handle, bytes(4096))
    os.close(handle)
    try:
        yield
    finally:
        filler.unlink()


TROUBLES: dict[str, Callable[[Path], contextlib.AbstractContextManager[None]]] = {
    "read-only": read_only, "limited": limited, "full": full,
}  # fmt: skip


def has_small_disk(directory: Path) -> bool:
    """Mount a small file system for this process alone; return whether that is allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS) or libc.mount(b"none", b"/", None, _PRIVATE, None):
        return False
    return not libc.mount(b"tmpfs", bytes(directory), b"tmpfs", 0, b"size=1m,mode=0777")


def suffer(directory: Path, database: Database, kind: str, chance: random.Random) -> str:
    """Use a directory before, while and after it cannot be written to; return what was found."""
    directory.mkdir(mode=0o711, exist_ok=True)
    if kind == "full" and not has_small_disk(directory):
        raise OSError(errno.EPERM, "a file system can be mounted by root alone")
    place = directory / kind
    if os.geteuid() == 0 and kind == "read-only":
        place.mkdir(mode=0o700, exist_ok=True)
        os.chown(place, NOBODY, NOBODY)
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    with contextlib.ExitStack() as stack:
        reader = Reader(place, database)
        stack.callback(reader.cache.close)
        if chance.random() < 0.7:
            reader.read_all()
        else:
            place.mkdir(mode=0o700, exist_ok=True)
        with TROUBLES[kind](place):
            for _ in range(3):
                reader.read_all()
                reader.write(chance.randrange(KEYS), chance)
            # What it has invalidated itself it has to obey at once, whether that could be written or not.
            for n in (0, 1, 2):
                database.commit(n)
                reader.cache.invalidate(f"page:{n}")
                began = time.perf_counter()
                if reader.page(n).version != database.version(n):
                    reader.found.old += 1
                reader.found.slowest = max(reader.found.slowest, time.perf_counter() - began)
        reader.wait_until_of_use()
        return reader.report()


# -- processes --------------------------------------------------------------------------------------------------------


def forked(work: Callable[[], str]) -> tuple[int, int]:
    """Do something in a child; return its id, and where its answer can be read."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return pid, ours
    os.close(ours)
    try:
        said = work()
    except BaseException as error:
        said = json.dumps({"failed": f"{type(error).__name__}: {error}"})
    os.write(theirs, said.encode())
    os._exit(0)


def answer(pid: int, pipe: int) -> dict[str, Any]:
    """Return what a child has said; one that says nothing is ended."""
    said = b""
    end = time.monotonic() + PATIENCE
    while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0] and (more := os.read(pipe, 65536)):
        said += more
    os.close(pipe)
    if not said:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    found: dict[str, Any] = json.loads(said) if said else {"failed": "it hung, or died"}
    return found


def use_for_ever(directory: Path, database: Database, number: int, seed: int) -> str:
    """Read and write until somebody kills this process; each writer has keys of its own."""
    chance = random.Random(seed)  # noqa: S311 - it is to be repeated
    reader = Reader(directory, database)
    while not reader.found.errors:
        reader.read(chance.randrange(KEYS))
        if chance.random() < 0.3:
            reader.write(chance.randrange(KEYS // WRITERS) * WRITERS + number, chance)
    return reader.report()


def look(directory: Path, database: Database) -> str:
    """Read everything twice and wait until the directory is of use."""
    reader = Reader(directory, database)
    reader.read_all()
    reader.read_all()
    reader.wait_until_of_use()
    reader.read_all()
    reader.cache.close()
    return reader.report()


def stay(directory: Path, database: Database, said: int, go: int) -> str:
    """Read, say that the directory is open, and read again when something has been done to it."""
    reader = Reader(directory, database)
    reader.read_all()
    os.write(said, b"x")
    os.read(go, 1)
    reader.read_all()
    reader.read_all()
    reader.wait_until_of_use()
    reader.cache.close()
    return reader.report()


def play(directory: Path, database: Database, kind: str, chance: random.Random, *, open_: bool) -> list[dict[str, Any]]:
    """Play one round: writers that are killed, harm, readers."""
    writers = [
        forked(lambda number=number: use_for_ever(directory, database, number, chance.randrange(2**32)))
        for number in range(WRITERS)
    ]
    reports = []
    stayed: tuple[int, int] | None = None
    (said, said_end), (go, go_end) = os.pipe(), os.pipe()
    if open_:
        stayed = forked(lambda: stay(directory, database, said_end, go))
        os.read(said, 1)
    time.sleep(chance.uniform(0.05, 0.2))
    for pid, pipe in writers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if select.select([pipe], [], [], 0)[0] and (early := os.read(pipe, 65536)):
            reports.append(json.loads(early))  # nobody had killed it yet
        os.close(pipe)
    harm(directory, kind, chance)
    os.write(go_end, b"x")
    if stayed is not None:
        reports.append(answer(*stayed))
    reports.append(answer(*forked(lambda: look(directory, database))))
    for end in (said, said_end, go, go_end):
        os.close(end)
    return reports


def crowd(directory: Path, database: Database, seconds: float) -> dict[str, Any]:
    """Have eight processes use a directory while another one is stopped in the middle of a transaction."""
    place = directory / "pages"
    opened = Reader(place, database)
    opened.read_all()
    opened.cache.close()
    locker, pipe = forked(lambda: _lock(place / "cache.db"))
    while not (directory / "pages" / "locked").exists():
        time.sleep(0.001)
    os.kill(locker, signal.SIGSTOP)
    try:
        end = time.monotonic() + seconds
        readers = [forked(lambda number=number: _read_until(place, database, number, end)) for number in range(8)]
        reports = [answer(*reader) for reader in readers]
    finally:
        os.kill(locker, signal.SIGKILL)
        os.waitpid(locker, 0)
        os.close(pipe)
    after = answer(*forked(lambda: look(place, database)))
    return {"meanwhile": reports, "after": [after]}


def _lock(file: Path) -> str:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    file.with_name("locked").touch()
    signal.pause()
    return ""


def _read_until(directory: Path, database: Database, number: int, end: float) -> str:
    chance = random.Random(number)  # noqa: S311 - it is to be repeated
    reader = Reader(directory, database)
    while time.monotonic() < end:
        reader.read(chance.randrange(KEYS))
        if chance.random() < 0.1:
            reader.write(chance.randrange(KEYS // 8) * 8 + number, chance)
        time.sleep(0.002)
    return reader.report()


def rounds(directory: Path, count: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Play so many rounds, each kind of harm in turn; return what was found by kind."""
    chance = random.Random(seed)  # noqa: S311 - it is to be repeated
    truths = [Database(directory / f"truth-{number}", KEYS, create=True) for number in range(DIRECTORIES + 1)]
    for database in truths:
        database.path.chmod(0o666)
    kinds = [*HARMS, *TROUBLES]
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(count):
        kind = kinds[number % len(kinds)]
        if kind in TROUBLES:
            place = directory / f"trouble-{number}"
            place.mkdir(mode=0o711)
            reports = [answer(*forked(lambda place=place, kind=kind: suffer(place, truths[-1], kind, chance)))]
        else:
            # An index that is cut short under whoever has it mapped is cut out of his memory: that ends any process.
            which, open_ = number % DIRECTORIES, number // len(kinds) % 2 != number % 2 and kind != "cut cache.db-shm"
            reports = play(directory / f"pages-{which}", truths[which], kind, chance, open_=open_)
        found.setdefault(kind, []).extend(reports)
    return found


def main() -> None:
    what, directory, arguments = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    directory.chmod(0o711)
    if what == "rounds":
        said: Any = rounds(directory, int(arguments[0]), int(arguments[1]))
    else:
        database = Database(directory / "truth", KEYS, create=True)
        database.path.chmod(0o666)
        if what == "crowd":
            said = crowd(directory, database, float(arguments[0]))
        else:
            chance = random.Random(1)  # noqa: S311 - it is to be repeated
            said = answer(*forked(lambda: suffer(directory / "place", database, what, chance)))
    print(json.dumps(said))  # noqa: T201 - the answer to whoever started it


if __name__ == "__main__":
    main()

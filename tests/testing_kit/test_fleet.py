"""Several real processes: what one changes the others see, and one that dies takes nothing with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import process_exists, wait_until

from novacron_cache import CacheModel, DeclarationError, cached, default_cache
from novacron_cache.testing import Fleet, isolated


class Row(CacheModel, key="row:<n>", ttl="10m", tags=["row:<n>"]):
    n: int
    text: str


@cached(Row, key="row:<n>", ignore=["path"])
def row(n: int, path: str) -> Row:
    return Row(n=n, text=Path(path).read_text(encoding="utf-8"))


def read(n: int, path: str) -> tuple[str, int]:
    """Return what is served, and how often this process has loaded it."""
    return row(n, path).text, row.stats().loads


def text(n: int, path: str) -> str:
    return row(n, path).text


def write(n: int, path: str, text: str) -> bool:
    Path(path).write_text(text, encoding="utf-8")
    return default_cache().invalidate_tags(f"row:{n}").done


async def awaited(value: int) -> int:
    return value + 1


def complain(words: str) -> None:
    raise KeyError(words)


def unsendable() -> object:
    return lambda: None


class Errand:
    def bound(self) -> None: ...

    @staticmethod
    def run(value: int) -> int:
        return value * 2


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    settings: dict[str, Any] = {"namespace": "fleet", "disk": {"path": tmp_path / "cache"}}
    with isolated(real_time=True, **settings) as here:
        fleet = Fleet(here, settings)
        yield fleet
        fleet.close()


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "source.txt"
    path.write_text("first", encoding="utf-8")
    return str(path)


def test_what_one_process_loads_another_finds_and_what_it_changes_the_other_forgets(fleet: Fleet, source: str) -> None:
    peer = fleet.start()
    assert peer.pid != os.getpid()
    assert read(1, source) == ("first", 1)
    assert peer.call(read, 1, source) == ("first", 0)
    assert peer.call(write, 1, source, "second") is True
    assert fleet.assert_agreement(text, 1, source) == "second"
    write(1, source, "third")
    assert fleet.assert_agreement(text, 1, source) == "third"


def test_three_processes_agree(fleet: Fleet, source: str) -> None:
    first, second = fleet.start(), fleet.start()
    assert first.pid != second.pid
    assert fleet.assert_agreement(text, 1, source) == "first"
    second.call(write, 1, source, "second")
    assert fleet.assert_agreement(text, path=source, n=1) == "second"


def test_processes_that_never_agree_are_told_with_their_answers(fleet: Fleet) -> None:
    peer = fleet.start()
    with pytest.raises(AssertionError, match=rf"after 50ms the processes still differ .*: \[{os.getpid()}, {peer.pid}"):
        fleet.assert_agreement(os.getpid, within="50ms")


def test_functions_of_all_kinds_are_called_by_name(fleet: Fleet) -> None:
    peer = fleet.start()
    assert peer.call(awaited, 1) == 2
    assert peer.call(Errand.run, value=4) == 8
    assert peer.call(os.getpid) == peer.pid


def test_what_a_function_raises_there_is_raised_here_with_its_traceback(fleet: Fleet) -> None:
    peer = fleet.start()
    with pytest.raises(KeyError, match="no such words") as caught:
        peer.call(complain, "no such words")
    (note,) = caught.value.__notes__
    assert f"in process {peer.pid}" in note
    assert "in complain" in note
    with pytest.raises(RuntimeError, match="cannot be sent to another process"):
        peer.call(unsendable)
    assert peer.call(awaited, 1) == 2


def test_a_function_without_a_name_of_its_own_is_refused_here(fleet: Fleet) -> None:
    peer = fleet.start()

    def inner() -> None: ...

    for function in (lambda: None, inner, Errand().bound):
        with pytest.raises(DeclarationError, match="cannot find"):
            peer.call(function)


def test_one_that_is_killed_is_said_to_have_ended_and_the_others_go_on(fleet: Fleet, source: str) -> None:
    doomed, other = fleet.start(), fleet.start()
    assert fleet.assert_agreement(text, 1, source) == "first"
    doomed.kill()
    assert not process_exists(doomed.pid)
    with pytest.raises((AssertionError, BrokenPipeError)):
        doomed.call(os.getpid)
    fleet.peers.remove(doomed)
    other.call(write, 1, source, "second")
    assert fleet.assert_agreement(text, 1, source) == "second"


def test_one_that_is_stopped_catches_up_when_it_goes_on(fleet: Fleet, source: str) -> None:
    peer = fleet.start()
    assert fleet.assert_agreement(text, 1, source) == "first"
    peer.pause()
    write(1, source, "second")
    peer.resume()
    assert fleet.assert_agreement(text, 1, source) == "second"


def test_all_of_them_end_with_the_fleet(fleet: Fleet) -> None:
    peers = [fleet.start(), fleet.start()]
    peers[0].pause()
    fleet.close()
    wait_until(lambda: not any(process_exists(peer.pid) for peer in peers))


def test_without_anything_to_share_there_is_no_fleet() -> None:
    with isolated() as here, pytest.raises(DeclarationError, match="share nothing but a server or a disk"):
        Fleet(here, {})


def test_one_that_cannot_start_says_so(fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match="ended while starting: code 1"):
        Fleet(fleet.here, {"namspace": "x"}).start()
    assert "namspace" in capfd.readouterr().err

"""The mistakes of the first hour say what to do; `docs/errors.md` shows them, and this is about when they are told."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from novacron_cache import MISSING, Cache, CacheModel, TemplateError, cached, cached_many, invalidates


class Owner(CacheModel, key="owner:<name>", ttl="30s"):
    name: str
    rack: str = "r1"


def test_braces_in_a_template_are_told_from_a_placeholder_that_is_missing() -> None:
    with pytest.raises(TemplateError, match=r"`{name}` is text, not the parameter `name` of .*; write `<name>`, with"):
        cached(Owner, key="owner:{name}")(lambda name: Owner(name=name))
    with pytest.raises(TemplateError, match=r"add `<name>` or ignore=\['name'\]"):
        cached(Owner, key="owner:{other}")(lambda name: Owner(name=name))


@pytest.mark.parametrize(
    "declare",
    [
        lambda: cached(Owner, key="owner:<name>", tags=["owner:{name}"])(lambda name: Owner(name=name)),
        lambda: cached(Owner, key="owner:<name>", tags=["rack:{rack}"])(lambda name: Owner(name=name)),
        lambda: cached_many(Owner, key="owner:<name>", each="names", tags=["owner:{name}"])(lambda names: {}),
        lambda: invalidates(tags=["owner:{name}"])(lambda name: None),
        lambda: invalidates(keys=["owner:{name.first}"])(lambda name: None),
        lambda: invalidates(patterns=["owner:{name}:*"])(lambda name: None),
        lambda: type(CacheModel)("M", (Owner,), {}, tags=["rack:{rack}"]),
        lambda: type(CacheModel)("M", (Owner,), {}, key="owner:{name}"),
    ],
)
def test_braces_around_what_could_be_filled_in_are_refused_everywhere(declare: Any) -> None:
    with pytest.raises(TemplateError, match=r"`{\w+(\.\w+)?}` is text, not the .*; write `<\w+(\.\w+)?>`, with these"):
        declare()


def test_braces_around_anything_else_are_text() -> None:
    with Cache() as cache:

        @cached(int, key="{slot}:<name>", tags=["{}", "{a b}", "{<name>}", "{1}"], cache=cache)
        def get(name: str) -> int:
            return 1

        get("x")
        assert get.key("x") == "{slot}:x"
        assert cache.invalidate_tags("{x}").done
        assert get.peek("x") is MISSING


def test_a_tag_that_nothing_is_near_is_told_all_there_is() -> None:
    with pytest.raises(TemplateError, match=r"have `zzz`; they have `name`, `rack`$"):
        cached(Owner, key="owner:<name>", tags=["x:<zzz>"])(lambda name: Owner(name=name))


class TestHoldingUpALoop:
    @staticmethod
    def load(name: str, seconds: float, *, on_loop: bool) -> None:
        def function(item: str) -> int:
            time.sleep(seconds)
            return 1

        function.__qualname__ = name
        with Cache() as cache:
            slow = cached(int, key="slow:<item>", name=name, cache=cache)(function)

            async def call() -> None:
                for item in "ab":
                    slow(item)

            if on_loop:
                asyncio.run(call())
            else:
                slow("a")

    def test_it_is_warned_of_once_with_what_to_do(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, "novacron_cache")
        self.load("holds_a_loop_up", 0.12, on_loop=True)
        (record,) = (record for record in caplog.records if "holds_a_loop_up" in record.getMessage())
        assert "declare it with `async def`, or call it through `asyncio.to_thread`" in record.getMessage()

    @pytest.mark.parametrize(("seconds", "on_loop"), [(0.0, True), (0.12, False)], ids=["quick", "no loop"])
    def test_nothing_is_said_otherwise(self, caplog: pytest.LogCaptureFixture, seconds: float, on_loop: bool) -> None:
        caplog.set_level(logging.WARNING, "novacron_cache")
        self.load(f"holds_nobody_up_{on_loop}", seconds, on_loop=on_loop)
        assert "holds_nobody_up" not in caplog.text


class TestChangingAModel:
    def test_it_is_refused_with_a_note_that_says_what_to_do(self) -> None:
        owner = Owner(name="a")
        with pytest.raises(ValidationError, match="Instance is frozen") as caught:
            owner.rack = "r2"  # type: ignore[misc]  # that is the mistake
        report = "".join(traceback.format_exception(caught.value))
        assert "`model_copy(update={'rack': ...})`, and store that with `Owner.entries.set(...)`" in report
        assert owner.rack == "r1"

    def test_a_copy_can_be_made_and_stored(self) -> None:
        copy = Owner(name="a").model_copy(update={"rack": "r2"})
        assert copy == Owner(name="a", rack="r2")


@pytest.mark.parametrize("names", [["a"], ("a",), {"a"}])
def test_names_in_a_container_are_told_how_to_be_passed(names: object) -> None:
    with Cache() as cache, pytest.raises(TypeError, match=r"pass them one by one, or as \*names"):
        cache.invalidate_tags(names)  # type: ignore[arg-type]  # that is the mistake


class TestAServerThatIsNotThere:
    """What a program that has not set up logging shows of it, in a process of its own."""

    PROGRAM = """
import sys
from novacron_cache import Cache, cached

cache = Cache.connect(sys.argv[1], namespace="shop")

@cached(int, key="price:<item>", ttl="1m", cache=cache)
def price(item: str) -> int:
    return 100

print(price("bread"))
cache.close()
"""

    def run(self, url: str, before: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", before + self.PROGRAM, url], capture_output=True, text=True, check=True, timeout=60
        )

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("redis://127.0.0.1:1/0", "Connection refused"),
            ("redis://me:hunter2@host.invalid/0", "host.invalid:6379"),
            ("unix:///nowhere.sock", "No such file or directory"),
        ],
        ids=["no server", "wrong host", "wrong path"],
    )
    def test_is_told_of_once_with_what_to_do_and_calls_go_on(self, url: str, why: str) -> None:
        done = self.run(url)
        assert done.stdout == "100\n"
        (line,) = done.stderr.splitlines()
        assert line.startswith("the redis tier does not answer and is left alone for a while: redis at ")
        assert why in line
        assert line.endswith("calls go on without it, and `novacron-cache doctor` says what is wrong")
        assert "hunter2" not in line

    def test_is_told_of_in_the_log_that_the_program_has_set_up(self) -> None:
        setup = "import logging; logging.basicConfig(format='%(levelname)s %(name)s %(message)s')"
        (line,) = self.run("redis://127.0.0.1:1/0", setup).stderr.splitlines()
        assert line.startswith("WARNING novacron_cache the redis tier does not answer")

    def test_a_program_that_wants_silence_says_so(self) -> None:
        silence = "import logging; logging.getLogger('novacron_cache').addHandler(logging.NullHandler())"
        assert self.run("redis://127.0.0.1:1/0", silence).stderr == ""

    def test_what_it_names_says_what_is_wrong(self) -> None:
        program = str(Path(sys.executable).with_name("novacron-cache"))
        command = [program, "doctor", "--url", "redis://127.0.0.1:1/0", "--namespace", "shop"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert "127.0.0.1:1" in done.stdout
        assert "does not answer" not in done.stderr  # a command says it in its own words

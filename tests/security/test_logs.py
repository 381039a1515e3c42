"""Logs, figures and terminals: one line for one event whatever is in it, and no key, value or secret of anybody's."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.operated import NAMESPACE, App, imported_from
from click.testing import CliRunner
from security.witness import Server
from servers import ServerProcess

from novacron_cache import Cache, cached
from novacron_cache.cli import main
from novacron_cache.keys import percent_escape, printable
from novacron_cache.observe import configure_logging, log_events
from novacron_cache.observe.logs import Redactor

ROOT = logging.getLogger("novacron_cache")
FORGED = "mallory\n2026-01-01 00:00:00 CRITICAL novacron_cache: forged\r\x1b[2J\u2028\u202e"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    handlers, level = list(ROOT.handlers), ROOT.level
    ROOT.handlers.clear()
    yield
    ROOT.handlers[:] = handlers
    ROOT.setLevel(level)


def logged(*, show_keys: bool, as_json: bool) -> list[str]:
    """Return the lines of a log in which users' text is wherever it can be."""
    stream = io.StringIO()
    configure_logging("debug", stream=stream, as_json=as_json)
    with Cache() as cache:
        log_events(cache, show_keys=show_keys)

        def fails() -> None:
            raise LookupError(FORGED)

        cache.get_or_load(FORGED, lambda: 1, tags=[FORGED])
        cache.get_or_load(f"{FORGED}:profile", lambda: 1)
        cache.invalidate(FORGED)
        cache.invalidate_tags(FORGED)
        cache.invalidate_pattern("<user>:*", user=FORGED)
        with pytest.raises(LookupError):
            cache.get_or_load("k", fails)
    return stream.getvalue().split("\n")[:-1]


@pytest.mark.parametrize("show_keys", [False, True])
def test_users_text_begins_no_line_of_its_own(show_keys: bool) -> None:
    lines = logged(show_keys=show_keys, as_json=False)
    assert lines
    assert [line for line in lines if "novacron_cache.events: " not in line or not line.isprintable()] == []
    assert any("CRITICAL novacron_cache: forged" in line for line in lines) == show_keys


def test_each_line_of_json_is_one_record() -> None:
    lines = logged(show_keys=True, as_json=True)
    assert all(json.loads(line)["logger"] == "novacron_cache.events" for line in lines)


@pytest.mark.parametrize("as_json", [False, True])
def test_no_key_tag_pattern_or_text_of_an_error_is_logged(as_json: bool) -> None:
    text = "\n".join(logged(show_keys=False, as_json=as_json))
    assert "mallory" not in text
    assert "forged" not in text


def test_a_traceback_has_no_line_that_looks_like_a_record() -> None:
    stream = io.StringIO()
    configure_logging("debug", stream=stream)
    with Cache() as cache:

        def listener(_: Any) -> None:
            raise ValueError(FORGED)

        cache.on("miss", listener)
        cache.get_or_load("k", lambda: 1)
    first, *rest = stream.getvalue().splitlines()
    assert "a listener for 'miss' failed" in first
    assert rest
    assert [line for line in rest if not line.startswith("  ")] == []


def test_a_key_keeps_its_first_segment_only_where_a_template_spells_it_out() -> None:
    cached(int, key="ledger:<user>")(lambda user: 1)
    cached(int, key="<user>:profile")(lambda user: 1)
    redactor = Redactor()
    assert redactor.shown("ledger:mallory").startswith("ledger:~")
    assert redactor.shown("mallory@example.com:profile").startswith("~")
    assert redactor.shown("mallory").startswith("~")


def test_figures_and_health_hold_neither_keys_nor_values() -> None:
    with Cache() as cache:
        cache.get_or_load("account:mallory-the-key", lambda: "the-value", tags=["mallory-the-tag"])
        cache.get_or_load("account:mallory-the-key", lambda: "the-value")
        cache.invalidate("account:mallory-the-key")
        shown = [cache.export_prometheus(), cache.metrics_json(), json.dumps(cache.health().as_dict()), repr(cache)]
        shown += [repr(cache.stats())]
    assert [text for text in shown if "mallory" in text or "the-value" in text] == []


@pytest.mark.parametrize("text", ["a\nb", "\r", "\x1b[31m", "\0", "\x7f", "\x9b", "\u2028", "\u202e", "\ud800"])
def test_what_cannot_be_printed_is_escaped(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text) != text
    assert printable("Ω 你好 🙂 \\n") == "Ω 你好 🙂 \\n"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that modules are imported from."""
    with imported_from(tmp_path, monkeypatch):
        yield tmp_path


def assert_plain(output: str, command: list[str]) -> None:
    """Assert that nothing of the hostile text is a control character, or has begun a line of its own."""
    assert [char for char in output if not char.isprintable() and char != "\n"] == [], command
    assert "end" not in output.splitlines(), command


@pytest.mark.servers
def test_a_terminal_is_told_nothing_by_keys_tags_or_names(valkey_server: ServerProcess, modules: Path) -> None:
    hostile = "k:\x1b]0;owned\x07\n\x1b[2Jend"
    app = App(valkey_server.url, modules)
    value = {"a": "\x9b31m \u202e \x7f é \U0001f642", "b": hostile}
    with app.open() as cache:
        cache.set(hostile, 1, tags=[f"tag-{hostile}"])
        cache.set("value", value)
    shown = app.run("get", "value", *app.where).stdout
    assert json.loads(shown) == value
    assert_plain(shown, ["get"])
    assert "é \U0001f642" in shown
    store = Server(valkey_server)
    name = percent_escape("mo\x1b[31mdel")
    store.client.set(f"nc:{NAMESPACE}:v:{name}:~k{percent_escape(hostile)}", b"planted")
    store.close()
    for command in (
        ["scan", "*"],
        ["explain", hostile],
        ["invalidate", "--pattern", "*", "--dry-run"],
        ["stats", "--no-processes"],
    ):
        result = app.run(*command, *app.where)
        assert result.exit_code in (0, 1), result.output
        assert_plain(result.output, command)


HOSTILE = """
from novacron_cache import Cache, cached
from novacron_cache.cli import main

cache = Cache.connect({url!r}, namespace="hostile")

@cached(str, key="failing:<name>", name="failing", cache=cache)
def failing(name: str) -> str:
    raise RuntimeError("no " + name)

@cached(int, key="stale:<name>", name="stale", cache=cache)
def stale(name: str) -> int:
    return COUNT

COUNT = {count}

def calls():
    return [{text!r}]
"""


@pytest.mark.servers
def test_nor_by_what_is_warmed_or_audited(valkey_server: ServerProcess, modules: Path) -> None:
    hostile = "\x1b]0;owned\x07\n\x1b[2Jend"
    for number in range(3):
        text = HOSTILE.format(url=valkey_server.url, count=number, text=hostile)
        (modules / f"hostile_{number}.py").write_text(text)
    for command, says in (
        (["warm", "hostile_0:failing", "--args-from", "hostile_0:calls"], "0 loaded"),
        (["warm", "hostile_1:stale", "--args-from", "hostile_1:calls"], "1 loaded"),
        (["audit", "hostile_2", "--sample", "1", "--seconds", "1", "--show-keys"], "1 stale"),
    ):
        result = CliRunner().invoke(main, command)
        assert says in result.stdout, result.output
        assert_plain(result.output, command)

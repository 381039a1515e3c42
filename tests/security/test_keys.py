"""Text that users choose becomes part of keys, tags and patterns, and never anything else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from security.witness import Directory, Server, Store, opened
from servers import ServerProcess

from novacron_cache import Cache, CachedValueError, TemplateError, cached
from novacron_cache.keys import MAX_STORED_LENGTH
from novacron_cache.markers import MAX_NAMED

HOSTILE = [
    "a\r\nDEL nc:shop:n\r\n",
    "$5\r\nhello\r\n*1\r\n",
    "nul\0byte",
    "*",
    "?[a-z]\\",
    "{slot}",
    "}{",
    "nc:other:v:k",
    "k:n:g:t:",
    "a:b",
    "a%3Ab",
    "<vm_id>",
    "~i1",
    "1",
    "../../etc/passwd",
    "'; DROP TABLE Cache; --",
    "%s%n%x",
    "\x1b]0;title\x07",
    "\u202etxt.exe",
    "\ud800",
    "Ω≈ç√ 你好 🙂",
    " ",
    "",
    "x" * 50_000,
    "x" * 49_999 + "y",
]


@pytest.fixture(params=["memory", "disk", "redis"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cache]:
    if request.param == "memory":
        with Cache() as cache:
            yield cache
        return
    server = request.getfixturevalue("valkey_server") if request.param == "redis" else None
    store: Store = Directory(tmp_path / "cache") if server is None else Server(server)
    with opened(store, memory={"enabled": False}) as cache:
        yield cache
    store.close()


pytestmark = pytest.mark.servers


def encodable(texts: list[str]) -> list[str]:
    """Values are JSON, which has no lone surrogates; keys may have them."""
    return [text for text in texts if text.isascii() or "\ud800" not in text]


def test_no_two_hostile_texts_share_a_value(cache: Cache) -> None:
    load = cached(int, key="item:<text>", cache=cache, name="lengths")(lambda text: len(text))
    texts = encodable(HOSTILE)
    numbers = {text: number for number, text in enumerate(texts)}
    named = cached(int, key="text:<text>", cache=cache, name="numbers")(lambda text: numbers[text])
    for _ in range(2):
        assert [named(text) for text in texts] == list(range(len(texts)))
        assert [load(text) for text in ("a", "ab")] == [1, 2]
    assert named.stats().loads == len(texts)


def test_two_parameters_never_run_into_one_another(cache: Cache) -> None:
    parts = ["a", "a:b", "b", ":", "", "<", ">", "~,", "%3A", "\0"]
    pairs = list(product(parts, parts))
    number = {pair: position for position, pair in enumerate(pairs)}
    load = cached(int, key="pair:<one>:<two>", cache=cache, name="pairs")(lambda one, two: number[one, two])
    for _ in range(2):
        assert [load(one, two) for one, two in pairs] == list(range(len(pairs)))


def test_a_hostile_key_or_tag_invalidates_itself_and_nothing_else(cache: Cache) -> None:
    texts = encodable(HOSTILE)
    cache.set_many({f"k:{text}": position for position, text in enumerate(texts)}, tags=["all"])
    for position, text in enumerate(texts):
        cache.set(f"t:{position}", position, tags=[f"owner:{text}"])
    for position, text in enumerate(texts):
        assert cache.invalidate(f"k:{text}").done
        assert cache.invalidate_tags(f"owner:{text}").done
        assert cache.get(f"k:{text}") is None
        assert cache.get(f"t:{position}") is None
        later = range(position + 1, len(texts))
        assert all(cache.get(f"k:{texts[one]}") == one for one in later[:3])
        assert all(cache.get(f"t:{one}") == one for one in later[:3])


def test_users_text_in_a_pattern_is_text(cache: Cache) -> None:
    names = ["alice", "*", "a*", "[a-z]*", "?????", "\\", "a:*"]
    for name in names:
        cache.set(f"home:{name}:mail", name)
    for position, name in enumerate(names):
        assert cache.invalidate_pattern("home:<name>:*", name=name).done
        assert cache.get(f"home:{name}:mail") is None
        assert all(cache.get(f"home:{later}:mail") == later for later in names[position + 1 :])


@pytest.mark.parametrize(
    "pattern", ["*" * 100, "a" * 600, "*a*a*a*a*a*a*a*a*a*a*a", "[", "[]", "a\\"], ids=lambda text: text[:12]
)
def test_a_pattern_that_costs_too_much_is_refused(cache: Cache, pattern: str) -> None:
    if set(pattern) == {"*"}:  # a run of stars is one
        assert cache.invalidate_pattern(pattern).done
        return
    with pytest.raises(TemplateError):
        cache.invalidate_pattern(pattern)


def test_the_server_gets_no_command_and_no_key_outside_the_fence(valkey_server: ServerProcess) -> None:
    store = Server(valkey_server)
    store.client.set("nc:other:v:k", "another's")
    with opened(store) as cache:
        for text in encodable(HOSTILE):
            cache.set(f"k:{text}", 1, tags=[f"owner:{text}"])
            cache.invalidate(f"k:{text}")
            cache.invalidate_tags(f"owner:{text}")
        cache.invalidate_pattern("k:<text>:*?", text="*")
    keys = [key for key in store.client.scan_iter(count=1000) if key != b"nc:other:v:k"]
    assert keys
    assert [key for key in keys if not key.startswith(b"nc:shop:")] == []
    # Nothing that ends a line or is a glob, and braces in one place alone, where they choose the slot.
    assert [key for key in keys if any(byte in key for byte in b"\r\n\0 *?[]\\")] == []
    assert [key for key in keys if key.count(b"{") > 1 or key.count(b"}") > 1] == []
    assert store.client.get("nc:other:v:k") == b"another's"
    store.close()


def test_every_key_of_the_server_is_short_however_long_the_argument_is(valkey_server: ServerProcess) -> None:
    store = Server(valkey_server)
    with opened(store) as cache:
        load = cached(int, key="<text>:item", cache=cache, name="lengths", tags=["size:<text>"])(lambda text: len(text))
        assert load("x" * 60_000) == load("x" * 60_000) == 60_000
        load.invalidate("x" * 60_000)
        load("x" * 60_000)
        assert load.stats().loads == 2
    keys = list(store.client.scan_iter(count=1000))
    values = [key for key in keys if key.startswith(b"nc:shop:v:")]
    assert [len(key) - len(b"nc:shop:v:") for key in values] == [MAX_STORED_LENGTH]
    assert max(map(len, keys)) < MAX_NAMED + 64
    store.close()


@pytest.mark.parametrize("tag", ["x" * 70_000, "\ud800"], ids=["too long", "no text"])
def test_a_tag_that_cannot_be_written_is_refused_with_the_fix(valkey_server: ServerProcess, tag: str) -> None:
    store = Server(valkey_server)
    with opened(store) as cache, pytest.raises(CachedValueError, match="of 65,535 bytes at most"):
        cache.set("k", 1, tags=[tag])
    store.close()

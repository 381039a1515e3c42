"""What is declared wrongly is refused at declaration, and the message says the fix."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from novacron_cache import (
    Cache,
    CacheModel,
    DeclarationError,
    SchemaError,
    TemplateError,
    cached,
    cached_many,
    invalidates,
)
from novacron_cache.callables import module_of


def get(vm_id: str, zone: str = "eu") -> str:
    return vm_id


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "vm:<vmid>:<zone>"}, r"key='vm:<vmid>:<zone>': `get` has no parameter `vmid`; did you mean `vm_id`"),
        ({"key": "vm:<vm_id>"}, r"parameter `zone` of `get` is not in it; add `<zone>` or ignore=\['zone'\]"),
        ({"key": "vm:<vm_id", "ignore": ["zone"]}, "not closed"),
        ({"key": "vm:vm_id>", "ignore": ["zone"]}, "stray `>`"),
        ({"key": "vm:<>", "ignore": ["zone"]}, "names nothing"),
        ({"key": "", "ignore": ["zone"]}, "empty"),
        ({"key": 3}, "a template is text"),
        ({"key": "<itn:vm_id>:<zone>"}, "unknown converter `itn` .*did you mean 'int'"),
        ({"key": "<vm_id._secret>:<zone>"}, "private"),
        ({"key": "<vm_id>:<zone>", "ignore": ["zon"]}, "no parameter 'zon'; did you mean 'zone'"),
        ({"key": "<vm_id>", "ignore": "zone"}, r"expected a list of parameters, such as ignore=\['zone'\]"),
        ({"key": "<vm_id>:<zone>", "tags": ["node:<node_id>"]}, "neither the arguments nor the result of `get` have"),
        ({"key": "<vm_id>:<zone>", "tags": ["zone:<zoen>"]}, "`zoen`; did you mean `zone`"),
        ({"tags": "zone:<zone>"}, "expected a list of templates"),
        ({"tags": [3]}, "3 is not a tag template"),
        ({"tags": [""]}, "is not a tag template"),
        ({"tll": 3}, "@cached: unknown option 'tll'; did you mean 'ttl'"),
        ({"tag": ["x"]}, "unknown option 'tag'; did you mean 'tags'"),
        ({"kee": "x"}, "unknown option 'kee'; did you mean 'key'"),
        ({"nonsense": 1}, "unknown option 'nonsense'$"),
        ({"ttl": 0}, "longer than zero"),
        ({"ttl": -1}, "not negative"),
        ({"ttl": float("inf")}, "finite"),
        ({"ttl": "soon"}, "malformed duration"),
        ({"ttl": True}, "expected seconds"),
        ({"ttl": timedelta(seconds=-1)}, "not negative"),
        ({"grace": "x"}, "grace='x'"),
        ({"negative_ttl": [1]}, "negative_ttl"),
        ({"jitter": 1}, "share from 0 to less than 1"),
        ({"jitter": True}, "share from 0"),
        ({"refresh_ahead": "0.8"}, "share from 0"),
        ({"tiers": ["memroy"]}, "no tier is called 'memroy'; did you mean 'memory'"),
        ({"tiers": []}, "name at least one"),
        ({"tiers": 3}, "expected a list of tiers"),
    ],
)  # fmt: skip
def test_a_wrong_option_of_cached_says_the_fix(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        cached(**options)(get)


def test_a_template_error_has_the_template() -> None:
    with pytest.raises(TemplateError) as raised:
        cached(key="vm:<vmid>:<zone>")(get)
    assert raised.value.template == "vm:<vmid>:<zone>"


def generate() -> Iterator[int]:
    yield 1


async def agenerate() -> AsyncIterator[int]:
    yield 1


class Class:
    pass


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (generate, "`generate` is a generator.* return a list"),
        (agenerate, "`agenerate` is a generator.* return a list"),
        (classmethod(generate), "generator"),
        (staticmethod(agenerate), "generator"),
        (Class, "functions and methods, not Class"),
        (property(lambda self: 1), "below @property"),
        (3, "functions and methods, not 3"),
        ("text", "functions and methods"),
        (None, "functions and methods"),
    ],
)
def test_what_is_no_function_is_refused(what: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        cached(key="x")(what)
    with pytest.raises(DeclarationError, match=message):
        cached_many(int, key="x:<x>", each="xs")(what)


def test_a_forgotten_pair_of_parentheses_is_noticed() -> None:
    for function in (get, classmethod(get), staticmethod(get), len):
        with pytest.raises(DeclarationError, match="takes parentheses"):
            cached(function)  # type: ignore[call-overload]  # the point of the test


@pytest.mark.parametrize(
    ("misplaced", "option"),
    [
        ("30s", "ttl"), ("1h30m", "ttl"), ("60", "ttl"), (30, "ttl"), (0.5, "ttl"), (timedelta(minutes=1), "ttl"),
        ("vm:<vm_id>", "key"), ("vm:{vm_id}", "key"), ("all vms", "key"),
    ],
)  # fmt: skip
def test_an_option_in_place_of_the_type_is_named(misplaced: Any, option: str) -> None:
    for decorator in (cached, Cache().cached):
        with pytest.raises(DeclarationError) as refused:
            decorator(misplaced)
        assert str(refused.value).startswith(f"@cached({misplaced!r}): the first argument is the type of the values")
        assert str(refused.value).endswith(f"; write {option}={misplaced!r}")
    with pytest.raises(DeclarationError, match=r"@cached_many\(.*; write " + option):
        cached_many(misplaced, key="x:<x>", each="xs")


def test_the_name_of_a_type_may_stand_for_it() -> None:
    named = cached("int", key="one:<vm_id>")(lambda vm_id: 1)
    assert named("a") == 1


def test_a_type_that_cannot_be_cached_is_refused() -> None:
    with pytest.raises(SchemaError, match="Class cannot be cached"):
        cached(Class, key="<vm_id>:<zone>")(get)

    def annotated(vm_id: str) -> Class:
        return Class()

    with pytest.raises(SchemaError, match="Class cannot be cached"):
        cached()(annotated)


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "vm:<vmid>"}, r"key='vm:<vmid>': `VMState` has no field `vmid`; did you mean `vm_id`"),
        ({"tags": ["node:<nod>"]}, "tag='node:<nod>': `VMState` has no field `nod`; did you mean `node`"),
        ({"tll": "3s"}, "VMState: unknown option 'tll'; did you mean 'ttl'"),
        ({"nam": "x"}, "did you mean 'name'"),
        ({"ttl": "x"}, "VMState: ttl='x': malformed"),
        ({"name": ""}, "name='' is not a name"),
        ({"name": 3}, "name=3 is not a name"),
        ({"tiers": ["l1"]}, "no tier is called 'l1'"),
        ({"frozen": False}, "a cache model is frozen"),
    ],
)
def test_a_wrong_option_of_a_model_says_the_fix(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):

        class VMState(CacheModel, **options):
            vm_id: str
            node: str


def test_entries_is_the_one_reserved_name() -> None:
    with pytest.raises(DeclarationError, match="`entries` is the manager"):

        class Wrong(CacheModel, key="x:<x>"):
            x: str
            entries: list[str]


def test_a_model_stays_frozen() -> None:
    with pytest.raises(DeclarationError, match="frozen"):

        class Thawed(CacheModel, key="x:<x>"):
            model_config = {"frozen": False}  # noqa: RUF012 - pydantic's own way
            x: str


def test_entries_stays_reserved_where_another_class_brings_the_field() -> None:
    class Listed(BaseModel):
        model_config = {"frozen": True}
        entries: list[str]

    with pytest.raises(DeclarationError, match="`entries` is the manager"):

        class Wrong(Listed, CacheModel, key="x"):  # type: ignore[misc]  # that is the mistake
            pass


def test_a_loader_needs_a_key_and_something_to_load_by() -> None:
    class Keyless(CacheModel):
        x: str

    class Single(CacheModel, key="settings"):
        x: str

    def load() -> Any:
        return None

    with pytest.raises(DeclarationError, match=r"Keyless has no key; declare it as `class Keyless\(CacheModel, key="):
        Keyless.entries.loader(load)
    with pytest.raises(DeclarationError, match="Single has a key without placeholders"):
        Single.entries.loader(load)


def test_a_condition_names_parameters_and_may_have_others_with_a_default() -> None:
    def known(vm_id: str, also: int = 3) -> bool:
        return vm_id != "unknown" and also == 3

    with Cache() as cache:
        calls: list[str] = []

        @cached(str, key="vm:<vm_id>", condition=known, cache=cache)
        def load(vm_id: str) -> str:
            calls.append(vm_id)
            return vm_id

        for _ in range(2):
            assert [load("a"), load("unknown")] == ["a", "unknown"]
        assert calls == ["a", "unknown", "unknown"]
    with pytest.raises(DeclarationError, match="does not say what it takes; wrap it in a lambda"):
        cached(str, key="vm:<vm_id>:<zone>", condition=max)(get)


def test_what_does_not_say_what_it_takes_may_still_be_asked_whether_to_skip() -> None:
    with Cache() as cache:
        calls: list[int] = []

        @cached(int, key="n:<n>", skip_if=bool, cache=cache)
        def load(n: int) -> int:
            calls.append(n)
            return n

        for _ in range(2):
            assert [load(0), load(1)] == [0, 1]
        assert calls == [0, 1, 1]


def test_an_option_that_is_none_is_as_if_it_were_not_there() -> None:
    with Cache() as cache:
        double = cached(int, key="n:<n>", ttl=None, tags=None, cache=cache)(lambda n: 2 * n)
        assert double(4) == 8
        assert double.tags(4) == ()


def test_what_is_invalidated_after_a_call_is_named_by_keywords() -> None:
    with pytest.raises(DeclarationError, match=r"@invalidates takes keywords: @invalidates\(tags="):
        invalidates("vm:<vm_id>")  # type: ignore[call-overload, call-arg, arg-type, unused-ignore]  # that is the mistake


class Row(TypedDict):
    row_id: str
    node: str


@dataclass(frozen=True)
class Record:
    record_id: str
    node: str


@pytest.mark.parametrize("result", [Row, Record, Row | None, Record | None])
def test_a_tag_may_name_a_field_of_any_kind_of_record_and_none_that_it_does_not_have(result: Any) -> None:
    def load(n: str) -> Any:
        return None

    cached(result, key="row:<n>", tags=["node:<node>"])(load)
    with pytest.raises(DeclarationError, match="`nodes`; did you mean `node`"):
        cached(result, key="row:<n>", tags=["node:<nodes>"])(load)


def test_a_tag_of_a_union_is_known_when_the_result_is() -> None:
    with Cache() as cache:

        @cached(Row | Record, key="row:<n>", tags=["node:<node>"], cache=cache)
        def load(n: str) -> Row | Record:
            return Row(row_id=n, node="1") if n == "a" else Record(record_id=n, node="2")

        load("a"), load("b")
        assert cache.invalidate_tags("node:2").local == 1


def test_the_name_of_a_function_of_the_script_that_runs_is_the_script_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> int:
        return 1

    load.__module__ = "__main__"
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert module_of(load) == "__main__"  # typed at a prompt
    main.__file__ = "/srv/jobs/nightly.py"
    assert module_of(load) == "nightly"
    main.__spec__ = ModuleSpec("jobs.nightly", None)
    assert module_of(load) == "jobs.nightly"

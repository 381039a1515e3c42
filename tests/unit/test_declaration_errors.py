"""What is declared wrongly is refused at declaration, and the message says the fix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest

from novacron_cache import CacheModel, DeclarationError, SchemaError, TemplateError, cached, cached_many


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

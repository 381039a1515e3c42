"""`@cached` and arguments: different calls never share an entry, and templates say what tells them apart."""

from __future__ import annotations

import inspect
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.vms import VMState

from novacron_cache import MISSING, Cache, CachedValueError, CacheModel, KeyValueError, cached

# -- different calls ---------------------------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Name(str):
    __slots__ = ()


DISTINCT: list[Any] = [
    None, "", "None", 0, 1, True, False, 1.0, 0.0, -0.0, "1", "True", "a:b", b"1", b"", Colour.RED, Colour.BLUE, "red",
    Level.LOW, Name("1"), Decimal(1), Decimal("1.0"), UUID(int=1), str(UUID(int=1)), date(2024, 1, 1),
    datetime(2024, 1, 1, tzinfo=UTC), (1,), (True,), (1, 2), [1], [1, 2], (), [], frozenset({1}), frozenset(),
    timedelta(1),
]  # fmt: skip


def test_values_of_different_types_never_share_an_entry(cache: Cache) -> None:
    @cached(key="any:<x>", cache=cache)
    def f(x):  # type: ignore[no-untyped-def]  # an unannotated parameter is what is tested
        return repr(x)

    for _ in range(3):
        for value in DISTINCT:
            assert f(value) == repr(value)
    assert f.stats().loads == len(DISTINCT)


@pytest.mark.parametrize("annotation", [str, int, bool, bytes, float, str | None, object, UUID])
def test_an_annotation_that_does_not_hold_never_mixes_values_up(cache: Cache, annotation: Any) -> None:
    def f(x: Any, y: Any) -> str:
        return f"{x!r} {y!r}"

    f.__annotations__ = {"x": annotation, "y": annotation, "return": str}
    g = cached(key="any:<x>:<y>", cache=cache)(f)
    for _ in range(2):
        for value in DISTINCT:
            assert g(value, 1) == f"{value!r} 1"
            assert g("1", value) == f"'1' {value!r}"


def test_neighbouring_arguments_do_not_run_together(cache: Cache) -> None:
    @cached(key="pair:<a>:<b>", cache=cache)
    def f(a: str, b: str) -> list[str]:
        return [a, b]

    assert f("x:y", "z") == ["x:y", "z"]
    assert f("x", "y:z") == ["x", "y:z"]
    assert f.key("x:y", "z") == f.key("x", "y:z")
    f.invalidate("x", "y:z")
    assert f.peek("x:y", "z") is MISSING  # the same logical key: an invalidation can only reach more


@pytest.mark.parametrize("value", [{}, {"a": 1}, object(), bytearray(b"x"), lambda: 0, [object()], ({},)])
def test_a_value_without_a_stable_text_is_refused_by_name(cache: Cache, value: Any) -> None:
    calls = []

    @cached(key="any:<x>", cache=cache)
    def f(x: Any) -> int:
        calls.append(x)
        return 1

    for _ in range(2):
        with pytest.raises(KeyValueError, match="`<x>`") as raised:
            f(value)
        assert raised.value.placeholder == "<x>"
        assert raised.value.value_type is type(value)
    assert calls == []


simple = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.floats(allow_nan=False), st.sampled_from(["", "1", "True", "a:b"]),
    st.text(max_size=3), st.binary(max_size=2), st.tuples(st.integers(0, 1)), st.lists(st.booleans(), max_size=2),
)  # fmt: skip


def typed(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return (type(value), tuple(typed(one) for one in value))
    return (type(value), repr(value))


@st.composite
def signatures(draw: st.DrawFn) -> tuple[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """A parameter list, and calls that fit it."""
    before, between, after = draw(st.integers(0, 2)), draw(st.integers(0, 2)), draw(st.integers(0, 2))
    rest, more = draw(st.booleans()), draw(st.booleans())
    notes = st.sampled_from(["", ": str", ": int", ": bool", ": bytes", ": object"])
    parts = [f"p{i}{draw(notes)}" for i in range(before)] + (["/"] if before else [])
    parts += [f"m{i}{draw(notes)}" for i in range(between)]
    parts += ["*rest"] if rest else ["*"] if after else []
    parts += [f"k{i}{draw(notes)} = 7" for i in range(after)]
    parts += ["**more"] if more else []
    calls = []
    for _ in range(draw(st.integers(1, 8))):
        args = tuple(draw(simple) for _ in range(before))
        kwargs = {f"k{i}": draw(simple) for i in range(after) if draw(st.booleans())}
        if draw(st.booleans()):
            args += tuple(draw(simple) for _ in range(between))
            args += tuple(draw(st.lists(simple, max_size=2))) if rest else ()
        else:
            kwargs |= {f"m{i}": draw(simple) for i in range(between)}
        kwargs |= draw(st.dictionaries(st.sampled_from(["x", "y"]), simple)) if more else {}
        calls.append((args, kwargs))
    return ", ".join(parts), calls


@settings(deadline=None)
@given(signatures())
def test_no_call_ever_gets_the_value_of_another(case: tuple[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]) -> None:
    parameters, calls = case
    loads: list[int] = []
    namespace: dict[str, Any] = {"loads": loads}
    exec(f"def f({parameters}):\n loads.append(1)\n return len(loads)", namespace)  # noqa: S102 - generated signatures
    signature = inspect.signature(namespace["f"])
    oracle: dict[Any, int] = {}
    with Cache() as cache:
        f = cached(name="generated", cache=cache)(namespace["f"])
        for args, kwargs in calls * 3:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            what = []
            for name, value in bound.arguments.items():
                value = sorted(value.items()) if name == "more" else value
                what.append((name, typed(value) if name != "more" else [(key, typed(one)) for key, one in value]))
            known = repr(what)
            result = f(*args, **kwargs)
            assert result == oracle.setdefault(known, result)
        assert len(set(oracle.values())) == len(oracle) == len(loads)


# -- templates ---------------------------------------------------------------------------------------------------------


class VM:
    def __init__(self, id: Any) -> None:  # noqa: A002
        self.id = id


def test_a_placeholder_reads_an_attribute(cache: Cache) -> None:
    calls = []

    @cached(key="vm:<vm.id>", cache=cache)
    def f(vm: VM) -> int:
        calls.append(vm)
        return len(calls)

    assert [f(VM("a")), f(VM("a")), f(VM("b")), f(VM(1)), f(VM("1")), f(VM(True)), f(VM(1))] == [1, 1, 2, 3, 4, 5, 3]
    assert f.key(VM("a")) == "vm:a"


def test_an_attribute_is_read_once_on_the_hit_path(cache: Cache) -> None:
    reads = []

    class Counting:
        @property
        def id(self) -> str:
            reads.append(1)
            return "a"

    @cached(key="vm:<vm.id>", cache=cache)
    def f(vm: Any) -> int:
        return 1

    f(Counting())
    reads.clear()
    f(Counting())
    assert reads == [1]


def test_a_missing_attribute_is_told_with_the_placeholder(cache: Cache) -> None:
    @cached(key="vm:<vm.id>", cache=cache)
    def f(vm: Any) -> int:
        return 1

    with pytest.raises(KeyValueError, match=r"`<vm.id>` .*NoneType object has no attribute `id`"):
        f(None)


def test_a_converter_checks_its_value(cache: Cache) -> None:
    @cached(key="job:<int:n>:<uuid:run>", cache=cache)
    def f(n: Any, run: Any) -> int:
        return 1

    assert f(1, UUID(int=3)) == 1
    assert f.key(1, str(UUID(int=3))) == f"job:1:{UUID(int=3)}"
    for n, run in (("1", UUID(int=3)), (True, UUID(int=3)), (1, "no uuid")):
        with pytest.raises(KeyValueError, match="takes"):
            f(n, run)


def test_ignored_parameters_are_no_part_of_the_key(cache: Cache) -> None:
    calls = []

    @cached(key="vm:<vm_id>", ignore=["session"], cache=cache)
    def f(session: Any, vm_id: str) -> int:
        calls.append(session)
        return len(calls)

    assert [f(object(), "a"), f({}, "a"), f(None, vm_id="a")] == [1, 1, 1]


def test_without_a_key_the_qualified_name_and_all_parameters_are_the_key(cache: Cache) -> None:
    @cached(cache=cache)
    def f(a: int, b: str = "x") -> str:
        return f"{a}{b}"

    assert f.key(1) == f"{__name__}.{f.__qualname__}:1:x"
    assert f.explain(1).name == f"{__name__}.{f.__qualname__}"
    assert (f(1), f(1, "y")) == ("1x", "1y")


def test_without_a_key_a_model_s_key_is_taken(cache: Cache) -> None:
    @cached(VMState, cache=cache)
    def f(vm_id: str) -> VMState:
        return VMState(vm_id=vm_id, node_id="n")

    assert f.key("a") == "vm:a"


def test_tags_come_from_arguments_and_from_the_result(cache: Cache) -> None:
    @cached(VMState, cache=cache)
    def f(vm_id: str) -> VMState:
        return VMState(vm_id=vm_id, node_id="node-9")

    f("a")
    assert f.tags("a") == ("vm:a",)
    assert f.explain("a").tags == ("vm:a", "node:node-9")
    assert cache.invalidate_tags("node:node-9").local == 1
    assert f.peek("a") is MISSING


def test_a_result_may_be_a_mapping_that_tags_read(cache: Cache) -> None:
    @cached(dict[str, str], key="d:<x>", tags=["zone:<zone>"], cache=cache)
    def f(x: str) -> dict[str, str]:
        return {"zone": x} if x != "none" else {}

    f("eu")
    assert cache.invalidate_tags("zone:eu").local == 1
    with pytest.raises(KeyValueError, match="has no `zone`"):
        f("none")


@pytest.mark.parametrize("annotation", ["Local", None])
def test_a_value_of_a_function_whose_type_is_not_known_is_refused_with_what_to_write(
    cache: Cache, annotation: str | None
) -> None:
    class Local(CacheModel, key="local:<x>"):
        x: int

    def load(x: int) -> Any:
        return Local(x=x)

    del load.__annotations__["return"]
    if annotation is not None:
        load.__annotations__["return"] = annotation  # as of a class that is imported for type checkers alone
    with pytest.raises(CachedValueError) as refused:
        cached(key="local:<x>", cache=cache)(load)(1)
    assert "Local, which would not come back as itself" in str(refused.value)
    assert "decorate with @cached(SomeType): the return annotation is missing, or cannot" in str(refused.value)

"""`@cached` on functions: what is called, what is shared, what is refused."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import linecache
import pickle
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from novacron_cache import (
    MISSING,
    Cache,
    CachedValueError,
    CacheModel,
    CacheSettings,
    DeclarationError,
    KeyValueError,
    cached,
    cached_many,
    configure,
    flows,
)
from novacron_cache.testing import ManualClock


class VMState(CacheModel, key="vm:<vm_id>", ttl="30s", tags=["vm:<vm_id>", "node:<node_id>"]):
    vm_id: str
    node_id: str
    status: str = "running"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[Cache]:
    with Cache(clock=clock) as made:
        yield made


class Loader:
    """Counts its calls; stands for a slow source."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def vm(self, vm_id: str) -> VMState:
        self.calls.append(vm_id)
        return VMState(vm_id=vm_id, node_id="node-1")


@pytest.fixture
def source() -> Loader:
    return Loader()


# -- the promise -------------------------------------------------------------------------------------------------------


def test_a_function_is_called_once_for_the_same_arguments(cache: Cache, source: Loader) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def get(vm_id: str) -> VMState:
        return source.vm(vm_id)

    assert [get("vm-1"), get("vm-1"), get(vm_id="vm-1")] == [VMState(vm_id="vm-1", node_id="node-1")] * 3
    assert source.calls == ["vm-1"]
    get("vm-2")
    assert source.calls == ["vm-1", "vm-2"]


async def test_a_coroutine_function_is_awaited_once_for_the_same_arguments(cache: Cache) -> None:
    calls = []

    @cached(list[VMState], key="node:<node_id>:vms", ttl="1m", tags=["node:<node_id>"], cache=cache)
    async def list_vms(node_id: str) -> list[VMState]:
        calls.append(node_id)
        return [VMState(vm_id="vm-1", node_id=node_id)]

    first, second = await asyncio.gather(list_vms("node-1"), list_vms("node-1"))
    assert first == second == await list_vms("node-1")
    assert calls == ["node-1"]
    cache.invalidate_tags("node:node-1")
    await list_vms("node-1")
    assert calls == ["node-1", "node-1"]


def test_values_end_with_their_ttl(cache: Cache, clock: ManualClock, source: Loader) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def get(vm_id: str) -> VMState:
        return source.vm(vm_id)

    get("vm-1")
    clock.advance(29.9)
    get("vm-1")
    assert len(source.calls) == 1
    clock.advance(0.1)
    get("vm-1")
    assert len(source.calls) == 2


@pytest.mark.parametrize("ttl", [90, 90.0, "90", "90s", "1m30s", "1.5m", timedelta(seconds=90)])
def test_a_ttl_has_many_forms(cache: Cache, ttl: Any) -> None:
    @cached(key="n:<n>", ttl=ttl, cache=cache)
    def f(n: int) -> int:
        return n

    f(1)
    assert f.explain(1).remaining == pytest.approx(90)


def test_an_option_of_cached_overrides_the_model_s(cache: Cache) -> None:
    @cached(VMState, key="vm:<vm_id>", ttl="5s", tags=["mine"], cache=cache)
    def get(vm_id: str) -> VMState:
        return VMState(vm_id=vm_id, node_id="n")

    get("vm-1")
    told = get.explain("vm-1")
    assert told.remaining == pytest.approx(5)
    assert told.tags == ("mine",)


def test_jitter_only_shortens_a_life(cache: Cache) -> None:
    @cached(key="n:<n>", ttl=100, jitter=0.2, cache=cache)
    def f(n: int) -> int:
        return n

    lives = set()
    for n in range(50):
        f(n)
        lives.add(f.explain(n).remaining)
    assert all(life is not None and 80 <= life <= 100 for life in lives)
    assert len(lives) > 10


def test_what_the_loader_raises_reaches_the_caller_and_is_not_cached(cache: Cache) -> None:
    calls = []

    @cached(key="n:<n>", cache=cache)
    def f(n: int) -> int:
        calls.append(n)
        if len(calls) == 1:
            raise LookupError("nothing there")
        return n

    with pytest.raises(LookupError, match="nothing there"):
        f(1)
    assert f(1) == 1
    assert f.stats().load_errors == 1


def test_a_recursive_function_computes_each_value_once(cache: Cache) -> None:
    calls = []

    @cached(key="fib:<n>", cache=cache)
    def fib(n: int) -> int:
        calls.append(n)
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(20) == 6765
    assert sorted(calls) == list(range(21))


# -- the function it was -----------------------------------------------------------------------------------------------


@cached(key="square:<n>")
def square(n: int, /) -> int:
    """Return the square."""
    return n * n


@cached(key="double:<n>")
async def double(n: int) -> int:
    """Return the double."""
    return 2 * n


def test_a_cached_function_looks_like_the_function() -> None:
    assert (square.__name__, square.__qualname__, square.__doc__) == ("square", "square", "Return the square.")
    assert str(inspect.signature(square)) == "(n: 'int', /) -> 'int'"
    assert square.__wrapped__(3) == 9
    assert inspect.isfunction(square)
    assert not inspect.iscoroutinefunction(square)
    assert square.__module__ == __name__


def test_a_cached_coroutine_function_is_one() -> None:
    assert inspect.iscoroutinefunction(double)
    assert asyncio.iscoroutinefunction(double)
    assert inspect.iscoroutinefunction(double.__wrapped__)


def test_a_cached_function_is_pickled_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType(__name__)
    module.square, module.double = square, double  # type: ignore[attr-defined]  # what an import would have put there
    monkeypatch.setitem(sys.modules, __name__, module)
    assert pickle.loads(pickle.dumps(square)) is square
    assert pickle.loads(pickle.dumps(double)) is double


def test_wrong_arguments_give_the_function_s_own_error(cache: Cache) -> None:
    def plain(vm_id: str, /, *, deep: bool = False) -> str:
        return vm_id

    f = cached(key="vm:<vm_id>:<deep>", cache=cache)(plain)
    wrong: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}), (("a", "b"), {}), (("a",), {"deeep": 1}), ((), {"vm_id": "a"}), (("a", True), {"deep": True}),
    ]  # fmt: skip
    for args, kwargs in wrong:
        with pytest.raises(TypeError) as natural:
            plain(*args, **kwargs)
        for call in (f, f.key, f.peek, f.invalidate):
            with pytest.raises(TypeError) as ours:
                call(*args, **kwargs)
            assert str(ours.value) == str(natural.value)


def test_every_kind_of_parameter_is_passed_on(cache: Cache) -> None:
    calls: list[Any] = []

    @cached(cache=cache)
    def f(a: int, b: int = 2, /, c: int = 3, *rest: int, d: int, e: int = 5, **more: int) -> list[Any]:
        calls.append((a, b, c, rest, d, e, more))
        return [a, b, c, list(rest), d, e, dict(more)]

    assert f(1, d=4) == [1, 2, 3, [], 4, 5, {}]
    assert f(1, 2, c=3, e=5, d=4) == [1, 2, 3, [], 4, 5, {}]
    assert f(1, 2, 3, 9, 8, d=4, y=1, x=2) == [1, 2, 3, [9, 8], 4, 5, {"y": 1, "x": 2}]
    assert f(1, 2, 3, 9, 8, x=2, d=4, y=1) == [1, 2, 3, [9, 8], 4, 5, {"y": 1, "x": 2}]
    assert f(1, 2, 3, 9, d=4) == [1, 2, 3, [9], 4, 5, {}]
    assert calls == [
        (1, 2, 3, (), 4, 5, {}),
        (1, 2, 3, (9, 8), 4, 5, {"y": 1, "x": 2}),
        (1, 2, 3, (9,), 4, 5, {}),
    ]


def test_parameters_may_be_called_like_builtins(cache: Cache) -> None:
    @cached(cache=cache)
    def f(id: int, getattr: int, type: str, list: int, str: int = 0) -> tuple[Any, ...]:  # noqa: A002
        return (id, getattr, type, list, str)

    assert f(1, 2, "3", 4) == f(1, 2, "3", 4) == (1, 2, "3", 4, 0)


def test_a_function_without_parameters_has_one_entry(cache: Cache) -> None:
    calls = []

    @cached(key="settings", cache=cache)
    def f() -> int:
        calls.append(1)
        return 7

    assert (f(), f(), f.key(), len(calls)) == (7, 7, "settings", 1)


def test_lambdas_wrapped_functions_and_partials_can_be_cached(cache: Cache) -> None:
    assert cached(key="lambda:<n>", cache=cache)(lambda n: n + 1)(1) == 2

    def original(vm_id: str, deep: bool = False) -> str:
        return f"{vm_id} {deep}"

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> str:
        return original(*args, **kwargs).upper()

    f = cached(cache=cache, name="wrapped")(wrapper)
    assert f("a") == f(vm_id="a", deep=False) == "A FALSE"
    assert f.stats().loads == 1
    part = cached(key="part:<deep>", name="part", cache=cache)(functools.partial(original, "vm"))
    assert part(deep=True) == "vm True"


class Doubling:
    def __call__(self, n: int) -> int:
        return 2 * n


class Waiting:
    async def __call__(self, n: int) -> int:
        return 3 * n


def doubled(n: int, by: int = 2) -> int:
    return n * by


def test_what_has_no_name_is_called_as_what_it_calls_and_never_by_an_address(cache: Cache) -> None:
    part, thing = cached(cache=cache)(functools.partial(doubled, by=2)), cached(cache=cache)(Doubling())
    assert [part(4), thing(4)] == [8, 8]
    with pytest.raises(CachedValueError, match=r"`doubled` for key .* returned str, expected int"):
        part("four")
    assert [part.key(4), part.explain(4).name] == [f"{__name__}.doubled:4:2", f"{__name__}.doubled"]
    assert [thing.key(4), thing.explain(4).name] == [f"{__name__}.Doubling:4", f"{__name__}.Doubling"]


@pytest.mark.parametrize("make", [Doubling, lambda: functools.partial(doubled)], ids=["object", "partial"])
def test_two_of_what_has_no_name_are_refused_without_one(cache: Cache, make: Callable[[], Any]) -> None:
    first, second = cached(cache=cache)(make()), cached(cache=cache)(make())
    assert first(1) == 2
    with pytest.raises(DeclarationError, match="give each a name of its own"):
        second(1)
    assert cached(key="n:<n>", name="named", cache=cache)(Doubling())(1) == 2


@pytest.mark.parametrize("make", [Waiting, lambda: functools.partial(Waiting())], ids=["object", "partial"])
async def test_an_object_whose_call_is_asynchronous_is_awaited(cache: Cache, make: Callable[[], Any]) -> None:
    tripled = cached(key="n:<n>", cache=cache)(make())
    assert inspect.iscoroutinefunction(tripled)
    assert [await tripled(1), await tripled(1), await tripled.peek(1)] == [3, 3, 3]
    assert tripled.stats().loads == 1


# -- the attributes ----------------------------------------------------------------------------------------------------


def test_peek_reads_and_never_loads(cache: Cache, source: Loader) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def get(vm_id: str) -> VMState:
        return source.vm(vm_id)

    assert get.peek("vm-1") is MISSING
    value = get("vm-1")
    assert get.peek(vm_id="vm-1") is value
    assert source.calls == ["vm-1"]


def test_set_refresh_and_invalidate_act_on_one_call(cache: Cache, source: Loader) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def get(vm_id: str) -> VMState:
        return source.vm(vm_id)

    given_ = VMState(vm_id="vm-1", node_id="elsewhere")
    get.set(given_, "vm-1")
    assert get("vm-1") is given_
    assert get.refresh("vm-1").node_id == "node-1"
    assert get("vm-1").node_id == "node-1"
    receipt = get.invalidate("vm-1")
    assert (receipt.done, receipt.local) == (True, 1)
    assert get.peek("vm-1") is MISSING
    with pytest.raises(CachedValueError):
        get.set("no state", "vm-1")  # type: ignore[arg-type]  # the point of the test


def test_many_gives_the_values_in_the_caller_s_order(cache: Cache, source: Loader) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def get(vm_id: str) -> VMState:
        return source.vm(vm_id)

    get("b")
    assert [state.vm_id for state in get.many(["c", ("b",), {"vm_id": "a"}, "c"])] == ["c", "b", "a", "c"]
    assert source.calls == ["b", "c", "a"]


def test_warm_loads_what_is_absent_and_reports_failures(cache: Cache) -> None:
    @cached(key="n:<n>", cache=cache)
    def f(n: int) -> int:
        return 10 // n

    f(5)
    report = f.warm([5, 2, 0])
    assert (report.cached, report.loaded) == (1, 1)
    ((key, error),) = report.failed
    assert key == "n:0"
    assert isinstance(error, ZeroDivisionError)
    assert f.peek(2) == 5


def test_explain_says_where_a_value_is_and_why_a_call_would_miss(cache: Cache, clock: ManualClock) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def get(vm_id: str) -> VMState:
        return VMState(vm_id=vm_id, node_id="node-1")

    assert (get.explain("vm-1").tier, get.explain("vm-1").reason) == (None, "cold")
    get("vm-1")
    clock.advance(10)
    told = get.explain("vm-1")
    assert (told.key, told.name, told.tier, told.reason) == ("vm:vm-1", "VMState", "memory", "hit")
    assert (told.age, told.remaining, told.tags) == (10, 20, ("vm:vm-1", "node:node-1"))
    clock.advance(20)
    assert (get.explain("vm-1").tier, get.explain("vm-1").reason) == (None, "expired")


def test_key_and_tags_are_what_an_f_string_writes(cache: Cache) -> None:
    @cached(key="vm:<vm_id>:<n>", tags=["vm:<vm_id>", "all"], cache=cache)
    def f(vm_id: str, n: int) -> int:
        return n

    vm_id, n = "a b:c*{}<>", 3
    assert f.key(vm_id, n) == f"vm:{vm_id}:{n}"
    assert f.tags(vm_id, n) == (f"vm:{vm_id}", "all")
    f(vm_id, n)
    assert cache.invalidate_tags(f"vm:{vm_id}").local == 1
    f(vm_id, n)
    assert cache.invalidate(f"vm:{vm_id}:{n}").local == 1


async def test_an_async_function_has_the_same_attributes(cache: Cache) -> None:
    calls = []

    @cached(VMState, key="vm:<vm_id>", cache=cache)
    async def get(vm_id: str) -> VMState:
        calls.append(vm_id)
        if vm_id == "bad":
            raise LookupError(vm_id)
        return VMState(vm_id=vm_id, node_id="node-1")

    assert await get.peek("a") is MISSING
    value = await get("a")
    assert await get.peek("a") is value
    assert (get.key("a"), get.tags("a")) == ("vm:a", ("vm:a",))
    await get.set(VMState(vm_id="a", node_id="set"), "a")
    assert (await get("a")).node_id == "set"
    assert (await get.refresh("a")).node_id == "node-1"
    assert [one.vm_id for one in await get.many(["b", "a", "b"])] == ["b", "a", "b"]
    assert calls == ["a", "a", "b"]
    report = await get.warm(["a", "c", "bad"])
    assert (report.cached, report.loaded, [key for key, _ in report.failed]) == (1, 1, ["vm:bad"])
    assert (await get.explain("a")).tier == "memory"
    assert (await get.invalidate("a")).local == 1
    assert await get.peek("a") is MISSING
    assert get.stats().load_errors == 1


def test_stats_count_hits_misses_by_reason_and_loads(cache: Cache, clock: ManualClock) -> None:
    @cached(key="n:<n>", ttl=10, cache=cache)
    def f(n: int) -> int:
        return n

    f(1)
    for _ in range(5):
        f(1)
    f(2)
    clock.advance(10)
    f(1)
    f.invalidate(1)
    f(1)
    told = f.stats()
    assert told.hits == {"memory": 5}
    assert told.misses == {"cold": 3, "expired": 1}
    assert (told.loads, told.calls) == (4, 9)
    assert told.hit_rate == pytest.approx(5 / 9)
    assert cache.stats() == told
    assert cache.stats_by_name()[f.explain(1).name] == told


def test_hits_are_not_forgotten_when_the_function_goes_to_another_cache(clock: ManualClock) -> None:
    with Cache(clock=clock) as first, Cache(clock=clock) as second:
        configure(first)

        @cached(key="moving:<n>")
        def f(n: int) -> int:
            return n

        f(1), f(1), f(1)
        configure(second)
        f(1), f(1)
        assert first.stats().hits == {"memory": 2}
        assert second.stats().hits == {"memory": 1}


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


# -- sharing -----------------------------------------------------------------------------------------------------------


def test_functions_of_the_same_model_and_key_share_entries(cache: Cache, source: Loader) -> None:
    @cached(VMState, key="vm:<vm_id>", cache=cache)
    def by_id(vm_id: str) -> VMState:
        return source.vm(vm_id)

    @cached(VMState, key="vm:<name>", cache=cache)
    def by_name(name: str) -> VMState:
        return source.vm(name)

    assert by_id("a") is by_name("a")
    assert by_id("a") is VMState.entries.using(cache).get("a")
    assert by_id("a") is cache.get("vm:a", model=VMState)
    new = VMState(vm_id="a", node_id="moved")
    cache.set("vm:a", new)
    assert by_id("a") is by_name("a") is new
    assert source.calls == ["a"]


def test_functions_of_other_types_do_not_share_unless_named_alike(cache: Cache) -> None:
    @cached(int, key="n:<n>", cache=cache)
    def one(n: int) -> int:
        return 1

    @cached(int, key="n:<n>", cache=cache)
    def two(n: int) -> int:
        return 2

    @cached(int, key="n:<n>", name="shared", cache=cache)
    def three(n: int) -> int:
        return 3

    @cached(int, key="n:<n>", name="shared", cache=cache)
    def four(n: int) -> int:
        return 4

    assert (one(0), two(0), three(0), four(0)) == (1, 2, 3, 3)
    assert cache.invalidate("n:0").local == 3


def test_two_types_of_one_name_never_read_each_other_s_values(cache: Cache) -> None:
    @cached(int, key="n:<n>", name="shared", cache=cache)
    def number(n: int) -> int:
        return n

    @cached(str, key="n:<n>", name="shared", cache=cache)
    def text(n: int) -> str:
        return str(n)

    for _ in range(2):
        assert (number(1), text(1)) == (1, "1")
    assert cache.invalidate_model("shared").local == 2


def test_a_none_of_one_function_is_no_answer_of_another_that_never_returns_none(cache: Cache) -> None:
    @cached(VMState, cache=cache)
    def find(vm_id: str) -> VMState | None:
        return None

    @cached(VMState, cache=cache)
    def get(vm_id: str) -> VMState:
        return VMState(vm_id=vm_id, node_id="n")

    assert find("a") is None
    assert get.peek("a") is MISSING
    assert [one.vm_id for one in get.many(["a"])] == ["a"]
    get.invalidate("a")
    assert find("a") is None
    assert get("a").vm_id == "a"
    assert find("a") is not None


async def test_the_same_holds_for_coroutine_functions(cache: Cache) -> None:
    @cached(VMState, cache=cache)
    async def find(vm_id: str) -> VMState | None:
        return None

    @cached(VMState, cache=cache)
    async def get(vm_id: str) -> VMState:
        return VMState(vm_id=vm_id, node_id="n")

    assert await find("a") is None
    assert await get.peek("a") is MISSING
    assert (await get("a")).vm_id == "a"
    await get.invalidate("a")
    await find("a")
    assert [one.vm_id for one in await get.many(["a"])] == ["a"]


# -- values ------------------------------------------------------------------------------------------------------------


class Frozen(CacheModel, key="frozen:<x>"):
    x: str
    parts: tuple[int, ...] = (1,)


class HoldsList(CacheModel, key="holds:<x>"):
    x: str
    parts: list[int] = Field(default_factory=lambda: [1])


def test_a_deeply_immutable_value_is_the_same_object_on_every_hit(cache: Cache) -> None:
    @cached(Frozen, cache=cache)
    def f(x: str) -> Frozen:
        return Frozen(x=x)

    first = f("a")
    assert all(f("a") is first for _ in range(3))
    assert f.peek("a") is first


def test_a_caller_s_change_never_reaches_the_cache(cache: Cache) -> None:
    loaded: list[list[int]] = []

    @cached(list[int], key="l:<x>", cache=cache)
    def f(x: str) -> list[int]:
        loaded.append([1])
        return loaded[-1]

    for _ in range(4):
        got = f("a")
        assert got == [1]
        got.append(2)
    loaded[0].append(3)  # the loader's own reference
    assert f("a") == f.peek("a") == f.many(["a"])[0] == [1]
    f.refresh("a").append(4)
    assert f("a") == [1]
    mine = [7]
    f.set(mine, "a")
    mine.append(8)
    assert f("a") == [7]


def test_a_frozen_model_that_holds_a_list_is_not_shared(cache: Cache) -> None:
    @cached(HoldsList, cache=cache)
    def f(x: str) -> HoldsList:
        return HoldsList(x=x)

    for _ in range(3):
        f("a").parts.append(9)
        assert f("a").parts == [1]


def test_followers_of_a_load_get_values_of_their_own(cache: Cache) -> None:
    entered, go = threading.Event(), threading.Event()

    @cached(dict[str, int], key="d", cache=cache)
    def f() -> dict[str, int]:
        entered.set()
        assert go.wait(10)
        return {"a": 1}

    results: list[dict[str, int]] = []
    threads = [threading.Thread(target=lambda: results.append(f())) for _ in range(4)]
    threads[0].start()
    assert entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert results == [{"a": 1}] * 4
    assert len({id(result) for result in results}) == 4
    for result in results:
        result.clear()
    assert f() == {"a": 1}
    assert f.stats().loads == 1


def test_a_value_that_had_to_be_converted_is_answered_on_every_hit(cache: Cache) -> None:
    @cached(float, key="f:<x>", cache=cache)
    def f(x: int) -> float:
        return x

    assert [f(1), f(1), f(1), f.peek(1)] == [1.0] * 4

    @cached(datetime, key="d:<x>", cache=cache)
    def odd(x: int) -> datetime:
        return datetime(2024, 1, x, tzinfo=timezone(timedelta(hours=1), "odd"))

    assert [odd(1), odd(1), odd(1)] == [datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1)))] * 3


def test_a_wrong_result_names_the_function_the_key_and_the_type(cache: Cache) -> None:
    @cached(VMState, cache=cache)
    def f(vm_id: str) -> VMState:
        return {"vm_id": vm_id}  # type: ignore[return-value]  # the point of the test

    for _ in range(2):
        with pytest.raises(CachedValueError, match=r"`.*f` for key 'vm:a' returned dict, expected VMState") as raised:
            f("a")
        assert (raised.value.key, raised.value.expected) == ("vm:a", "VMState")
    assert f.peek("a") is MISSING


def test_a_none_that_was_not_announced_is_a_wrong_result(cache: Cache) -> None:
    @cached(VMState, cache=cache)
    def f(vm_id: str) -> VMState:
        return None  # type: ignore[return-value]  # the point of the test

    with pytest.raises(CachedValueError, match="returned NoneType"):
        f("a")


def test_an_announced_none_is_a_value(cache: Cache) -> None:
    calls = []

    @cached(VMState, cache=cache)
    def f(vm_id: str) -> VMState | None:
        calls.append(vm_id)
        return None

    assert (f("a"), f("a"), f("a")) == (None, None, None)
    assert f.peek("a") is None
    assert f.peek("a") is not MISSING
    assert calls == ["a"]


def test_negative_ttl_bounds_the_life_of_a_none_alone(cache: Cache, clock: ManualClock) -> None:
    calls = []

    @cached(key="n:<n>", ttl=60, negative_ttl=2, cache=cache)
    def f(n: int) -> int | None:
        calls.append(n)
        return n or None

    f(0), f(1)
    clock.advance(2)
    f(0), f(1)
    assert calls == [0, 1, 0]


def test_a_value_that_cannot_be_written_is_refused_and_not_cached(cache: Cache) -> None:
    @cached(key="u:<x>", cache=cache)
    def f(x: int):  # type: ignore[no-untyped-def]  # no annotation: a plain value is expected
        return object()

    with pytest.raises(CachedValueError, match="u:1"):
        f(1)
    assert f.peek(1) is MISSING


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_have_the_last_word(clock: ManualClock) -> None:
    overrides = {"VMState": {"ttl": "7s", "tags": ["zone:<node_id>"]}, "nothing": {"negative_ttl": 3}}
    with Cache(CacheSettings(models=overrides), clock=clock) as cache:

        @cached(VMState, ttl="5s", tags=["mine"], cache=cache)
        def f(vm_id: str) -> VMState:
            return VMState(vm_id=vm_id, node_id="n")

        f("a")
        assert f.explain("a").remaining == pytest.approx(7)
        assert f.explain("a").tags == ("zone:n",)
        VMState.entries.using(cache).set(VMState(vm_id="b", node_id="m"))
        assert cache.explain("vm:b", model=VMState).tags == ("zone:m",)

        @cached(key="no:<x>", name="nothing", cache=cache)
        def g(x: int) -> int | None:
            return None

        g(1)
        assert g.explain(1).remaining == pytest.approx(3)


def test_a_value_may_be_kept_out_of_process_memory(tmp_path: Any, clock: ManualClock) -> None:
    with Cache.connect(namespace="t", disk=tmp_path) as cache:

        @cached(key="n:<n>", tiers=["disk"], cache=cache)
        def f(n: int) -> int:
            return n

        assert (f(1), f(1), f(1)) == (1, 1, 1)
        assert f.stats().hits == {"disk": 2}
        assert f.explain(1).tiers["memory"] == "absent"


# -- names that several functions have ---------------------------------------------------------------------------------


def multiplier(factor: int, cache: Cache, name: str | None = None) -> Any:
    @cached(cache=cache, name=name)
    def multiply(n: int) -> int:
        return n * factor

    return multiply


def test_functions_of_one_factory_that_load_different_values_are_refused(cache: Cache) -> None:
    double, triple = multiplier(2, cache), multiplier(3, cache)
    assert double(1) == 2
    with pytest.raises(DeclarationError, match=r"two different functions are called .*multiply.*name="):
        triple(1)
    assert double(1) == 2


def test_functions_of_one_factory_that_load_the_same_values_share_them(cache: Cache) -> None:
    one, other = multiplier(2, cache), multiplier(2, cache)
    assert [one(1), other(1)] == [2, 2]
    assert cache.stats().loads == 1


def test_a_name_of_its_own_tells_functions_of_one_factory_apart(cache: Cache) -> None:
    double, triple = multiplier(2, cache, "double"), multiplier(3, cache, "triple")
    assert [double(1), triple(1)] == [2, 3]


def test_two_lambdas_of_one_scope_are_refused(cache: Cache) -> None:
    one, other = cached(cache=cache)(lambda n: n + 1), cached(cache=cache)(lambda n: n - 1)
    assert one(1) == 2
    with pytest.raises(DeclarationError, match="lambda"):
        other(1)


def test_functions_decorated_at_run_time_leave_nothing_behind(cache: Cache) -> None:
    def use(n: int) -> None:
        @cached(cache=cache, name=f"made-{n}")
        def made(x: int) -> int:
            return x

        assert made(1) == 1

    use(0)
    gc.collect()
    lines, memory = len(linecache.cache), cache.engine.memory
    assert memory is not None
    fronts, plans = len(memory._fronts), len(cache._plans)
    for n in range(1, 20):
        use(n)
    gc.collect()
    assert len(memory._fronts) == fronts
    assert len(cache._plans) == plans
    assert len(linecache.cache) <= lines


async def test_get_looks_as_a_call_does_and_loads_nothing(cache: Cache) -> None:
    calls: list[int] = []

    @cached(int, key="n:<n>", cache=cache)
    def double(n: int) -> int:
        calls.append(n)
        return 2 * n

    @cached(int, key="async:<n>", cache=cache)
    async def adouble(n: int) -> int:
        calls.append(n)
        return 2 * n

    async def get(n: int) -> Any:
        return double.get(n)

    async def load(n: int) -> Any:
        return double(n)

    for function, look, call in ((double, get, load), (adouble, adouble.get, adouble)):
        calls.clear()
        assert await look(1) is MISSING
        assert calls == []
        assert await call(1) == 2
        assert await look(1) == 2
        assert await look(2) is MISSING
        stats = function.stats()
        assert (sum(stats.hits.values()), stats.misses["cold"]) == (1, 3)


def test_a_function_without_process_memory_has_no_front(tmp_path: Path) -> None:
    settings = CacheSettings.connect(disk=tmp_path, namespace="shop", memory={"enabled": False})
    with Cache(settings) as cache:
        calls: list[list[int]] = []

        @cached_many(int, key="n:<n>", each="ns", cache=cache)
        def double(ns: list[int]) -> dict[int, int]:
            calls.append(ns)
            return {n: 2 * n for n in ns}

        assert double([1, 2]) == {1: 2, 2: 4}
        assert double([2, 3]) == {2: 4, 3: 6}
        assert calls == [[1, 2], [3]]


async def test_warming_reports_what_fails_on_the_way_and_goes_on(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    original = flows.fill

    def fill(engine: Any, requests: Any) -> Any:
        if requests[0].logical.endswith("2"):
            raise LookupError("no room")
        return original(engine, requests)

    @cached(int, key="n:<n>", cache=cache)
    def double(n: int) -> int:
        return 2 * n

    @cached(int, key="async:<n>", cache=cache)
    async def adouble(n: int) -> int:
        return 2 * n

    monkeypatch.setattr(flows, "fill", fill)
    for report in (double.warm([1, 2, 3]), await adouble.warm([1, 2, 3])):
        assert report.loaded == 2
        assert [(key[-1], str(error)) for key, error in report.failed] == [("2", "no room")]


def test_what_cannot_be_compared_is_another_function(cache: Cache) -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise LookupError("cannot tell")

        __hash__ = None  # type: ignore[assignment]  # it cannot be told either

    def declare(odd: Any) -> Any:
        later = 3

        def load(n: int) -> int:
            return n if odd is None else later  # noqa: F821 - it has been, and is gone

        del later  # the variable that `load` closes over has no value any more
        return cached(int, key="n:<n>", cache=cache)(load)

    assert declare(None)(1) == 1
    first, second = declare(None), declare(Odd())
    assert first(1) == 1
    with pytest.raises(DeclarationError, match="two different functions"):
        second(1)

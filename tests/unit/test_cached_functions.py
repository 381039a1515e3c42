"""`@cached` and the function it was given: it goes on looking like it, and no two functions are taken for one."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import linecache
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from novacron_cache import Cache, CachedValueError, DeclarationError, cached

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

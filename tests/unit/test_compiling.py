"""The generated hit path: which raw arguments may be a key, and how the generated functions look."""

from __future__ import annotations

import inspect
import linecache
import traceback
import types
from collections.abc import Callable
from typing import Any

import pytest

from novacron_cache.compiling import RAW_SAFE, UNSAFE, Compiled, compile_call
from novacron_cache.entry import Entry
from novacron_cache.link import Horizon


class Bench:
    """One compiled function with a front of its own; what reaches the slow path is written down."""

    def __init__(self, function: Callable[..., Any], *expressions: str, **options: Any) -> None:
        self.front: dict[Any, Entry] = {}
        self.raws: list[Any] = []
        self.now = 0.0
        self.options = {"types": {}, "asynchronous": False, "immutable": True} | options
        self.compiled: Compiled = compile_call(function, inspect.signature(function), expressions, **self.options)
        self.horizon = Horizon()
        self.compiled.bind(self.front, lambda: self.now, self.miss, lambda body: body.decode(), self.horizon)

    def miss(self, raw: Any, values: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.raws.append(raw)
        if raw is not UNSAFE:
            self.front[raw] = Entry("k", f"value of {values}", expires=10.0)
        return f"value of {values}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.compiled.call(*args, **kwargs)


class Bound:
    def __init__(self, obj: Any) -> None:
        self.obj = obj


def test_a_hit_does_not_reach_the_slow_path_and_is_counted() -> None:
    bench = Bench(lambda x: x, "x", types={"x": str})
    assert bench("a") == bench("a") == bench(x="a") == "value of {'x': 'a'}"
    assert bench.raws == ["a"]
    assert bench.compiled.hits() == 2
    assert bench.front["a"].hits == 2


def test_an_entry_past_its_deadline_is_no_hit() -> None:
    bench = Bench(lambda x: x, "x", types={"x": str})
    bench("a")
    bench.now = 9.99
    bench("a")
    assert len(bench.raws) == 1
    bench.now = 10.0
    bench("a")
    assert len(bench.raws) == 2
    bench.front["a"].kill()
    bench.now = 0.0
    bench("a")
    assert len(bench.raws) == 3


def test_an_entry_is_no_hit_once_the_horizon_has_passed() -> None:
    bench = Bench(lambda x: x, "x", types={"x": str})
    bench("a")
    bench.horizon.valid_until = 5.0
    bench.now = 4.99
    bench("a")
    assert len(bench.raws) == 1
    bench.now = 5.0
    bench("a")
    assert len(bench.raws) == 2


def test_a_serialised_entry_is_decoded_on_every_hit() -> None:
    bench = Bench(lambda x: x, "x", types={"x": str}, immutable=False)
    bench.front["a"] = Entry("k", None, body=b"decoded", expires=10.0)
    assert bench("a") == "decoded"


@pytest.mark.parametrize(
    "value", [1.0, (1,), [1], {}, object(), type("Text", (str,), {})("a"), type("Int", (int,), {})(1)]
)
def test_arguments_of_other_classes_take_the_slow_path_every_time(value: Any) -> None:
    for kinds in ({}, {"x": str}, {"x": float}):
        bench = Bench(lambda x: x, "x", types=kinds)
        bench(value), bench(value)
        assert bench.raws == [UNSAFE, UNSAFE]


def test_the_class_is_part_of_a_raw_key_unless_one_class_alone_is_declared() -> None:
    bench = Bench(lambda x: x, "x")
    for value in (1, True, "1", b"1", None):
        assert type(value) in RAW_SAFE
        assert bench(value) == f"value of {{'x': {value!r}}}"
    assert len(set(bench.raws)) == 5
    one = Bench(lambda x: x, "x", types={"x": int})
    one(1), one(True)
    assert one.raws == [1, UNSAFE]


def test_a_key_without_values_has_one_raw_key() -> None:
    bench = Bench(lambda session: session)
    bench(1), bench(object()), bench(None)
    assert bench.raws == [None]


def test_an_attribute_is_read_once_and_a_missing_one_takes_the_slow_path() -> None:
    bench = Bench(lambda vm: vm, "vm.id")
    bench(types.SimpleNamespace(id="a")), bench(types.SimpleNamespace(id="a")), bench(types.SimpleNamespace(id=1))
    assert bench.raws == [(str, "a"), (int, 1)]
    bench(None)
    assert bench.raws[-1] is UNSAFE


def test_collect_gives_the_arguments_as_the_function_takes_them() -> None:
    def f(a: int, b: int = 2, /, c: int = 3, *rest: int, d: int, e: int = 5, **more: int) -> None: ...

    collect = Bench(f, "a").compiled.collect
    assert collect(1, d=4, x=9) == (
        {"a": 1, "b": 2, "c": 3, "rest": (), "d": 4, "e": 5, "more": {"x": 9}},
        (1, 2, 3),
        {"d": 4, "e": 5, "x": 9},
    )
    assert collect(1, 2, 3, 4, 5, d=6)[1:] == ((1, 2, 3, 4, 5), {"d": 6, "e": 5})


@pytest.mark.parametrize(
    "function",
    [
        lambda: 0, lambda a: 0, lambda a, b=1: 0, lambda *, a: 0, lambda *, a=1, b: 0, lambda *a: 0, lambda **a: 0,
        lambda a, /: 0, lambda a=1, /, b=2: 0, lambda a, /, *, b: 0, lambda a, /, b, *c, d, e=1, **f: 0,
        lambda a, /, *b, c=1: 0, lambda a, /, **b: 0,
    ],
)  # fmt: skip
def test_the_generated_function_has_the_parameters_of_the_original(function: Callable[..., Any]) -> None:
    generated = Bench(function).compiled
    assert inspect.signature(generated.call) == inspect.signature(function)
    assert generated.call.__name__ == "<lambda>"
    assert generated.call.__qualname__ == function.__qualname__


async def test_an_asynchronous_function_gives_a_coroutine_function() -> None:
    async def f(x: str) -> str:
        return x

    compiled = compile_call(f, inspect.signature(f), ["x"], types={"x": str}, asynchronous=True, immutable=True)
    front: dict[Any, Entry] = {}

    async def miss(raw: Any, *_: Any) -> str:
        front[raw] = Entry("k", "hit", expires=10.0)
        return "missed"

    compiled.bind(front, lambda: 0.0, miss, None, Horizon())
    assert inspect.iscoroutinefunction(compiled.call)
    assert [await compiled.call("a"), await compiled.call("a")] == ["missed", "hit"]


def test_a_bound_function_takes_the_instance_out_of_what_it_is_called_on() -> None:
    bench = Bench(lambda self, x: x, "self.uri", "x", types={"x": str}, bound="self")
    one, two = types.SimpleNamespace(uri="a"), types.SimpleNamespace(uri="b")
    bench(Bound(one), "x"), bench(Bound(two), "x"), bench(Bound(one), "x")
    assert bench.raws == [(str, "a", "x"), (str, "b", "x")]
    assert bench.compiled.collect(Bound(one), "x")[1] == (one, "x")


def test_a_traceback_through_the_generated_function_shows_its_lines() -> None:
    bench = Bench(lambda x: x, "x")

    def fail(*_: Any) -> Any:
        raise LookupError

    bench.compiled.bind(bench.front, lambda: 0.0, fail, None, Horizon())
    with pytest.raises(LookupError) as raised:
        bench("a")
    assert "_nc_miss" in "".join(traceback.format_exception(raised.value))
    assert bench.compiled.call.__code__.co_filename in linecache.cache

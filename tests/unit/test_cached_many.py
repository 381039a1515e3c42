"""`@cached_many`: the misses only, once, in the caller's order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from novacron_cache import (
    Cache,
    CacheClosedError,
    CachedValueError,
    CacheModel,
    CacheScopeWarning,
    DeclarationError,
    KeyValueError,
    TemplateError,
    cached,
    cached_many,
    configure,
    fronting,
)
from novacron_cache.fronting import Front
from novacron_cache.testing import ManualClock


class VMState(CacheModel, key="vm:<vm_id>", ttl="30s", tags=["vm:<vm_id>", "node:<node_id>"]):
    vm_id: str
    node_id: str = "node-1"


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[Cache]:
    made = configure(Cache(clock=clock))
    yield made
    made.close()


class Source:
    """Has every vm but those called `none-...`."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def load(self, vm_ids: list[str]) -> dict[str, VMState]:
        self.calls.append(vm_ids)
        return {vm_id: VMState(vm_id=vm_id) for vm_id in vm_ids if not vm_id.startswith("none")}


@pytest.fixture
def source() -> Source:
    return Source()


def test_only_misses_are_loaded_in_one_call_without_duplicates(cache: Cache, source: Source) -> None:
    @cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
    def get(vm_ids: list[str]) -> dict[str, VMState]:
        return source.load(vm_ids)

    get(["b"])
    assert list(get(["c", "b", "a", "c", "b"])) == ["c", "b", "a"]
    assert source.calls == [["b"], ["c", "a"]]
    assert get(["a", "b", "c"])["a"] is get(vm_ids=["a"])["a"]
    assert get([]) == {}
    assert len(source.calls) == 2


def test_any_iterable_of_elements_will_do(cache: Cache, source: Source) -> None:
    @cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
    def get(vm_ids: Any) -> dict[str, VMState]:
        return source.load(vm_ids)

    assert list(get(("a", "b"))) == list(get(vm_id for vm_id in "ab")) == list(get({"a": 1, "b": 2})) == ["a", "b"]
    assert source.calls == [["a", "b"]]
    for wrong in ("ab", b"ab", 3, None):
        with pytest.raises(TypeError, match="vm_ids takes several values"):
            get(wrong)


def test_what_the_loader_leaves_out_is_absent_and_asked_for_again(cache: Cache, source: Source) -> None:
    @cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
    def get(vm_ids: list[str]) -> dict[str, VMState]:
        return source.load(vm_ids)

    assert list(get(["a", "none-1", "b"])) == ["a", "b"]
    assert list(get(["none-1", "a"])) == ["a"]
    assert source.calls == [["a", "none-1", "b"], ["none-1"]]


def test_negative_ttl_remembers_what_is_absent(cache: Cache, source: Source, clock: ManualClock) -> None:
    @cached_many(VMState, key="vm:<vm_id>", each="vm_ids", negative_ttl="2s")
    def get(vm_ids: list[str]) -> dict[str, VMState]:
        return source.load(vm_ids)

    assert get(["none-1"]) == get(["none-1"]) == {}
    assert source.calls == [["none-1"]]
    clock.advance(2)
    get(["none-1"])
    assert source.calls == [["none-1"]] * 2


def test_what_the_loader_returns_beside_is_left_alone(cache: Cache) -> None:
    @cached_many(int, key="n:<n>", each="numbers")
    def get(numbers: list[int]) -> dict[int, int]:
        return {1: 1, 2: 2, 3: 3}

    assert get([2]) == {2: 2}
    assert get.peek([1, 2, 3]) == {2: 2}


def test_entries_are_shared_with_cached_functions_of_the_model(cache: Cache, source: Source) -> None:
    @cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
    def get_many(vm_ids: list[str]) -> dict[str, VMState]:
        return source.load(vm_ids)

    @cached(VMState)
    def get(vm_id: str) -> VMState:
        return source.load([vm_id])[vm_id]

    one = get("a")
    assert get_many(["a", "b"])["a"] is one
    assert get("b") is get_many(["b"])["b"]
    assert source.calls == [["a"], ["b"]]
    assert cache.invalidate_tags("node:node-1").local == 2


def test_other_parameters_are_part_of_the_key(cache: Cache) -> None:
    calls = []

    @cached_many(int, key="<zone>:<n>:<deep>", each="numbers")
    def get(zone: str, numbers: list[int], *, deep: bool = False) -> dict[int, int]:
        calls.append((zone, numbers, deep))
        return dict.fromkeys(numbers, len(calls))

    assert get("a", [1]) == get("a", [1], deep=False) == {1: 1}
    assert get("b", [1]) == {1: 2}
    assert get(numbers=[1], zone="a", deep=True) == {1: 3}
    assert calls == [("a", [1], False), ("b", [1], False), ("a", [1], True)]
    assert get.key("a", [1, 2]) == ["a:1:False", "a:2:False"]


def test_ignored_parameters_are_no_part_of_it(cache: Cache, source: Source) -> None:
    @cached_many(VMState, each="vm_ids", ignore=["session"])
    def get(session: Any, vm_ids: list[str]) -> dict[str, VMState]:
        return source.load(vm_ids)

    get(object(), ["a"])
    get(None, ["a"])
    assert source.calls == [["a"]]


def test_elements_of_different_types_do_not_share_an_entry(cache: Cache) -> None:
    @cached_many(str, key="x:<x>", each="xs")
    def get(xs: list[Any]) -> dict[Any, str]:
        return {x: repr(x) for x in xs}

    for _ in range(2):
        for x in (1, True, "1", None, "", 1.0, "None"):
            assert get([x]) == {x: repr(x)}


def test_peek_and_invalidate_take_the_same_arguments(cache: Cache, source: Source) -> None:
    @cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
    def get(vm_ids: list[str]) -> dict[str, VMState]:
        """Return states."""
        return source.load(vm_ids)

    get(["a", "b"])
    assert list(get.peek(["c", "b", "a"])) == ["b", "a"]
    assert get.invalidate(["a", "c"]).local == 1
    assert list(get.peek(["a", "b"])) == ["b"]
    assert get.stats().loads == 2
    assert (get.__name__, get.__doc__) == ("get", "Return states.")
    assert str(inspect.signature(get)) == "(vm_ids: 'list[str]') -> 'dict[str, VMState]'"
    assert get.__wrapped__(["z"])["z"].vm_id == "z"


async def test_a_coroutine_function_is_awaited_for_the_misses(cache: Cache, source: Source) -> None:
    @cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
    async def get(vm_ids: list[str]) -> dict[str, VMState]:
        return source.load(vm_ids)

    await get(["b"])
    assert list(await get(["c", "b", "c"])) == ["c", "b"]
    assert source.calls == [["b"], ["c"]]
    assert list(await get.peek(["b", "z"])) == ["b"]
    assert (await get.invalidate(["b"])).local == 1
    assert inspect.iscoroutinefunction(get)


def test_values_can_be_changed_by_callers_without_reaching_the_cache(cache: Cache) -> None:
    @cached_many(list[int], key="l:<n>", each="numbers")
    def get(numbers: list[int]) -> dict[int, list[int]]:
        return {n: [n] for n in numbers}

    for _ in range(3):
        found = get([1])
        assert found == {1: [1]}
        found[1].append(2)


def test_a_loader_s_error_is_the_caller_s_and_nothing_is_kept(cache: Cache) -> None:
    @cached_many(int, key="n:<n>", each="numbers")
    def get(numbers: list[int]) -> dict[int, int]:
        raise LookupError("down")

    for _ in range(2):
        with pytest.raises(LookupError, match="down"):
            get([1, 2])
    assert get.peek([1, 2]) == {}


@pytest.mark.parametrize("result", [[1], None, 7, "x"])
def test_a_loader_that_returns_no_mapping_is_told_so(cache: Cache, result: Any) -> None:
    @cached_many(int, key="n:<n>", each="numbers")
    def get(numbers: list[int]) -> dict[int, int]:
        return result  # type: ignore[no-any-return]  # the point of the test

    with pytest.raises(CachedValueError, match=r"`.*get` returned .*, expected a dict"):
        get([1])


def test_a_dict_whose_keys_are_of_another_type_is_not_taken_for_one_in_which_all_are_absent(cache: Cache) -> None:
    @cached_many(int, key="n:<n>", each="numbers", negative_ttl="1m")
    def get(numbers: list[int]) -> dict[Any, int]:
        return {str(n): n for n in numbers}

    with pytest.raises(CachedValueError, match=r"get` returned a dict from str, and the elements of `numbers` are int"):
        get([1, 2])
    assert get.peek([1, 2]) == {}

    @cached_many(int, key="n:<n>", each="numbers")
    async def aget(numbers: list[int]) -> dict[Any, int]:
        return {str(n): n for n in numbers}

    with pytest.raises(CachedValueError, match="returned a dict from str"):
        asyncio.run(aget([1, 2]))


def test_a_dict_may_have_others_than_were_asked_for_and_none_of_those(cache: Cache) -> None:
    @cached_many(int, key="n:<n>", each="numbers")
    def get(numbers: list[int]) -> dict[int, int]:
        return {n + 10: n for n in numbers}

    assert get([1, 2]) == {}


def test_a_wrong_value_names_the_function_the_key_and_the_type(cache: Cache) -> None:
    @cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
    def get(vm_ids: list[str]) -> dict[str, VMState]:
        return {"a": VMState(vm_id="a"), "b": "no state"}  # type: ignore[dict-item]  # the point of the test

    with pytest.raises(CachedValueError, match=r"`.*get` for key 'vm:b' returned str, expected VMState"):
        get(["a", "b"])
    assert list(get.peek(["a", "b"])) == ["a"]


def test_a_wrong_declaration_is_refused() -> None:
    def get(zone: str, vm_ids: list[str]) -> dict[str, VMState]:
        return {}

    wrong: list[tuple[dict[str, Any], str]] = [
        ({"key": "<zone>:<vm_id>", "each": "vm_idz"}, "no parameter 'vm_idz'; did you mean 'vm_ids'"),
        ({"key": "<zone>:x", "each": "vm_ids"}, "exactly one placeholder .* found none"),
        ({"key": "<zone>:<a>:<b>", "each": "vm_ids"}, "found `<a>`, `<b>`"),
        ({"key": "vm:<vm_id>", "each": "vm_ids"}, "`zone` .* is not in it"),
        ({"key": "<zone>:<vm_id>", "each": "vm_ids", "tll": 3}, "unknown option 'tll'; did you mean 'ttl'"),
        ({"key": "<zone>:<vm_id>", "each": "vm_ids", "ignore": ["zon"]}, "no parameter 'zon'; did you mean 'zone'"),
        ({"key": "<zone>:<vm_id>", "each": "vm_ids", "tags": ["n:<nod>"]}, "have `nod`"),
    ]
    for options, message in wrong:
        with pytest.raises(DeclarationError, match=message):
            cached_many(VMState, **options)(get)
    with pytest.raises(DeclarationError, match="needs a key"):
        cached_many(int, each="vm_ids")(get)
    with pytest.raises(TemplateError):
        cached_many(VMState, each="vm_ids", key="<zone>")(get)


def test_the_placeholder_may_be_called_like_the_parameter(cache: Cache) -> None:
    @cached_many(int, key="n:<numbers>", each="numbers")
    def get(numbers: list[int]) -> dict[int, int]:
        return {n: n for n in numbers}

    assert get.key([1, 2]) == ["n:1", "n:2"]
    assert get([1, 2]) == {1: 1, 2: 2}


class Hypervisor:
    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.calls: list[list[str]] = []

    @cached_many(VMState, key="<self.uri>:<vm_id>", each="vm_ids")
    def states(self, vm_ids: list[str]) -> dict[str, VMState]:
        """Return states."""
        self.calls.append(vm_ids)
        return {vm_id: VMState(vm_id=vm_id, node_id=self.uri) for vm_id in vm_ids}

    @cached_many(VMState, key="a:<self.uri>:<vm_id>", each="vm_ids")
    async def astates(self, vm_ids: list[str]) -> dict[str, VMState]:
        self.calls.append(vm_ids)
        return {vm_id: VMState(vm_id=vm_id, node_id=self.uri) for vm_id in vm_ids}

    @cached_many(VMState, key="c:<vm_id>", each="vm_ids")
    @classmethod
    def of_class(cls, vm_ids: list[str]) -> dict[str, VMState]:
        return {vm_id: VMState(vm_id=vm_id, node_id=cls.__name__) for vm_id in vm_ids}

    @cached_many(VMState, key="s:<vm_id>", each="vm_ids")
    @staticmethod
    def static(vm_ids: list[str]) -> dict[str, VMState]:
        return {vm_id: VMState(vm_id=vm_id) for vm_id in vm_ids}


def test_methods_load_their_own_instance_s_misses(cache: Cache) -> None:
    one, two = Hypervisor("a"), Hypervisor("b")
    for _ in range(2):
        assert [state.node_id for state in (*one.states(["x"]).values(), *two.states(["x"]).values())] == ["a", "b"]
    assert one.calls == two.calls == [["x"]]
    assert list(one.states.peek(["x", "y"])) == ["x"]
    assert one.states.key(["x"]) == ["a:x"]
    assert one.states.invalidate(["x"]).local == 1
    assert list(two.states.peek(["x"])) == ["x"]
    assert Hypervisor.states(two, ["x"]) == two.states(["x"])
    assert Hypervisor.states.key(two, ["x"]) == ["b:x"]
    assert (one.states.__name__, one.states.__doc__) == ("states", "Return states.")
    assert str(inspect.signature(one.states)) == "(vm_ids: 'list[str]') -> 'dict[str, VMState]'"
    assert not inspect.iscoroutinefunction(one.states)


async def test_async_methods_classmethods_and_staticmethods_work(cache: Cache) -> None:
    one = Hypervisor("a")
    assert list(await one.astates(["x"])) == list(await one.astates(["x"])) == ["x"]
    assert one.calls == [["x"]]
    assert list(await one.astates.peek(["x"])) == ["x"]
    assert inspect.iscoroutinefunction(one.astates)
    assert Hypervisor.of_class(["x"])["x"].node_id == one.of_class(["x"])["x"].node_id == "Hypervisor"
    assert list(Hypervisor.of_class.peek(["x"])) == list(one.of_class.peek(["x"])) == ["x"]
    assert Hypervisor.static(["x"]) == one.static(["x"]) == one.static.peek(["x"])


def test_instances_share_by_cache_scope_or_are_warned_of(cache: Cache) -> None:
    class Plain:
        def __init__(self, scope: str | None = None) -> None:
            if scope is not None:
                self.cache_scope = scope

        @cached_many(str, key="p:<x>", each="xs")
        def read(self, xs: list[str]) -> dict[str, str]:
            return dict.fromkeys(xs, str(getattr(self, "cache_scope", None)))

        @cached_many(str, key="q:<x>", each="xs", ignore=["self"])
        def said(self, xs: list[str]) -> dict[str, str]:
            return dict.fromkeys(xs, "")

    one, two, three, four = Plain("1"), Plain("2"), Plain(), Plain()
    for _ in range(2):
        assert [each.read(["x"])["x"] for each in (one, two, three)] == ["1", "2", "None"]
    with pytest.warns(CacheScopeWarning, match="two instances of Plain") as told:
        four.read(["x"])
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Plain().read(["x"])
        three.said(["x"]), four.said(["x"])


def test_settings_have_the_last_word_on_tags_and_ttl(clock: ManualClock) -> None:
    from novacron_cache import CacheSettings

    with Cache(CacheSettings(models={"VMState": {"ttl": 5, "tags": ["zone:<node_id>"]}}), clock=clock) as cache:

        @cached_many(VMState, each="vm_ids", cache=cache)
        def get(vm_ids: list[str]) -> dict[str, VMState]:
            return {vm_id: VMState(vm_id=vm_id) for vm_id in vm_ids}

        get(["a"])
        told = cache.explain("vm:a", model=VMState)
        assert (told.remaining, told.tags) == (5, ("zone:node-1",))


class TestWhatMemoryHas:
    """It is found by the element where that is all the key depends on; nobody must notice but by the time it takes."""

    def test_is_served_in_the_caller_s_order_and_counted(self, cache: Cache, source: Source) -> None:
        get = cached_many(VMState, key="vm:<vm_id>", each="vm_ids")(source.load)
        get(["a", "b", "c"])
        assert list(get(["c", "d", "a", "c"])) == ["c", "d", "a"]
        assert list(get(["d", "c", "b", "a"])) == ["d", "c", "b", "a"]
        assert source.calls == [["a", "b", "c"], ["d"]]
        stats = get.stats()
        assert (stats.hits["memory"], sum(stats.misses.values()), stats.calls) == (6, 4, 10)

    def test_is_gone_when_it_is_invalidated_or_replaced_in_whatever_way(self, cache: Cache, source: Source) -> None:
        get = cached_many(VMState, key="vm:<vm_id>", each="vm_ids")(source.load)
        ids = ["a", "b"]
        for invalidate in (
            lambda: cache.invalidate("vm:a"),
            lambda: cache.invalidate_tags("vm:a"),
            lambda: cache.invalidate_pattern("vm:a*"),
            lambda: get.invalidate(["a"]),
        ):
            get(ids), get(ids)
            source.calls.clear()
            invalidate()
            get(ids)
            assert source.calls == [["a"]]
        VMState.entries.using(cache).set(VMState(vm_id="a", node_id="node-9"))
        assert get(ids)["a"].node_id == "node-9"
        cache.clear()
        get(ids)
        assert source.calls == [["a"], ids]

    def test_expires(self, cache: Cache, source: Source, clock: ManualClock) -> None:
        get = cached_many(VMState, key="vm:<vm_id>", each="vm_ids")(source.load)
        get(["a"])
        clock.advance(20)
        get(["a", "b"])
        clock.advance(15)
        get(["a", "b"])
        assert source.calls == [["a"], ["b"], ["a"]]

    def test_is_remembered_to_be_absent_for_as_long(self, cache: Cache, source: Source, clock: ManualClock) -> None:
        get = cached_many(VMState, key="vm:<vm_id>", each="vm_ids", negative_ttl="5s")(source.load)
        for _ in range(3):
            assert list(get(["none-1", "a"])) == ["a"]
        assert source.calls == [["none-1", "a"]]
        clock.advance(6)
        get(["none-1", "a"])
        assert source.calls[1:] == [["none-1"]]

    def test_is_not_mixed_up_where_equal_elements_have_different_keys(self, cache: Cache) -> None:
        class Name(str):
            __slots__ = ()

            def __str__(self) -> str:
                return "other"

        calls: list[Any] = []

        @cached_many(int, key="n:<n>", each="ns")
        def get(ns: list[Any]) -> dict[Any, int]:
            calls.append(ns)
            return {n: len(calls) for n in ns}

        for element in ("1", 1, True, 1.0):
            get([element])
            get([element])
        assert calls == [["1"], [1], [True], [1.0]]
        get(["a"])
        assert get(["a"]) == {"a": 5}
        with pytest.raises(KeyValueError):
            get([Name("a")])

    def test_is_a_copy_for_each_caller_where_it_can_be_changed(self, cache: Cache) -> None:
        @cached_many(list[int], key="n:<n>", each="ns")
        def get(ns: list[str]) -> dict[str, list[int]]:
            return {n: [1] for n in ns}

        for _ in range(3):
            get(["a"])["a"].append(2)
        assert get(["a"]) == {"a": [1]}

    def test_is_not_asked_by_a_strong_read(self, cache: Cache, source: Source) -> None:
        get = cached_many(VMState, key="vm:<vm_id>", each="vm_ids", consistency="strong")(source.load)
        memory = cache.engine.memory
        assert memory is not None
        fronts = len(memory._fronts)
        get(["a"]), get(["a"])
        assert len(memory._fronts) == fronts

    def test_belongs_to_the_cache_that_is_in_use(self, cache: Cache, source: Source) -> None:
        get = cached_many(VMState, key="vm:<vm_id>", each="vm_ids")(source.load)
        get(["a"]), get(["a"])
        configure(Cache())
        get(["a"]), get(["a"])
        configure()
        get(["a"]), get(["a"])
        assert source.calls == [["a"]] * 3

    def test_raises_when_its_cache_is_closed(self, source: Source) -> None:
        cache = Cache()
        get = cache.cached_many(VMState, key="vm:<vm_id>", each="vm_ids")(source.load)
        get(["a"]), get(["a"])
        cache.close()
        with pytest.raises(CacheClosedError):
            get(["a"])

    def test_is_let_go_with_a_function_that_is_gone(self, cache: Cache, source: Source) -> None:
        memory = cache.engine.memory
        assert memory is not None
        fronts = len(memory._fronts)
        get: Any = cached_many(VMState, key="vm:<vm_id>", each="vm_ids")(source.load)
        get(["a"])
        assert len(memory._fronts) == fronts + 1
        gone = weakref.ref(get.cache_controller)
        del get
        gc.collect()
        assert gone() is None
        assert len(memory._fronts) == fronts

    async def test_is_served_to_coroutines_too(self, cache: Cache, source: Source) -> None:
        @cached_many(VMState, key="vm:<vm_id>", each="vm_ids")
        async def get(vm_ids: list[str]) -> dict[str, VMState]:
            return source.load(vm_ids)

        await get(["a", "b"])
        assert list(await get(["c", "b"])) == ["c", "b"]
        assert list(await get(["b", "c", "a"])) == ["b", "c", "a"]
        assert source.calls == [["a", "b"], ["c"]]
        assert get.stats().hits["memory"] == 4


def test_of_two_threads_that_want_a_front_at_once_both_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    front, found = Front(), []

    class Late:
        """A lock during whose taking somebody else has been served."""

        def __enter__(self) -> None:
            monkeypatch.setattr(fronting, "_registering", contextlib.nullcontext())
            found.append(front.of(cache))

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(fronting, "_registering", Late())
    with Cache() as cache:
        found.append(front.of(cache))
        assert found[0] is found[1] is front.of(cache)


def greeter(greeting: str, cache: Cache, name: str | None = None) -> Any:
    @cached_many(str, key="greeting:<who>", each="people", name=name, cache=cache)
    def greet(people: list[str]) -> dict[str, str]:
        return {who: f"{greeting} {who}" for who in people}

    return greet


def test_functions_of_one_factory_that_load_different_values_are_refused(cache: Cache) -> None:
    hello, bye = greeter("hello", cache), greeter("bye", cache)
    assert hello(["ann"]) == {"ann": "hello ann"}
    with pytest.raises(DeclarationError, match=r"two different functions are called .*greet.*name="):
        bye(["ann"])
    assert greeter("bye", cache, "bye")(["ann"]) == {"ann": "bye ann"}


def test_functions_of_one_factory_that_load_the_same_values_share_them(cache: Cache) -> None:
    one, other = greeter("hello", cache), greeter("hello", cache)
    assert one(["ann"]) == other(["ann"]) == {"ann": "hello ann"}
    assert cache.stats().loads == 1


def test_further_keyword_arguments_are_part_of_the_key_in_any_order(cache: Cache) -> None:
    calls = []

    @cached_many(str, key="page:<page>:<options>", each="pages", cache=cache)
    def render(pages: list[str], **options: str) -> dict[str, str]:
        calls.append(pages)
        return {page: f"{page} {sorted(options.items())}" for page in pages}

    assert render(["a"], tone="dark", size="big") == render(["a"], size="big", tone="dark")
    assert render(["a"], tone="light") == {"a": "a [('tone', 'light')]"}
    assert calls == [["a"], ["a"]]


def test_a_batch_method_may_stand_in_a_class_that_takes_nothing_but_fields_and_functions(cache: Cache) -> None:
    class Prices(BaseModel):
        currency: str

        @cached_many(str, key="price:<self.currency>:<sku>", each="skus", cache=cache)
        def of(self, skus: list[str]) -> dict[str, str]:
            return {sku: f"{len(sku)} {self.currency}" for sku in skus}

    prices = Prices(currency="EUR")
    assert prices.of(["a", "bb"]) == prices.of.peek(["a", "bb"]) == {"a": "1 EUR", "bb": "2 EUR"}
    assert [inspect.isfunction(Prices.of), list(inspect.signature(prices.of).parameters)] == [True, ["skus"]]

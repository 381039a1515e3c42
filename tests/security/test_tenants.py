"""One tenant never reads what belongs to another: a namespace each, every argument in the key, a schema that fits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from security.witness import Directory, Server, Store, Witness, opened

from novacron_cache import Cache, CacheModel, CacheScopeWarning, SettingsError, TemplateError, cached
from novacron_cache.events import Miss

pytestmark = pytest.mark.servers


@pytest.fixture(params=["disk", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = Directory(tmp_path / "cache") if request.param == "disk" else None
    one = made or Server(request.getfixturevalue("valkey_server"))
    yield one
    one.close()


def test_two_namespaces_of_one_server_or_directory_share_nothing(store: Store) -> None:
    names = ["shop", "shop2", "sho", "Shop", "shop.v", "shop-v", "s"]
    for name in names:
        with opened(store, namespace=name) as cache:
            cache.set("k", name, tags=["all"])
    with opened(store, namespace="shop2") as cache:
        cache.invalidate_tags("all")
        cache.clear(purge=True)
    for name in names:
        with opened(store, namespace=name) as cache:
            assert cache.get("k") == (None if name == "shop2" else name)


@pytest.mark.parametrize("namespace", ["a:b", "a*", "", "a b", "a/b", "é", "a" * 65, "a\n", "{a}"])
def test_a_namespace_cannot_reach_into_anothers_keys(store: Store, namespace: str) -> None:
    with pytest.raises(SettingsError, match="expected 1 to 64 letters, digits"):
        Cache.connect(**{**_where(store), "namespace": namespace})


def test_a_shared_tier_without_a_namespace_is_refused(store: Store) -> None:
    with pytest.raises(SettingsError, match="two applications could read each other's entries"):
        Cache.connect(**_where(store))


def _where(store: Store) -> dict[str, Any]:
    settings = store.settings()
    return {"disk": settings["disk"]["path"]} if "disk" in settings else {"url": settings["redis"]["url"]}


def test_an_argument_that_the_key_leaves_out_has_to_be_left_out_on_purpose() -> None:
    with pytest.raises(TemplateError, match=r"parameter `tenant` of .* is not in it; add `<tenant>` or ignore="):

        @cached(str, key="home:<user>")
        def home(user: str, tenant: str) -> str:
            return f"{user} of {tenant}"


def test_two_objects_whose_methods_would_share_entries_are_warned_of() -> None:
    with Cache() as cache:

        class Database:
            def __init__(self, tenant: str) -> None:
                self.tenant = tenant

            @cached(str, key="home:<user>", cache=cache)
            def home(self, user: str) -> str:
                return f"{user} of {self.tenant}"

        assert Database("one").home("eve") == "eve of one"
        with pytest.warns(CacheScopeWarning):
            Database("two").home("eve")


def test_a_value_of_a_model_that_has_changed_is_a_miss(store: Store) -> None:
    def version(annotations: dict[str, Any]) -> Any:
        body = {"__annotations__": {"name": str, **annotations}, "__module__": __name__, "__qualname__": "Account"}
        kind: Any = type(CacheModel)
        return kind("Account", (CacheModel,), body, key="account:<name>", name="Account")

    old, new = version({"admin": bool}), version({"admin": str})
    with opened(store) as cache:
        load = cached(old, cache=cache, name="account", key="account:<name>")(lambda name: old(name=name, admin=True))
        load("eve")
    with opened(store) as cache:
        witness = Witness(cache)
        again = cached(new, cache=cache, name="account", key="account:<name>")(lambda name: new(name=name, admin="no"))
        assert again("eve").admin == "no"
        assert [event.reason for event in witness.of(Miss)] == ["schema"]
        assert cache.observer.figures().total("misses", reason="schema") == 1

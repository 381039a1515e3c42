"""What somebody wrote who may not: a payload opens under its own key and namespace, by a known signature, or never.

Each threat is planted in a real server and in a real directory, behind the back of a cache that has just started.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from security.witness import NEW_KEY, OLD_KEY, Directory, Server, Store, Witness, opened

from novacron_cache import CacheModel, cached
from novacron_cache.codecs import Pipeline

STORED = ":~kk"
SIGNED: dict[str, Any] = {"signing_keys": [NEW_KEY]}
UNSIGNED: dict[str, Any] = {}

pytestmark = pytest.mark.servers


@pytest.fixture(params=["disk", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made = Directory(tmp_path / "cache") if request.param == "disk" else None
    one = made or Server(request.getfixturevalue("valkey_server"))
    yield one
    one.close()


def filled(store: Store, key: str = "k", value: Any = "value", *, namespace: str = "shop", **settings: Any) -> bytes:
    """Store a value as the application does, and return its payload."""
    with opened(store, namespace=namespace, **settings) as cache:
        cache.set(key, value)
    return store.read(f":~k{key}", namespace)


def refused(store: Store, reason: str, *, alert: bool = False, **settings: Any) -> None:
    """Assert that the value of the key is not served, and that the refusal is seen."""
    with opened(store, **settings) as cache:
        witness = Witness(cache)
        assert cache.get_or_load("k", lambda: "loaded") == "loaded"
        witness.refused(store.name, reason, alert=alert)
    with opened(store, **settings) as cache:  # and what was planted has been replaced
        assert cache.get("k") == "loaded"


def flipped(payload: bytes, position: int) -> bytes:
    return payload[:position] + bytes([payload[position] ^ 1]) + payload[position + 1 :]


@pytest.mark.parametrize(("settings", "reason"), [(UNSIGNED, "corrupt"), (SIGNED, "signature")])
@pytest.mark.parametrize("where", ["expiry", "an id", "the body", "the proof"])
def test_a_value_with_a_flipped_bit_is_a_miss(store: Store, settings: dict[str, Any], reason: str, where: str) -> None:
    payload = filled(store, **settings)
    position = {"expiry": 64, "an id": 20, "the body": payload.index(b"value"), "the proof": -1}[where]
    store.write(STORED, flipped(payload, position % len(payload)))
    refused(store, reason, alert=reason == "signature", **settings)


def test_a_value_that_was_changed_with_its_checksum_is_caught_by_a_signature_alone(store: Store) -> None:
    """A CRC finds damage and no forger; that is what signing keys are for, and why `doctor` speaks of them."""
    payload = filled(store)
    content = payload[:-4].replace(b"value", b"VALUE")
    prefix = b"".join(struct.pack(">I", len(text)) + text for text in (b"shop", STORED.encode()))
    forged = content + struct.pack("<I", zlib.crc32(content, zlib.crc32(prefix)))
    store.write(STORED, forged)
    with opened(store) as cache:
        assert cache.get("k") == "VALUE"
    filled(store, **SIGNED)
    store.write(STORED, forged)
    refused(store, "signature", alert=True, **SIGNED)


@pytest.mark.parametrize(("settings", "reason"), [(UNSIGNED, "corrupt"), (SIGNED, "signature")])
def test_a_value_replayed_under_another_key_is_a_miss(store: Store, settings: dict[str, Any], reason: str) -> None:
    filled(store, **settings)
    store.write(STORED, filled(store, "other", "another's", **settings))
    refused(store, reason, alert=reason == "signature", **settings)


@pytest.mark.parametrize(("settings", "reason"), [(UNSIGNED, "corrupt"), (SIGNED, "signature")])
def test_a_value_replayed_in_another_namespace_is_a_miss(store: Store, settings: dict[str, Any], reason: str) -> None:
    filled(store, **settings)
    store.write(STORED, filled(store, value="another tenant's", namespace="tenant-2", **settings))
    refused(store, reason, alert=reason == "signature", **settings)


def test_a_value_of_before_an_invalidation_replayed_after_it_is_a_miss(store: Store) -> None:
    old = filled(store, value="before", **SIGNED)
    with opened(store, **SIGNED) as cache:
        cache.invalidate("k")
    store.write(STORED, old)
    with opened(store, **SIGNED) as cache:
        witness = Witness(cache)
        assert cache.get_or_load("k", lambda: "after") == "after"
        assert [event.reason for event in witness.events if event.kind == "miss"] == ["invalidated"]


def test_a_value_of_another_model_replayed_under_a_models_key_is_a_miss(store: Store) -> None:
    class Account(CacheModel, key="account:<name>", name="Account"):
        name: str
        admin: bool

    class Profile(CacheModel, key="profile:<name>", name="Profile"):
        name: str
        admin: bool

    def filled_with(model: type[Any], admin: bool) -> bytes:
        with opened(store, **SIGNED) as cache:
            load = cached(model, cache=cache, name=model.__name__)(lambda name: model(name=name, admin=admin))
            load("eve")
        return store.read(f"{model.__name__}:{model.__name__.lower()}:<eve>")

    filled_with(Account, False)
    store.write("Account:account:<eve>", filled_with(Profile, True))
    with opened(store, **SIGNED) as cache:
        witness = Witness(cache)
        account = cached(Account, cache=cache, name="Account")(lambda name: Account(name=name, admin=False))
        assert account("eve").admin is False
        witness.refused(store.name, "signature", alert=True)


def test_what_the_old_key_signed_is_read_until_the_key_is_taken_away(store: Store) -> None:
    filled(store, signing_keys=[OLD_KEY])
    with opened(store, signing_keys=[NEW_KEY, OLD_KEY]) as cache:
        assert cache.get("k") == "value"
    refused(store, "signature", alert=True, **SIGNED)


def test_while_keys_are_rotated_no_process_refuses_what_another_signs(store: Store) -> None:
    stages = [[OLD_KEY], [OLD_KEY, NEW_KEY], [NEW_KEY, OLD_KEY], [NEW_KEY]]
    for before, after in pairwise(stages):
        for writer, reader in ((before, after), (after, before)):
            filled(store, value=f"{before} {after}", signing_keys=writer)
            with opened(store, signing_keys=reader) as cache:
                assert cache.get("k") == f"{before} {after}"


@pytest.mark.parametrize("strip", [False, True], ids=["never signed", "its signature cut off"])
def test_an_unsigned_value_is_a_miss_where_there_are_keys(store: Store, strip: bool) -> None:
    payload = filled(store, **(SIGNED if strip else UNSIGNED))
    if strip:
        content = payload[:3] + bytes([payload[3] & ~2]) + payload[4:-36]
        prefix = b"".join(struct.pack(">I", len(text)) + text for text in (b"shop", STORED.encode()))
        payload = content + struct.pack("<I", zlib.crc32(content, zlib.crc32(prefix)))
        with opened(store) as cache:
            store.write(STORED, payload)
            assert cache.get("k") == "value"  # it is a good payload for those who ask for no signature
    store.write(STORED, payload)
    refused(store, "signature", alert=True, **SIGNED)


def test_a_signed_value_is_a_miss_where_there_is_no_key(store: Store) -> None:
    filled(store, **SIGNED)
    refused(store, "signature", alert=True)


def test_a_payload_of_anything_else_is_a_miss(store: Store) -> None:
    filled(store)
    store.write(STORED, b'{"what": "another program wrote"}')
    refused(store, "foreign")


def test_the_algorithm_is_not_the_payloads_to_choose() -> None:
    """Every flag that is not one of three is refused, and none of them names an algorithm."""
    pipeline = Pipeline(namespace="shop", signing_keys=[NEW_KEY])
    assert pipeline.signed
    assert all(len(keyed.digest()) == 32 and keyed.name == "hmac-sha256" for keyed in pipeline._keys.values())


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import hmac

    compared: list[tuple[int, int]] = []

    def counting(one: Any, other: Any) -> bool:
        compared.append((len(one), len(other)))
        return bool(one == other)

    store = Directory(tmp_path / "cache")
    filled(store, **SIGNED)
    monkeypatch.setattr(hmac, "compare_digest", counting)
    with opened(store, **SIGNED) as cache:
        assert cache.get("k") == "value"
    assert compared == [(32, 32)]

"""A model's dictionary where it cannot be had, and the tiers that keep it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from unit.dictionaries.world import KEY, OTHER, WITH, WITHOUT, Machine, World, codec, machine

from novacron_cache import CacheModel, cached
from novacron_cache.codecs import Header, Pipeline
from novacron_cache.codecs.dictionaries import FINGERPRINT, digest_of
from novacron_cache.effects import Fetch
from novacron_cache.errors import TierUnavailableError
from novacron_cache.flows.dictionaries import BRIEFLY, INTERVAL, PAUSE
from novacron_cache.keys import dictionary_key, newest_key


class TestWhatCannotBeHad:
    def test_a_value_whose_dictionary_is_gone_is_a_miss_and_no_error(self, world: World) -> None:
        ours, theirs = world.filled(), world.cache(on=False)
        key = dictionary_key(bytes.fromhex(ours.train_dictionary(Machine).version))
        ours.set("machine:m-1", machine(1, "lost"))
        world.remove(key)
        loads: list[str] = []

        @cached(Machine, cache=theirs)
        def load(machine_id: str) -> Machine:
            loads.append(machine_id)
            return machine(1, "loaded")

        assert load.explain("m-1").reason == "dictionary"
        assert load("m-1") == machine(1, "loaded")
        assert loads == ["m-1"]
        assert theirs.stats().misses == {"dictionary": 1}
        assert {(event.tier, event.reason) for event in world.corrupt} == {("disk", "dictionary")}

    def test_nobody_looks_again_for_a_moment(self, world: World) -> None:
        ours, theirs = world.filled(), world.cache(on=False)
        key = dictionary_key(bytes.fromhex(ours.train_dictionary(Machine).version))
        ours.set_many({f"machine:m-{number}": machine(number) for number in range(10)})
        kept = world.payload(key)
        assert kept is not None
        world.remove(key)
        world.fetched()
        for number in range(10):
            assert theirs.get(f"machine:m-{number}", model=Machine) is None
        assert world.fetched() == [key]
        world.put(key, kept)
        world.clock.advance(PAUSE)
        assert theirs.get("machine:m-1", model=Machine) == machine(1)

    def test_a_tier_that_does_not_answer_is_asked_again_soon(self, world: World) -> None:
        ours, theirs = world.filled(), world.cache(on=False)
        key = dictionary_key(bytes.fromhex(ours.train_dictionary(Machine).version))
        ours.set("machine:m-1", machine(1))
        tier = theirs.engine.shared[0]
        perform = tier.perform

        def failing(operation: Any) -> Any:
            if isinstance(operation, Fetch) and key in operation.keys:
                raise TierUnavailableError("not now", tier="disk")
            return perform(operation)

        tier.perform = failing  # type: ignore[method-assign]  # fails for dictionaries alone
        assert theirs.get("machine:m-1", model=Machine) is None
        tier.perform = perform  # type: ignore[method-assign]  # works again
        assert theirs.get("machine:m-1", model=Machine) is None
        world.clock.advance(BRIEFLY)
        assert theirs.get("machine:m-1", model=Machine) == machine(1)

    def test_a_tampered_dictionary_is_refused_and_put_right_by_who_has_it(self, world: World) -> None:
        ours, theirs = world.filled(), world.cache(on=False)
        key = dictionary_key(bytes.fromhex(ours.train_dictionary(Machine).version))
        ours.set("machine:m-1", machine(1))
        header = Header(FINGERPRINT, 0.0, 4e9, 4e9)
        world.put(key, ours.engine.pipeline.seal(key, header, OTHER.content))
        assert theirs.get("machine:m-1", model=Machine) is None
        assert (key, "corrupt") in {(event.key, event.reason) for event in world.corrupt}
        assert theirs.engine.pipeline.dictionaries.known(bytes.fromhex(key[3:])) is None

    @pytest.mark.parametrize("keys", [(), (b"another-key-of-16",)], ids=["unsigned", "by another key"])
    def test_with_keys_a_dictionary_that_is_not_signed_by_one_is_refused(
        self, world: World, keys: Sequence[bytes]
    ) -> None:
        ours, theirs = world.filled(signing_keys=[KEY]), world.cache(on=False, signing_keys=[KEY])
        key = dictionary_key(bytes.fromhex(ours.train_dictionary(Machine).version))
        ours.set("machine:m-1", machine(1))
        content = ours.engine.pipeline.dictionaries.known(bytes.fromhex(key[3:]))
        assert content is not None
        forged = Pipeline(namespace="shop", signing_keys=keys)
        world.put(key, forged.seal(key, Header(FINGERPRINT, 0.0, 4e9, 4e9), content.content))
        assert theirs.get("machine:m-1", model=Machine) is None
        assert (key, "signature") in {(event.key, event.reason) for event in world.corrupt}

    def test_with_keys_nobody_else_says_what_is_written_with(self, world: World) -> None:
        ours = world.filled(signing_keys=[KEY])
        forged = Pipeline(namespace="shop")
        header = Header(FINGERPRINT, 0.0, 4e9, 4e9)
        for key, text in ((newest_key("Machine"), OTHER.digest), (dictionary_key(OTHER.digest), OTHER.content)):
            world.put(key, forged.seal(key, header, text))
        world.clock.advance(INTERVAL)
        ours.set("machine:m-1", machine(1))
        assert codec(ours, 1) == "json, signed"

    def test_a_dictionary_survives_a_change_of_keys(self, world: World) -> None:
        new = b"the-key-of-this-year"
        before = world.filled(signing_keys=[KEY])
        version = before.train_dictionary(Machine).version
        between = world.cache(signing_keys=[new, KEY])
        between.set("machine:m-1", machine(1))  # takes it into use
        world.clock.advance(INTERVAL)
        between.set("machine:m-1", machine(1))  # signs it anew
        after = world.cache(signing_keys=[new])
        assert after.get("machine:m-1", model=Machine) == machine(1)
        after.set("machine:m-1", machine(1, "new"))
        assert codec(after, 1) == f"{WITH}, signed"
        assert after.engine.pipeline.dictionaries.known(bytes.fromhex(version)) is not None

    @pytest.mark.parametrize("name", ["never there", "no dictionary", "too short"])
    def test_a_name_that_leads_nowhere_leaves_values_as_they_would_be(self, world: World, name: str) -> None:
        ours = world.filled()
        seal, header = ours.engine.pipeline.seal, Header(FINGERPRINT, 0.0, 4e9, 4e9)
        content = b"no dictionary at all"
        digest = {"too short": b"xyz"}.get(name, digest_of(content))
        if name == "no dictionary":
            world.put(dictionary_key(digest), seal(dictionary_key(digest), header, content))
        world.put(newest_key("Machine"), seal(newest_key("Machine"), header, digest))
        world.clock.advance(INTERVAL)
        ours.set("machine:m-1", machine(1))
        assert codec(ours, 1) == WITHOUT

    def test_a_payload_of_a_dictionary_is_no_value(self, world: World) -> None:
        ours = world.filled()
        ours.train_dictionary(Machine)
        value = world.payload("Machine:machine:<m-1>")
        assert value is not None
        world.put(newest_key("Machine"), value)
        world.clock.advance(INTERVAL)
        ours.set("machine:m-1", machine(1))
        assert codec(ours, 1) == WITHOUT


class TestFartherTiers:
    def test_what_is_kept_farther_away_can_be_read_without_what_is_nearer(self, world: World) -> None:
        ours, theirs = world.filled(archive=True), world.cache(archive=True)
        key = dictionary_key(bytes.fromhex(ours.train_dictionary(Machine).version))
        ours.set("machine:m-1", machine(1))
        assert theirs.get("machine:m-1", model=Machine) == machine(1)
        assert key in world.shelf.payloads
        world.remove(key, "Machine:machine:<m-1>")
        late = world.cache(archive=True)
        assert late.get("machine:m-1", model=Machine) == machine(1)
        assert late.stats().hits == {"archive": 1}
        assert world.payload(key) is not None  # the value went back there, so what it needs did too

    def test_it_is_kept_only_where_the_models_values_may_be(self, world: World) -> None:
        class Private(CacheModel, key="private:<name>", tiers={"memory", "disk"}):
            name: str
            text: str = "something that does not belong into the archive"
            more: str = "and more of it"

        ours, theirs = world.cache(archive=True), world.cache(archive=True)
        items = {f"private:{number}": Private(name=str(number)) for number in range(150)}
        ours.set_many(items)
        ours.train_dictionary(Private)
        ours.set_many(items)
        assert theirs.get("private:1", model=Private) == items["private:1"]
        assert world.corrupt == []
        assert world.shelf.payloads == {}

    def test_a_look_at_a_key_copies_nothing(self, world: World) -> None:
        ours, theirs = world.filled(archive=True), world.cache(archive=True)
        ours.train_dictionary(Machine)
        ours.set("machine:m-1", machine(1))
        before = set(world.shelf.payloads)
        assert theirs.explain("machine:m-1", model=Machine).reason == "hit"
        assert set(world.shelf.payloads) == before

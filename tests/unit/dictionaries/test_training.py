"""A model's dictionary: when one is made, which one is written with, and what becomes of those before it."""

from __future__ import annotations

import asyncio
import random
import string
from typing import Any

import pytest
from conformance.parts import ArchiveTier
from unit.dictionaries.world import WITH, WITHOUT, Machine, World, codec, machine

from novacron_cache import Cache, CacheModel, CacheSettings, DeclarationError, DictionaryRefused, SettingsError, cached
from novacron_cache.flows.dictionaries import INTERVAL, LIFE
from novacron_cache.keys import dictionary_key, newest_key


class TestTraining:
    def test_values_get_smaller_and_every_process_reads_them(self, world: World) -> None:
        ours, theirs = world.filled(), world.cache()
        found = ours.train_dictionary(Machine)
        assert (found.name, found.replaces, found.stored) == ("Machine", None, True)
        assert (found.trained_on, found.measured_on) == (240, 60)
        assert found.after < found.before
        assert found.gain == pytest.approx(1 - found.after / found.before)
        assert codec(ours, 1) == WITHOUT  # what is there stays as it is
        ours.set("machine:m-1", machine(1, "new"))
        assert codec(ours, 1) == WITH
        assert theirs.get("machine:m-1", model=Machine) == machine(1, "new")
        assert theirs.stats().hits == {"disk": 1}
        assert world.corrupt == []

    def test_the_figures_are_those_of_whole_payloads(self, world: World) -> None:
        cache = world.filled()
        found = cache.train_dictionary(Machine)
        before = len(world.payload("Machine:machine:<m-1>") or b"")
        cache.set("machine:m-1", machine(1))
        after = len(world.payload("Machine:machine:<m-1>") or b"")
        assert found.before == pytest.approx(before, abs=6)
        assert found.after == pytest.approx(after, abs=12)

    def test_it_can_be_measured_only(self, world: World) -> None:
        cache = world.filled()
        found = cache.train_dictionary("Machine", store=False)
        assert (found.stored, found.gain > 0.1) == (False, True)
        assert world.payload(newest_key("Machine")) is None
        cache.set("machine:m-1", machine(1))
        assert codec(cache, 1) == WITHOUT

    def test_too_few_values_are_refused(self, world: World) -> None:
        cache = world.filled(99)
        with pytest.raises(DictionaryRefused, match="99 values in the disk tier") as caught:
            cache.train_dictionary(Machine)
        assert (caught.value.name, caught.value.samples, caught.value.gain) == ("Machine", 99, None)

    def test_values_with_nothing_in_common_are_refused(self, world: World) -> None:
        cache = world.cache()
        chance = random.Random(5)  # noqa: S311 - the same texts each time
        texts = ("".join(chance.choices(string.printable, k=60)) for _ in range(200))

        @cached(str, key="noise:<number>", name="noise", cache=cache)
        def noise(number: int) -> str:
            return next(texts)

        for number in range(200):
            noise(number)
        with pytest.raises(DictionaryRefused, match="save 10%") as caught:
            cache.train_dictionary(noise)
        assert caught.value.gain is not None
        assert caught.value.gain < 0.1
        assert world.payload(newest_key("noise")) is None

    def test_values_of_a_byte_or_two_are_refused(self, world: World) -> None:
        cache = world.cache()

        @cached(int, key="one:<number>", name="ones", cache=cache)
        def one(number: int) -> int:
            return 1

        for number in range(120):
            one(number)
        with pytest.raises(DictionaryRefused):
            cache.train_dictionary("ones")

    def test_only_values_of_the_name_are_learnt_from(self, world: World) -> None:
        cache = world.filled(150)

        class MachineState(CacheModel, key="state:<machine_id>"):
            machine_id: str

        cache.set_many({f"state:{number}": MachineState(machine_id=str(number)) for number in range(150)})
        cache.set_many({f"plain:{number}": number for number in range(50)})
        found = cache.train_dictionary(Machine)
        assert found.trained_on + found.measured_on == 150

    def test_no_more_values_are_taken_than_asked_for(self, world: World) -> None:
        found = world.filled(300).train_dictionary(Machine, samples=120)
        assert found.trained_on + found.measured_on == 120

    def test_it_is_no_longer_than_asked_for(self, world: World) -> None:
        found = world.filled().train_dictionary(Machine, size=2048)
        assert found.size <= 2048

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [({"samples": 99}, "samples=99"), ({"size": 100}, "size=100"), ({"size": 1 << 20}, "size=1048576")],
    )
    def test_wrong_arguments_are_refused(self, world: World, arguments: Any, message: str) -> None:
        with pytest.raises(DeclarationError, match=message):
            world.cache().train_dictionary(Machine, **arguments)

    def test_plain_keys_have_none(self, world: World) -> None:
        with pytest.raises(DeclarationError, match="plain keys"):
            world.cache().train_dictionary("")

    def test_process_memory_alone_has_nothing_to_learn_from(self) -> None:
        with Cache() as cache, pytest.raises(DeclarationError, match="no shared tier"):
            cache.train_dictionary(Machine)

    def test_a_tier_that_cannot_tell_what_it_keeps_is_refused(self, world: World) -> None:
        tier = ArchiveTier(world.shelf, clock=world.clock)
        with (
            Cache(CacheSettings(namespace="shop"), tiers=[tier]) as cache,
            pytest.raises(DeclarationError, match="cannot tell what it keeps"),
        ):
            cache.train_dictionary(Machine)

    def test_dictionaries_belong_to_zstd(self) -> None:
        with pytest.raises(SettingsError, match="compression_dictionaries: only 'zstd' has dictionaries"):
            CacheSettings(compression="zlib", compression_dictionaries=True)

    async def test_it_is_trained_and_read_in_a_loop(self, world: World) -> None:
        ours, theirs = world.filled(), world.cache()
        await ours.atrain_dictionary(Machine)
        await ours.aset("machine:m-2", machine(2, "new"))
        assert codec(ours, 2) == WITH
        read = await asyncio.gather(*(theirs.aget("machine:m-2", model=Machine) for _ in range(5)))
        assert read == [machine(2, "new")] * 5
        assert world.corrupt == []

    def test_a_batch_is_written_and_read_with_it(self, world: World) -> None:
        ours, theirs = world.filled(), world.cache()
        ours.train_dictionary(Machine)
        items = {f"machine:m-{number}": machine(number, "new") for number in range(20)}
        ours.set_many(items)
        world.fetched()
        assert theirs.get_many(items, model=Machine) == items
        assert len(world.fetched()) == 1

    def test_nothing_is_written_with_it_while_the_setting_is_off(self, world: World) -> None:
        off = world.filled(on=False)
        off.train_dictionary(Machine)
        off.set("machine:m-1", machine(1, "new"))
        assert codec(off, 1) == WITHOUT
        assert world.fetched() == [newest_key("Machine")] * 2  # those of the training itself

    def test_a_process_with_the_setting_off_reads_what_others_write(self, world: World) -> None:
        ours, off = world.filled(), world.cache(on=False, compression="none")
        ours.train_dictionary(Machine)
        ours.set("machine:m-1", machine(1, "new"))
        assert off.get("machine:m-1", model=Machine) == machine(1, "new")


class TestVersions:
    def test_a_process_takes_a_new_one_into_use_after_a_while(self, world: World) -> None:
        ours, theirs = world.filled(), world.cache()
        theirs.set("machine:m-1", machine(1, "a"))
        ours.train_dictionary(Machine)
        theirs.set("machine:m-1", machine(1, "b"))
        assert codec(ours, 1) == WITHOUT
        world.clock.advance(INTERVAL)
        theirs.set("machine:m-1", machine(1, "c"))
        assert codec(ours, 1) == WITH

    def test_looking_for_a_new_one_takes_one_trip_in_a_while_and_reading_none(self, world: World) -> None:
        ours = world.filled()
        assert world.fetched() == [newest_key("Machine")]
        version = ours.train_dictionary(Machine).version
        world.fetched()
        for number in range(20):
            ours.set(f"machine:m-{number}", machine(number, "new"))
        assert world.fetched() == []
        theirs = world.cache()
        for number in range(20):
            assert theirs.get(f"machine:m-{number}", model=Machine) is not None
        assert world.fetched() == [dictionary_key(bytes.fromhex(version))]
        world.clock.advance(INTERVAL)
        for number in range(20):
            ours.set(f"machine:m-{number}", machine(number, "newer"))
        assert world.fetched() == [newest_key("Machine"), dictionary_key(bytes.fromhex(version))]

    def test_training_again_leaves_what_was_written_before_readable(self, world: World) -> None:
        ours = world.filled()
        first = ours.train_dictionary(Machine)
        ours.set_many({f"machine:m-{number}": machine(number) for number in range(200)})
        second = ours.train_dictionary(Machine, size=4096)
        assert second.replaces == first.version != second.version
        assert second.trained_on + second.measured_on == 300  # also of those that are compressed already
        theirs = world.cache()
        assert theirs.get("machine:m-1", model=Machine) == machine(1)
        ours.set("machine:m-1", machine(1, "new"))
        assert theirs.get("machine:m-2", model=Machine) == machine(2)
        assert world.corrupt == []

    def test_the_one_before_ends_when_nothing_can_need_it_any_more(self, world: World) -> None:
        ours = world.filled()
        first = ours.train_dictionary(Machine)
        second = ours.train_dictionary(Machine, size=4096)
        longest = max(cap for tier, cap in ours.engine.caps.items() if tier != "memory")
        world.clock.advance(INTERVAL + longest)
        assert world.payload(dictionary_key(bytes.fromhex(first.version))) is not None
        world.clock.advance(INTERVAL + longest)
        assert world.payload(dictionary_key(bytes.fromhex(first.version))) is None
        assert world.payload(dictionary_key(bytes.fromhex(second.version))) is not None

    def test_one_that_is_in_use_is_kept_alive(self, world: World) -> None:
        ours = world.filled()
        version = ours.train_dictionary(Machine).version
        for _ in range(5):
            world.clock.advance(0.6 * LIFE)
            ours.set("machine:m-1", machine(1))
            assert codec(ours, 1) == WITH
        assert world.payload(dictionary_key(bytes.fromhex(version))) is not None

    def test_one_that_nobody_uses_ends(self, world: World) -> None:
        ours = world.filled()
        version = ours.train_dictionary(Machine).version
        world.clock.advance(LIFE)
        assert world.payload(newest_key("Machine")) is None
        assert world.payload(dictionary_key(bytes.fromhex(version))) is None
        ours.set("machine:m-1", machine(1))
        assert codec(ours, 1) == WITHOUT

    def test_one_that_was_evicted_is_put_back_by_who_writes_with_it(self, world: World) -> None:
        ours = world.filled()
        key = dictionary_key(bytes.fromhex(ours.train_dictionary(Machine).version))
        world.remove(key)
        ours.set("machine:m-1", machine(1, "new"))
        assert world.payload(key) is None
        world.clock.advance(INTERVAL)
        ours.set("machine:m-1", machine(1, "newer"))
        assert world.payload(key) is not None
        assert world.cache().get("machine:m-1", model=Machine) == machine(1, "newer")

    def test_after_a_purge_nothing_is_written_with_it(self, world: World) -> None:
        ours, theirs = world.filled(), world.cache()
        ours.train_dictionary(Machine)
        theirs.set("machine:m-2", machine(2))
        assert codec(theirs, 2) == WITH
        ours.clear(purge=True)
        ours.set("machine:m-1", machine(1))
        assert codec(ours, 1) == WITHOUT
        world.clock.advance(INTERVAL)
        theirs.set("machine:m-2", machine(2))
        assert codec(theirs, 2) == WITHOUT
        assert world.payload(newest_key("Machine")) is None

"""Dictionaries: bodies that need one, which one is written with, who keeps it, and what becomes of it."""

from __future__ import annotations

import asyncio
import random
import string
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard
from conformance.parts import ArchiveTier, Shelf

from novacron_cache import (
    Cache,
    CacheModel,
    CacheSettings,
    DeclarationError,
    DictionaryRefused,
    SettingsError,
    cached,
)
from novacron_cache.codecs import MAX_DICTIONARY_BYTES, Dictionaries, Dictionary, Header, Pipeline, written_as
from novacron_cache.codecs.dictionaries import DIGEST_BYTES, FINGERPRINT, digest_of
from novacron_cache.effects import Delete, Fetch, Item, Store
from novacron_cache.errors import DecodeError, DictionaryUnknown, TierUnavailableError
from novacron_cache.events import Corrupt
from novacron_cache.flows.dictionaries import BRIEFLY, INTERVAL, LIFE, PAUSE
from novacron_cache.keys import dictionary_key, newest_key
from novacron_cache.testing import ManualClock

KEY = bytes(range(32))
HEADER = Header(b"\1schema1", 1e9, 2e9, 2e9)
STATES = ("running", "stopped", "paused", "migrating")


def body(number: int) -> bytes:
    state, node = STATES[number % 4], number * 7 % 40
    return (
        f'{{"vm_id":"vm-{number:05d}","node_id":"node-{node}","status":"{state}","image":"debian-12-generic-amd64",'
        f'"memory_mb":{1024 << number % 4},"owner":"tenant-{number % 20}"}}'
    ).encode()


def trained(first: int = 0, level: int = 3) -> Dictionary:
    content = zstandard.train_dictionary(8192, [body(number) for number in range(first, first + 300)]).as_bytes()
    return Dictionary(content, level)


DICTIONARY = trained()
OTHER = trained(first=20_000)


def pipeline(*known: Dictionary, **options: Any) -> Pipeline:
    made = Pipeline(namespace="shop", **options)
    for dictionary in known:
        made.dictionaries.learn(dictionary.digest, dictionary.content)
    return made


class TestBodies:
    def test_a_short_body_takes_a_fraction_of_what_it_takes_alone(self) -> None:
        with_it = pipeline(DICTIONARY, compression="zstd", min_bytes=0)
        alone = len(with_it.seal("k", HEADER, body(500)))
        payload = with_it.seal("k", HEADER, body(500), DICTIONARY)
        overhead = len(with_it.seal("k", HEADER, b""))
        assert (len(payload) - overhead) * 2 < alone - overhead
        assert with_it.open("k", payload)[1] == body(500)
        assert written_as(payload).endswith("zstd+dictionary")

    def test_it_is_used_below_the_length_from_which_others_are_compressed(self) -> None:
        payload = pipeline(compression="zstd", min_bytes=1024).seal("k", HEADER, body(1), DICTIONARY)
        assert "dictionary" in written_as(payload)

    @pytest.mark.parametrize("plain", [b"", b'{"status":"running"}', bytes(range(256))])
    def test_what_would_not_get_smaller_stays_as_it_is(self, plain: bytes) -> None:
        payload = pipeline(compression="zstd").seal("k", HEADER, plain, DICTIONARY)
        assert "zstd" not in written_as(payload)
        assert pipeline().open("k", payload)[1] == plain

    def test_it_is_read_whatever_is_set_here(self) -> None:
        payload = pipeline(compression="zstd").seal("k", HEADER, body(1), DICTIONARY)
        for options in ({}, {"compression": "zlib"}, {"compression": "lz4"}):
            assert pipeline(DICTIONARY, **options).open("k", payload)[1] == body(1)

    @pytest.mark.parametrize("level", [-5, 1, 6, 19])
    def test_every_level_writes_what_every_other_reads(self, level: int) -> None:
        frame = Dictionary(DICTIONARY.content, level).compress(body(7))
        assert DICTIONARY.expand(frame, 1000) == body(7)

    def test_a_body_whose_dictionary_is_not_known_says_which_it_is(self) -> None:
        payload = pipeline().seal("k", HEADER, body(1), DICTIONARY)
        with pytest.raises(DictionaryUnknown) as caught:
            pipeline(OTHER).open("k", payload)
        assert (caught.value.digest, caught.value.reason) == (DICTIONARY.digest, "dictionary")
        assert pipeline(OTHER).skim(HEADER.fingerprint)("k", payload) is None

    def test_a_body_expands_to_no_more_than_the_limit(self) -> None:
        payload = pipeline().seal("k", HEADER, b"x" * 10_000, DICTIONARY)
        assert len(payload) < 1000
        with pytest.raises(DecodeError) as caught:
            pipeline(DICTIONARY, max_decoded_bytes=9_999).open("k", payload)
        assert caught.value.reason == "too_large"
        assert pipeline(DICTIONARY, max_decoded_bytes=10_000).open("k", payload)[1] == b"x" * 10_000

    def test_a_damaged_body_is_a_decode_error_and_nothing_else(self) -> None:
        known = Dictionaries()
        known.learn(DICTIONARY.digest, DICTIONARY.content)
        packed = known.pack(DICTIONARY, body(3))
        for damage in (packed[:5], packed[:DIGEST_BYTES], packed[:-1], packed + b"\0", packed[:9] + b"\xff" * 9):
            with pytest.raises(DecodeError):
                known.expand(damage, 1000)
        assert known.expand(packed, 1000) == body(3)

    def test_another_dictionary_under_the_name_is_refused_before_it_reads_anything(self) -> None:
        known = Dictionaries()
        with pytest.raises(DecodeError):
            known.learn(DICTIONARY.digest, OTHER.content)
        assert known.known(DICTIONARY.digest) is None

    def test_the_name_of_the_dictionary_is_signed_with_the_body(self) -> None:
        signing = pipeline(DICTIONARY, OTHER, signing_keys=[KEY])
        payload = signing.seal("k", HEADER, body(1), DICTIONARY)
        exchanged = payload.replace(DICTIONARY.digest, OTHER.digest)
        assert exchanged != payload
        with pytest.raises(DecodeError) as caught:
            signing.open("k", exchanged)
        assert caught.value.reason == "signature"

    def test_threads_share_a_dictionary(self) -> None:
        wrong: list[int] = []

        def work(first: int) -> None:
            wrong.extend(
                number
                for number in range(first, first + 500)
                if DICTIONARY.expand(DICTIONARY.compress(body(number)), 1000) != body(number)
            )

        threads = [threading.Thread(target=work, args=(1000 * number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


class TestContents:
    @pytest.mark.parametrize("content", [b"", b"abc" * 100, b"\x37\xa4\x30\xec" + b"\0" * 400])
    def test_what_is_no_dictionary_is_refused(self, content: bytes) -> None:
        with pytest.raises(DecodeError):
            Dictionary(content)

    def test_what_is_too_long_is_refused(self) -> None:
        with pytest.raises(DecodeError) as caught:
            Dictionary(DICTIONARY.content + bytes(MAX_DICTIONARY_BYTES))
        assert caught.value.reason == "too_large"

    def test_a_process_knows_a_bounded_number(self) -> None:
        known = Dictionaries()
        made = [Dictionary(DICTIONARY.content + bytes([number])) for number in range(140)]
        for one in made:
            known.learn(one.digest, one.content)
        assert [known.known(one.digest) is not None for one in made] == [False] * 12 + [True] * 128

    def test_it_remembers_a_bounded_number_that_it_does_not_have(self) -> None:
        known = Dictionaries()
        names = [number.to_bytes(DIGEST_BYTES, "big") for number in range(2000)]
        known.missed(names, until=10.0)
        assert known.wanted(names, now=9.0) == names[:976]
        assert known.wanted(names, now=10.0) == names

    def test_a_digest_depends_on_every_byte(self) -> None:
        assert len({digest_of(DICTIONARY.content[:-1] + bytes([last])) for last in range(256)}) == 256


# -- a model's dictionary ----------------------------------------------------------------------------------------------


class Machine(CacheModel, key="machine:<machine_id>", ttl="10m", tags=["node:<node>"]):
    machine_id: str
    node: str
    status: str
    image: str = "debian-12-generic-amd64"
    owner: str = "a-tenant-of-some-length"


def machine(number: int, status: str = "") -> Machine:
    return Machine(machine_id=f"m-{number}", node=f"n{number % 7}", status=status or STATES[number % 4])


class World:
    """Processes over one directory, with a clock of their own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.shelf = Shelf()
        self.opened: list[Cache] = []
        self.corrupt: list[Corrupt] = []
        self.operations: list[Any] = []

    def cache(self, *, archive: bool = False, on: bool = True, **settings: Any) -> Cache:
        settings = {"compression": "zstd", "compression_dictionaries": on, **settings}
        tiers = [ArchiveTier(self.shelf, clock=self.clock)] if archive else []
        made = Cache(
            CacheSettings(namespace="shop", disk={"path": self.path}, **settings), tiers=tiers, clock=self.clock
        )
        self.opened.append(made)
        made.on("corrupt", self.corrupt.append)
        perform = made.engine.shared[0].perform

        def noted(operation: Any) -> Any:
            self.operations.append(operation)
            return perform(operation)

        made.engine.shared[0].perform = noted  # type: ignore[method-assign]  # looked at, and passed on
        return made

    def filled(self, count: int = 300, **settings: Any) -> Cache:
        cache = self.cache(**settings)
        cache.set_many({f"machine:m-{number}": machine(number) for number in range(count)})
        return cache

    def payload(self, key: str) -> bytes | None:
        (found,) = self.opened[0].engine.shared[0].perform(Fetch([key])).payloads
        return found

    def remove(self, *keys: str) -> None:
        self.opened[0].engine.shared[0].perform(Delete(keys))

    def put(self, key: str, payload: bytes) -> None:
        self.opened[0].engine.shared[0].perform(Store([Item(key, payload, 1000.0)]))

    def fetched(self) -> list[str]:
        """Return the keys of dictionaries that were asked for since this was last called."""
        operations, self.operations[:] = list(self.operations), []
        return [key for one in operations if isinstance(one, Fetch) for key in one.keys if key.startswith("~")]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "cache")
    yield made
    for cache in made.opened:
        cache.close()


def codec(cache: Cache, number: int) -> str | None:
    """Return how a value is written where it is shared."""
    memory, cache.engine.memory = cache.engine.memory, None
    try:
        return cache.explain(f"machine:m-{number}", model=Machine).codec
    finally:
        cache.engine.memory = memory


WITH, WITHOUT = "json+zstd+dictionary", "json"


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
        texts = ("".join(chance.choices(string.printable, k=300)) for _ in range(200))

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


@pytest.mark.parametrize("call", [str, repr])
def test_the_error_of_a_missing_dictionary_shows_its_name_alone(call: Callable[[object], str]) -> None:
    assert DICTIONARY.digest.hex() in call(DictionaryUnknown(DICTIONARY.digest))

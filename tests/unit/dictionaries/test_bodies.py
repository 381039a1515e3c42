"""Dictionaries: bodies that need one, and what a dictionary may be."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from unit.dictionaries.world import DICTIONARY, HEADER, KEY, OTHER, body, pipeline

from novacron_cache.codecs import MAX_DICTIONARY_BYTES, Dictionaries, Dictionary, written_as
from novacron_cache.codecs.dictionaries import DIGEST_BYTES, digest_of
from novacron_cache.errors import DecodeError, DictionaryUnknown


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
        assert pipeline(OTHER).skimmer(HEADER.fingerprint).skim("k", payload) is None

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


@pytest.mark.parametrize("call", [str, repr])
def test_the_error_of_a_missing_dictionary_shows_its_name_alone(call: Callable[[object], str]) -> None:
    assert DICTIONARY.digest.hex() in call(DictionaryUnknown(DICTIONARY.digest))

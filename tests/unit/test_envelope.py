"""The envelope: what is sealed under a key opens under that key, unchanged, and everything else is a reason to miss."""

import contextlib
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novacron_cache.codecs import Header, Pipeline, compression, make_pipeline
from novacron_cache.codecs.envelope import VERSION
from novacron_cache.errors import CachedValueError, DecodeError, SettingsError
from novacron_cache.markers import dependencies, new_id

KEY, LOGICAL, NAME, TAGS = "VMState~vm:<s~vm-1>", "vm:vm-1", "VMState", ("vm:vm-1", "node:nœud-7")
FINGERPRINT = b"\x01schema1"
BODY = b'{"status":"running"}' * 100
SECRET = b"sixteen bytes or so"
COMPRESSIONS = ["none", "zlib", "zstd", "lz4"]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "signed": {"signing_keys": [SECRET]},
    **{name: {"compression": name} for name in COMPRESSIONS[1:]},
    "signed zstd": {"signing_keys": [SECRET], "compression": "zstd"},
}


def header(**changes: Any) -> Header:
    ids = tuple((dep, new_id()) for dep in dependencies(LOGICAL, NAME, TAGS))
    fields = {"created": 1_700_000_000.125, "expires": 1_700_000_030.0, "stale_until": 1_700_000_090.5, "ids": ids}
    return Header(**{"fingerprint": FINGERPRINT, "tags": TAGS, **fields, **changes})


def pipeline(**options: Any) -> Pipeline:
    return Pipeline(**{"namespace": "shop", **options})


def opened(pipe: Pipeline, data: bytes, key: str = KEY, **options: Any) -> tuple[Header, bytes]:
    return pipe.open(key, data, **{"logical": LOGICAL, "name": NAME, **options})


def reason(pipe: Pipeline, data: bytes, key: str = KEY, **options: Any) -> str:
    with pytest.raises(DecodeError) as caught:
        opened(pipe, data, key, **options)
    return caught.value.reason


# -- round trip --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_what_is_sealed_opens_unchanged(options):
    pipe, sealed = pipeline(**options), header()
    assert opened(pipe, pipe.seal(KEY, sealed, BODY), fingerprint=FINGERPRINT) == (sealed, BODY)


def test_none_is_a_value_with_no_body():
    pipe, sealed = pipeline(), header(is_none=True)
    assert opened(pipe, pipe.seal(KEY, sealed, None)) == (sealed, b"")


def test_an_empty_body_is_not_none():
    got, body = opened(pipeline(), pipeline().seal(KEY, header(), b""))
    assert body == b""
    assert not got.is_none


def test_names_of_dependencies_are_not_stored_because_the_reader_knows_them():
    data = pipeline().seal(KEY, header(), BODY)
    assert LOGICAL.encode() not in data.replace(b"vm:vm-1", b"", 1), "the tag alone is text"
    assert b"VMState" not in data


@pytest.mark.parametrize(
    "ids",
    [
        (),
        (("n", b"x" * 8),),
        (("n", b"x" * 8), ("k:vm:vm-1", b"y" * 3), ("t:ü", b"")),
        tuple((dep, b"x" * (4 + len(dep))) for dep in dependencies(LOGICAL, NAME, TAGS)),
        tuple((dep, new_id()) for dep in reversed(dependencies(LOGICAL, NAME, TAGS))),
        tuple((dep, new_id()) for dep in dependencies(LOGICAL, NAME, ("other", "tags"))),
    ],
    ids=["none", "one", "uneven", "uneven full set", "another order", "other tags"],
)
def test_ids_of_any_dependencies_survive(ids):
    pipe, sealed = pipeline(), header(ids=ids)
    assert opened(pipe, pipe.seal(KEY, sealed, b"x"))[0].ids == ids


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    key=st.text(max_size=30), logical=TEXT, name=TEXT, tags=st.lists(TEXT, max_size=5).map(tuple), body=st.binary(),
    moment=st.integers(0, 2**42).map(lambda ms: ms / 1000), signed=st.booleans(),
)  # fmt: skip
def test_any_key_tags_and_body_survive(key, logical, name, tags, body, moment, signed):
    pipe = pipeline(signing_keys=[SECRET] if signed else [])
    ids = tuple((dep, new_id()) for dep in dependencies(logical, name, tags))
    sealed = header(ids=ids, tags=tags, created=moment, expires=moment, stale_until=moment)
    assert pipe.open(key, pipe.seal(key, sealed, body), logical=logical, name=name) == (sealed, body)


@pytest.mark.parametrize(
    ("moment", "kept"), [(-5.0, 0.0), (float("inf"), (2**48 - 1) / 1000), (1.0004, 1.0), (1.0006, 1.001)]
)
def test_times_are_kept_to_the_millisecond_and_clamped(moment, kept):
    assert opened(pipeline(), pipeline().seal(KEY, header(expires=moment), b""))[0].expires == kept


@pytest.mark.parametrize("tags", [("x" * 70_000,), ("\ud800",)], ids=["too long", "not text"])
def test_a_tag_that_has_no_form_is_refused_when_sealing(tags):
    with pytest.raises(CachedValueError, match="cannot be written"):
        pipeline().seal(KEY, header(tags=tags, ids=()), b"")


# -- belonging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "why"), [({}, "corrupt"), ({"signing_keys": [SECRET]}, "signature")])
def test_a_payload_copied_to_another_key_is_refused(options, why):
    pipe = pipeline(**options)
    assert reason(pipe, pipe.seal(KEY, header(), BODY), key=KEY + "0") == why


@pytest.mark.parametrize(("options", "why"), [({}, "corrupt"), ({"signing_keys": [SECRET]}, "signature")])
def test_a_payload_of_another_namespace_is_refused(options, why):
    data = pipeline(namespace="blog", **options).seal(KEY, header(), BODY)
    assert reason(pipeline(**options), data) == why


def test_the_border_between_namespace_and_key_is_part_of_the_proof():
    data = pipeline(namespace="a").seal("bc", header(), BODY)
    assert reason(pipeline(namespace="ab"), data, key="c") == "corrupt"


def test_another_schema_is_refused_with_its_own_reason():
    assert reason(pipeline(), pipeline().seal(KEY, header(), BODY), fingerprint=b"\x01schema2") == "schema"


def test_another_codec_is_another_schema():
    data = pipeline().seal(KEY, header(), BODY)
    assert reason(pipeline(), data, fingerprint=b"\x02" + FINGERPRINT[1:]) == "schema"


# -- signing -----------------------------------------------------------------------------------------------------------


def test_the_first_key_signs_and_every_key_verifies():
    old, new = b"old key" * 4, b"new key" * 4
    written_before = pipeline(signing_keys=[old]).seal(KEY, header(), BODY)
    rotating = pipeline(signing_keys=[new, old])
    assert opened(rotating, written_before)[1] == BODY
    written_now = rotating.seal(KEY, header(), BODY)
    assert opened(pipeline(signing_keys=[new]), written_now)[1] == BODY
    assert reason(pipeline(signing_keys=[old]), written_now) == "signature"


def test_a_reader_with_keys_refuses_an_unsigned_payload():
    assert reason(pipeline(signing_keys=[SECRET]), pipeline().seal(KEY, header(), BODY)) == "signature"


def test_a_reader_without_keys_refuses_a_signed_payload():
    assert reason(pipeline(), pipeline(signing_keys=[SECRET]).seal(KEY, header(), BODY)) == "signature"


def test_clearing_the_signed_flag_and_recomputing_the_checksum_does_not_help():
    signed = pipeline(signing_keys=[SECRET])
    forged = pipeline().seal(KEY, header(), b'{"admin":true}')
    assert reason(signed, forged) == "signature"
    assert reason(signed, forged[:-4] + signed.seal(KEY, header(), BODY)[-36:]) == "signature"


@pytest.mark.parametrize("keys", [[b""], ["text"]])
def test_a_signing_key_is_non_empty_bytes(keys):
    with pytest.raises(SettingsError, match="signing_keys"):
        pipeline(signing_keys=keys)


def test_one_key_given_twice_counts_once():
    assert pipeline(signing_keys=[SECRET, SECRET]).signed


def test_pickle_without_signing_keys_is_a_settings_error():
    with pytest.raises(SettingsError, match="signing_keys") as caught:
        make_pipeline(namespace="shop", serialization="pickle")
    assert caught.value.variable == "serialization"
    assert make_pipeline(namespace="shop", serialization="pickle", signing_keys=[SECRET]).signed


def test_an_unsigned_pickle_body_is_never_handed_out():
    data = pipeline().seal(KEY, header(fingerprint=b"\x03schema1"), b"cos\nsystem\n(S'false'\ntR.")
    assert reason(pipeline(), data, fingerprint=b"\x03schema1") == "signature"


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [VARIANTS["plain"], VARIANTS["signed"], VARIANTS["zlib"]])
def test_no_flipped_bit_is_ever_served(options):
    pipe = pipeline(**options)
    data = bytearray(pipe.seal(KEY, header(), b'{"n":1}' * (200 if "compression" in options else 1)))
    for at in range(len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            with pytest.raises(DecodeError):
                opened(pipe, bytes(data))
            data[at] ^= 1 << bit


@pytest.mark.parametrize("options", [VARIANTS["plain"], VARIANTS["signed"]])
def test_no_cut_or_lengthened_payload_is_served(options):
    pipe = pipeline(**options)
    data = pipe.seal(KEY, header(), b"body")
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            opened(pipe, data[:length])
    with pytest.raises(DecodeError):
        opened(pipe, data + b"\0")


@given(st.binary(max_size=200), st.booleans())
def test_bytes_from_anywhere_raise_nothing_but_decode_errors(noise, signed):
    pipe = pipeline(signing_keys=[SECRET] if signed else [])
    for data in (noise, b"NC" + noise, b"NC\x02" + noise):
        with pytest.raises(DecodeError):
            opened(pipe, data)


@given(st.binary(min_size=50, max_size=150), st.integers(0, 15))
def test_a_valid_checksum_over_nonsense_raises_nothing_but_decode_errors(noise, flags):
    content = b"NC\x02" + bytes([flags & 13]) + noise
    prefix = b"".join(len(part).to_bytes(4, "big") + part for part in (b"shop", KEY.encode()))
    data = content + zlib.crc32(prefix + content).to_bytes(4, "little")
    with contextlib.suppress(DecodeError):
        assert len(opened(pipeline(), data)[1]) < len(noise), "what opens after all says so little of itself"


def test_foreign_bytes_and_newer_versions_have_their_own_reason():
    data = pipeline().seal(KEY, header(), BODY)
    assert reason(pipeline(), b'{"some": "json"}') == "foreign"
    assert reason(pipeline(), b"") == "foreign"
    assert reason(pipeline(), data[:2] + bytes([VERSION + 1]) + data[3:]) == "foreign"


def test_ids_for_other_dependencies_than_the_readers_are_never_given_names():
    data = pipeline().seal(KEY, header(), BODY)
    names = [name for name, _ in opened(pipeline(), data, logical="vm:vm-2")[0].ids]
    assert "k:vm:vm-1" not in names, "the ids then belong to no marker that has them, which is a miss"


# -- compression -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPRESSIONS[1:])
def test_compression_makes_payloads_smaller_and_any_reader_reads_them(name):
    data = pipeline(compression=name).seal(KEY, header(), BODY)
    assert len(data) < len(BODY) // 2
    assert opened(pipeline(), data)[1] == BODY


@pytest.mark.parametrize("name", COMPRESSIONS[1:])
def test_bodies_below_the_minimum_are_left_alone(name):
    assert b"x" * 1023 in pipeline(compression=name).seal(KEY, header(), b"x" * 1023)
    assert b"x" * 1023 not in pipeline(compression=name, min_bytes=10).seal(KEY, header(), b"x" * 1023)


@pytest.mark.parametrize("name", COMPRESSIONS[1:])
def test_what_does_not_shrink_is_stored_as_it_is(name):
    noise = b"".join(zlib.crc32(bytes([n % 256, n // 256])).to_bytes(4, "big") for n in range(500))
    data = pipeline(compression=name).seal(KEY, header(), noise)
    assert noise in data
    assert opened(pipeline(), data)[1] == noise


@pytest.mark.parametrize("name", COMPRESSIONS[1:])
def test_a_bomb_is_stopped_at_the_limit(name):
    bomb = pipeline(compression=name).seal(KEY, header(), bytes(5_000_000))
    assert len(bomb) < 50_000
    assert reason(pipeline(max_decoded_bytes=1_000_000), bomb) == "too_large"


@pytest.mark.parametrize("name", COMPRESSIONS[1:])
def test_exactly_the_limit_is_allowed(name):
    data = pipeline(compression=name).seal(KEY, header(), bytes(100_000))
    assert len(opened(pipeline(max_decoded_bytes=100_000), data)[1]) == 100_000
    assert reason(pipeline(max_decoded_bytes=99_999), data) == "too_large"


def test_a_zstd_frame_that_lies_about_its_size_is_refused():
    zstandard = pytest.importorskip("zstandard")
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(60_000)))
    frame[5:7] = (300 - 256).to_bytes(2, "little")
    assert zstandard.frame_content_size(bytes(frame)) == 300
    reader = compression.ZstdCompression(3)
    with pytest.raises(DecodeError):
        reader.expand(bytes(frame), 10**6)


def test_a_zstd_frame_without_a_size_is_not_ours():
    zstandard = pytest.importorskip("zstandard")
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(300))
    with pytest.raises(DecodeError) as caught:
        compression.ZstdCompression(3).expand(frame, 10**6)
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("name", COMPRESSIONS[1:])
@given(noise=st.binary(max_size=100), cut=st.integers(0, 60))
def test_damaged_streams_raise_nothing_but_decode_errors(name, noise, cut):
    kind = compression.compression_named(name)
    good = kind.compress(BODY)
    for data in (noise, good[: min(cut, len(good) - 1)], good[:-8] + noise[:7], good + b"x"):
        if data != good:
            with pytest.raises(DecodeError):
                kind.expand(data, 10**6)


def test_a_body_over_the_limit_is_not_written():
    with pytest.raises(CachedValueError, match="max_decoded_bytes=10"):
        pipeline(max_decoded_bytes=10).seal(KEY, header(), b"x" * 11)


def test_an_uncompressed_body_over_the_limit_is_not_read():
    assert reason(pipeline(max_decoded_bytes=10), pipeline().seal(KEY, header(), b"x" * 11)) == "too_large"


@pytest.mark.parametrize(("options", "message"), [
    ({"compression": "gzip"}, "expected one of 'none', 'zlib', 'zstd', 'lz4'"),
    ({"compression": "zlip"}, "did you mean 'zlib'"),
    ({"compression": "zlib", "level": 12}, "compression_level=12"),
    ({"compression": "zstd", "level": 99}, "compression_level=99"),
    ({"compression": "lz4", "level": 17}, "compression_level=17"),
])  # fmt: skip
def test_a_wrong_compression_setting_is_named(options, message):
    with pytest.raises(SettingsError, match=message):
        pipeline(**options)


@pytest.mark.parametrize(("name", "module"), [("zstd", "zstandard"), ("lz4", "lz4.frame")])
def test_a_missing_package_names_the_extra(monkeypatch, name, module):
    def missing(wanted: str) -> None:
        raise ImportError(wanted)

    data = pipeline(compression=name).seal(KEY, header(), BODY)
    monkeypatch.setattr(compression, "import_module", missing)
    with pytest.raises(SettingsError, match=rf"pip install 'novacron-cache\[{name}\]'"):
        pipeline(compression=name)
    assert reason(pipeline(), data) == "foreign", "another process had the package"

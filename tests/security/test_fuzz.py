"""Whatever arrives from outside ends in a value or in a documented error: decoders, matchers, settings, replies, files.

The short form is part of the suite. `FUZZ_EXAMPLES=20000 pytest tests/security/test_fuzz.py` is a long one.
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from novacron_cache import Cache, CacheSettings, DeclarationError, KeyValueError, SettingsError, TemplateError
from novacron_cache.codecs import JSON, MSGPACK, Dictionaries, Dictionary, Header, Pipeline
from novacron_cache.codecs.compression import compression_numbered
from novacron_cache.codecs.dictionaries import digest_of
from novacron_cache.durations import seconds
from novacron_cache.effects import (
    Capture,
    Fetch,
    Hold,
    Item,
    KeepLeases,
    ReadClock,
    ReadRules,
    Renew,
    Store,
    TakeLease,
    Together,
)  # fmt: skip
from novacron_cache.errors import DecodeError, TierError
from novacron_cache.keys import Glob, KeyTemplate, StoredReader, glob_escape, printable, read_stored, stored_key
from novacron_cache.link.machine import Answer
from novacron_cache.markers import RuleLog, dependencies
from novacron_cache.observe.access import Access
from novacron_cache.observe.exposition import exposed
from novacron_cache.observe.routes import CacheSource, Request, Routes
from novacron_cache.observe.snapshot import FAMILIES, Snapshot, merged
from novacron_cache.observe.summary import summarised
from novacron_cache.schema import Schema, plain_schema
from novacron_cache.settings import redact
from novacron_cache.tiers.backup_file import MAGIC, BackupError, Records
from novacron_cache.tiers.disk import DiskTier
from novacron_cache.tiers.redis_commands import MISSHAPEN, Commands
from novacron_cache.topology.wire import Refusal, Wire

EXAMPLES: Final = int(os.environ.get("FUZZ_EXAMPLES", "60"))

pytestmark = pytest.mark.timeout(0 if EXAMPLES > 100 else 60)

fuzzed = settings(
    max_examples=EXAMPLES, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip

KEY = "VM:vm:<vm-1>"
SIGNING = b"a key of sixteen bytes or more"
anything = st.text() | st.text(st.characters(categories=["Cs", "Cc", "Lu", "Nd"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | anything | st.binary()
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)

as_json = json_like.map(lambda value: json.dumps(value).encode())


def mutated(good: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that are nearly good: pieces of it replaced, cut, repeated or put in."""

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = good
        for start, length, new in edits:
            start %= len(data) + 1
            data = data[:start] + new + data[start + length :]
        return data

    edit = st.tuples(st.integers(0, 4 * len(good)), st.integers(0, 8), st.binary(max_size=8))
    return st.lists(edit, min_size=1, max_size=4).map(apply)


# -- payloads ----------------------------------------------------------------------------------------------------------


def payload(signed: bool, compression: str = "none") -> bytes:
    names = dependencies("vm:vm-1", "VM", ("node:1",))
    header = Header(b"\x01" * 8, 1e9, 2e9, 3e9, tuple((dep, b"i" * 8) for dep in names), ("node:1",))
    keys = [SIGNING] if signed else []
    pipeline = Pipeline(namespace="shop", signing_keys=keys, compression=compression, min_bytes=0)
    return pipeline.seal(KEY, header, b'{"vm_id": "vm-1"}' * 4)


def with_checksum(data: bytes) -> bytes:
    prefix = b"".join(struct.pack(">I", len(text)) + text for text in (b"shop", KEY.encode()))
    return data + struct.pack("<I", zlib.crc32(data, zlib.crc32(prefix)))


PAYLOADS = [payload(False), payload(True), *(payload(False, name) for name in ("zlib", "zstd", "lz4"))]


@fuzzed
@given(st.binary() | st.one_of(*map(mutated, PAYLOADS)), st.booleans(), st.booleans())
def test_the_envelope(data: bytes, signed: bool, summed: bool) -> None:
    """With the right checksum too, so that what lies behind it is reached."""
    pipeline = Pipeline(namespace="shop", signing_keys=[SIGNING] if signed else [], max_decoded_bytes=2**20)
    data = with_checksum(data[:-4]) if summed else data
    with suppress(DecodeError):
        header, body = pipeline.open(KEY, data, logical="vm:vm-1", name="VM")
        assert not signed or data in PAYLOADS
        assert isinstance(header, Header)
        assert len(body) <= 2**20


@fuzzed
@given(st.sampled_from([1, 2, 3]), st.binary() | mutated(zlib.compress(b"x" * 1000)))
def test_compressed_bodies(method: int, data: bytes) -> None:
    with suppress(DecodeError):
        assert len(compression_numbered(method).expand(data, 2**16)) <= 2**16


SAMPLES = [b'{"vm_id": "vm-%d", "state": "running"}' % number for number in range(200)]
DICTIONARY = Dictionary(zstandard.train_dictionary(2048, SAMPLES).as_bytes())
WITH_DICTIONARY = [DICTIONARY.digest + DICTIONARY.compress(body) for body in (*SAMPLES[:3], b"", b"x" * 2**17)]


@fuzzed
@given(st.binary() | st.one_of(*map(mutated, WITH_DICTIONARY)), st.booleans())
def test_bodies_with_a_dictionary(data: bytes, named: bool) -> None:
    """With the right name too, so that what lies behind it is reached."""
    known = Dictionaries()
    known.learn(DICTIONARY.digest, DICTIONARY.content)
    with suppress(DecodeError):
        assert len(known.expand(DICTIONARY.digest + data[8:] if named else data, 2**16)) <= 2**16


@fuzzed
@given(st.binary() | mutated(DICTIONARY.content), st.booleans())
def test_dictionaries(content: bytes, named: bool) -> None:
    """One that is no dictionary is refused; one that reads nothing, or something else, is bounded all the same."""
    known = Dictionaries()
    digest = digest_of(content) if named else DICTIONARY.digest
    with suppress(DecodeError):
        known.learn(digest, content)
        for body in WITH_DICTIONARY:
            with suppress(DecodeError):
                assert len(known.expand(digest + body[8:], 2**16)) <= 2**16


BODIES: list[Any] = [(1, {2}, frozenset({3})), {"a": [1.5, None, b"x"]}, [True, "text"], 2**70]
SCHEMAS: list[Schema[Any]] = [
    plain_schema(),
    *(Schema.of(kind, codec=codec) for codec in (JSON, MSGPACK) for kind in (int, list[str], dict[str, float])),
]
PACKED = [plain_schema().encode(body) for body in BODIES]


@fuzzed
@given(
    st.sampled_from(SCHEMAS),
    st.binary() | st.one_of(*map(mutated, PACKED)) | as_json,
)
def test_bodies(schema: Schema[Any], data: bytes) -> None:
    with suppress(DecodeError):
        schema.decode(data)


# -- keys and patterns -------------------------------------------------------------------------------------------------

TEMPLATES = [KeyTemplate.parse(text) for text in ("vm:<vm_id>", "<a>:<int:b>:<path:c>", "u:<uuid:u>:<s>", "plain")]


@fuzzed
@given(anything | st.from_regex(r"[a-z:<>{}]{0,20}", fullmatch=True), anything)
def test_templates(text: str, key: str) -> None:
    try:
        template = KeyTemplate.parse(text)
    except TemplateError:
        return
    found = template.match(key)
    assert found is None or set(found) == template.roots
    with suppress(KeyValueError):
        values = tuple(key for _ in template.placeholders)
        logical = template.render(values)
        if not any(placeholder.converter for placeholder in template.placeholders):
            assert isinstance(logical, str)


@fuzzed
@given(st.sampled_from(TEMPLATES), st.lists(scalars, min_size=4, max_size=4))
def test_what_is_stored_is_read_back_or_refused(template: KeyTemplate, values: list[Any]) -> None:
    chosen = tuple(values[: len(template.placeholders)])
    try:
        stored = stored_key("VM", template, chosen)
    except KeyValueError:
        return
    assert stored.isprintable()
    found = StoredReader("VM", template).read(stored)
    assert found is None or repr(found) == repr(chosen)
    assert read_stored(stored)[0] == "VM"


STORED = stored_key("VM", TEMPLATES[1], ("a", 1, "c"))
TAGGED = st.builds(
    lambda tag, rest: f"VM:vm:<~{tag}{rest}>",
    st.sampled_from("tfnidbuNDTYPpe(lszch"),
    st.text(st.sampled_from("~.,();:%0123456789abcdefTZ+-<>'=_\0é"), max_size=40)
    | st.sampled_from(
        [
            "2020-01-01T00:00:00;0;zoneinfo.ZoneInfo(key='America')",
            f"2020-01-01T00:00:00;0;zoneinfo.ZoneInfo(key='{'a' * 300}')",
            "2020-01-01T00:00:00;0;zoneinfo.ZoneInfo(key='../../etc/passwd')",
            "9" * 5000,
            "os.environ~.HOME",
            "novacron_cache.Cache~.connect",
            "redis.asyncio.Redis~.x",
            "posix~.system",
        ]
    ),
)  # fmt: skip


@fuzzed
@given(TAGGED | anything | mutated(STORED.encode()).map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_stored_keys_of_anybodys(stored: str) -> None:
    for template in TEMPLATES:
        StoredReader("VM", template).read(stored)
    name, logical = read_stored(stored)
    assert isinstance(name, str)
    assert len(logical) <= 2


@fuzzed
@given(
    anything | st.text(st.sampled_from("ab:*?[]!^-\\"), max_size=40),
    anything | st.text(st.sampled_from("ab:"), max_size=200),
)
def test_patterns(pattern: str, text: str) -> None:
    with suppress(TemplateError):
        began = time.process_time()
        Glob(pattern).matches(text)
        assert time.process_time() - began < 1.0
    with suppress(TemplateError):  # a text may be longer than a pattern
        assert Glob(glob_escape(text or "a")).matches(text or "a")


RULE = b'{"g": "vm:*:x", "after": "000000000000000000000000", "at": 5}'


@fuzzed
@given(st.lists(st.tuples(st.binary(max_size=12), st.binary() | mutated(RULE) | as_json)))
def test_the_log_of_patterns(rules: list[tuple[bytes, bytes]]) -> None:
    """What cannot be read may mean anything, so it spares nothing."""
    log = RuleLog(b"head", [(b"head", b"unreadable"), *rules, (b"old", RULE)])
    assert log.spares(b"old", "vm:1", ()) is False
    assert isinstance(log.since(0.0), int)


# -- settings ----------------------------------------------------------------------------------------------------------


@fuzzed
@given(
    scalars
    | st.timedeltas()
    | st.just(10**400)
    | st.from_regex(r"\s*[-+0-9.einfa]{0,9}(ms|[smhdw])?.?", fullmatch=True)
)
def test_durations(value: Any) -> None:
    with suppress(DeclarationError):
        assert 0.0 <= seconds(value) < float("inf")


NAMES = [*(row.name for row in __import__("novacron_cache.settings", fromlist=["x"]).ENVIRONMENT)]
TEXTS = (
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
    | json_like.map(json.dumps)
    | st.sampled_from(["9" * 400, "9" * 5000, "[" * 5000, "1e400", "nan", "-1", "redis://h:p@[", "٣s", "²", "1_000"])
)


@fuzzed
@given(
    st.dictionaries(
        st.sampled_from(NAMES) | st.from_regex(r"NOVACRON_CACHE_[A-Z_]{0,20}", fullmatch=True), TEXTS, max_size=4
    )
)
def test_the_environment(environ: dict[str, str]) -> None:
    with suppress(SettingsError):
        CacheSettings.from_env(environ)


SECTIONS = [
    "default_ttl",
    "namespace",
    "redis",
    "disk",
    "memory",
    "monitor",
    "models",
    "signing_keys",
    "compression_level",
]
SETTINGS = [None, "url", "addresses", "max_bytes", "path", "ttl", "token", "allow", "port", "policy"]


@fuzzed
@given(st.sampled_from(SECTIONS), st.sampled_from(SETTINGS), json_like | scalars)
def test_settings(section: str, name: str | None, value: Any) -> None:
    with suppress(SettingsError):
        CacheSettings(**{section: value if name is None else {name: value}})


@fuzzed
@given(
    st.text(st.characters(exclude_characters="@/?#&", categories=["L", "N", "P", "S"]), min_size=6),
    anything,
    st.booleans(),
)
def test_no_password_survives_being_hidden(password: str, more: str, in_query: bool) -> None:
    more = more.replace(password, "").replace("@", "")
    url = f"redis://host/0?password={password}" if in_query else f"redis://user:{password}@host:1/{more}"
    if password not in "redis://host:1/0?password=***@user" and password not in more:
        assert password not in redact(url)


# -- what servers and processes say ------------------------------------------------------------------------------------

COMMANDS = Commands("shop")
OPERATIONS: list[Any] = [
    Fetch(["a", "b"], ["n", "k:a"]), Capture(["n", "k:a"], 60.0), Renew([("n", b"i" * 8)], 60.0, (), 1), ReadRules(),
    Hold(["n"], b"h" * 8, 1.0), ReadClock(), Store([Item("a", b"x", 1.0)]), TakeLease("a", b"h" * 12, 1.0),
    KeepLeases([("a", b"h" * 8)], 1.0), Together(Fetch(["a"], ["n"]), TakeLease("a", b"h" * 12, 1.0)),
]  # fmt: skip
replies = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=8)


@fuzzed
@given(st.sampled_from(OPERATIONS), st.lists(replies, min_size=4, max_size=4))
def test_answers_of_another_form(operation: Any, answers: list[Any]) -> None:
    steps = COMMANDS.steps(operation)
    with suppress(StopIteration, *MISSHAPEN):
        batch = next(steps)
        while True:
            batch = steps.send([answers[number % 4] for number in range(len(batch.commands))])


@fuzzed
@given(st.binary() | mutated(b"nc:shop:s:" + b"00" * 8 + b":{k:vm%3A1}"))
def test_signals(key: bytes) -> None:
    found = COMMANDS.parse_signal(key)
    assert found is None or (isinstance(found[0], str) and isinstance(found[1], bytes))


REPLIES = b"*3\r\n+OK\r\n$5\r\nhello\r\n:12\r\n"


def told(data: bytes) -> Any:
    """Return what a connection that is told these bytes makes of the first reply."""
    ours, theirs = socket.socketpair()
    wire = Wire.__new__(Wire)
    wire._buffer, wire._socket = b"", ours
    ours.settimeout(5.0)
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        return wire.call("PING")


@fuzzed
@given(st.binary() | mutated(REPLIES) | st.integers(1, 30_000).map(lambda n: b"*1\r\n" * n), st.text())
def test_replies_to_whoever_runs_servers(data: bytes, text: str) -> None:
    with suppress(OSError, Refusal):
        told(data)
    Answer.parse(text)


SNAPSHOT = Snapshot("host:1:a", 1.0, {"hits": {("memory", "VM"): 1.0}}, facts={"namespace": "shop"})
PLAIN = zlib.decompress(SNAPSHOT.encode())
families = st.dictionaries(st.sampled_from(sorted(FAMILIES)), st.lists(st.lists(json_like, max_size=4), max_size=3))
changes = st.dictionaries(st.sampled_from(["at", "process", "values", "histograms", "facts"]), json_like, max_size=3)
figures = st.fixed_dictionaries({}, optional={"values": families, "histograms": families})


def changed(one: dict[str, Any], other: dict[str, Any]) -> bytes:
    return zlib.compress(json.dumps({**json.loads(PLAIN), **one, **other}).encode())


@fuzzed
@given(
    st.binary() | mutated(SNAPSHOT.encode()) | mutated(PLAIN).map(zlib.compress) | st.builds(changed, changes, figures)
)
def test_figures_of_other_processes(data: bytes) -> None:
    """Whoever can write to the server can publish figures; the monitor adds them up and shows them."""
    found = Snapshot.decode(data)
    if found is None:
        return
    total = merged([SNAPSHOT, found, found.counters_only()])
    exposed(total, openmetrics=False)
    json.dumps(summarised(total))
    assert Snapshot.decode(total.encode()) is not None


# -- files -------------------------------------------------------------------------------------------------------------


def records(*found: Any) -> bytes:
    data = b""
    for record in found:
        with suppress(ValueError, OverflowError):
            packed = msgpack.packb(record, unicode_errors="surrogatepass")
            data += struct.pack(">I", len(packed)) + packed
    return data


HEADER = records(("h", {"namespace": "shop", "created": 1e9, "markers": True}))
END = records(("e", 2))
RECORD = st.tuples(
    st.sampled_from(["p", "m", "r", "h", "e", "x"]), json_like | scalars, json_like | scalars, json_like | scalars
)
VALUE = st.tuples(
    st.just("p"), anything, st.floats() | st.integers(-(2**63), 2**64 - 1), st.binary() | st.just(payload(False))
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiskTier]:
    tier = DiskTier(tmp_path_factory.mktemp("fuzzed") / "cache", namespace="shop")
    yield tier
    tier.close()


@fuzzed
@given(
    st.lists(RECORD | VALUE, min_size=1, max_size=1),
    st.binary(max_size=8),
    st.booleans(),
    mutated(HEADER),
    st.booleans(),
)
def test_backups(disk: DiskTier, found: list[Any], more: bytes, right: bool, header: bytes, nearly: bool) -> None:
    data = MAGIC + (header if nearly else HEADER) + records(*found) + (END if right else more)
    stream = io.BytesIO(data + sha256(data).digest())
    with suppress(BackupError, TierError):
        done = disk.restore(Records(stream, "fuzzed"), lambda key, value: 4e9)
        assert done.stored + done.present + done.expired <= 1


@fuzzed
@given(st.binary())
def test_files_that_are_no_backups(data: bytes) -> None:
    with suppress(BackupError):
        list(Records(io.BytesIO(data), "fuzzed"))


# -- requests ----------------------------------------------------------------------------------------------------------

latin = st.text(st.characters(max_codepoint=255))


@pytest.fixture(scope="module")
def routes() -> Iterator[Routes]:
    with Cache() as cache:
        yield Routes(CacheSource(cache), Access(token="a-token-of-sixteen-or-more", allow=["127.0.0.0/8"]))


@fuzzed
@given(latin, latin, latin | st.just("127.0.0.1"), latin | st.just("localhost"), latin | st.just("Bearer x"), latin)
def test_requests(
    routes: Routes, method: str, path: str, client: str, host: str, authorization: str, accept: str
) -> None:
    answer = routes.respond(Request(method, path, client, host, authorization, accept))
    assert answer.status in (401, 403, 405, 421)


@fuzzed
@given(anything)
def test_lines(text: str) -> None:
    assert printable(text).isprintable()


# -- a server that is none ---------------------------------------------------------------------------------------------

REPORT = b"role:master\r\nmaster_replid:0123456789012345678901234567890123456789\r\n"
NONSENSE: dict[str, Callable[[int], bytes]] = {
    "OK to everything": lambda n: b"+OK\r\n" * n,
    "numbers": lambda n: b":7\r\n" * n,
    "empty lists": lambda n: b"*0\r\n" * n,
    "nothing": lambda n: b"_\r\n" * n,
    "maps": lambda n: b"%1\r\n+role\r\n+master\r\n" * n,
    "half a reply": lambda n: b"$100\r\nhalf",
    "a web page": lambda n: b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>",
    "noise": lambda n: bytes(range(256)) * n,
    "a length that lies": lambda n: b"$99999999999999999999\r\n",
    "a report, then nonsense": lambda n: b"$%d\r\n%b\r\n" % (len(REPORT), REPORT) + b"+OK\r\n" * n,
}  # fmt: skip


@pytest.mark.parametrize("what", NONSENSE)
def test_a_server_that_talks_nonsense_costs_no_call_an_error(what: str, tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(5.0)
            while not stopped.is_set() and (data := connection.recv(65536)):
                connection.sendall(NONSENSE[what](max(1, data.count(b"*"))))

    def accept() -> None:
        while not stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=[connection], daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    port = listener.getsockname()[1]
    try:
        with Cache.connect(f"redis://127.0.0.1:{port}", namespace="shop") as cache:
            failed: list[Any] = []
            cache.on("tier_failed", failed.append)
            assert cache.get_or_load("k", lambda: "loaded", tags=["a"]) == "loaded"
            cache.set("other", 1)
            cache.invalidate("k")
            assert cache.get_many(["a", "b"]) == {}
            assert not cache.invalidate_tags("a").done
            assert failed
    finally:
        stopped.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(10.0)

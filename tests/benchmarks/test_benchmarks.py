"""The benchmarks run, measure everything they name, and write what they print; how fast anything is, is not asked."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

L1_PEERS = {"functools.lru_cache", "cachebox.cached", "cachetools.cached", "theine", "dogpile.cache"}
EXPECTED: dict[str, dict[str, set[str]]] = {
    "l1_hit": {
        "sync, str": L1_PEERS,
        "sync, int": L1_PEERS,
        "method, str": {"functools.lru_cache", "cachebox.cached", "cachetools.cachedmethod"},
    },
    "l1_async": {"async, str": {"cachebox.cached", "async_lru", "theine", "aiocache", "cashews"}},
    "l1_threads": {
        "2 threads, str": {"functools.lru_cache", "cachebox.cached", "cachetools.cached", "theine"},
        "4 threads, str": {"functools.lru_cache", "cachebox.cached", "cachetools.cached", "theine"},
    },
    "l2_single": {"L2 hit, one caller, CPU": {"limit, decoded", "redis-py", "valkey-glide", "dogpile.cache"}},
    "l2_tasks": {"L2 hit, 64 tasks, wall": {"redis.asyncio", "valkey-glide", "aiocache", "cashews"}},
    "l2_batch": {
        "batch of 1,000, each key": {"redis-py", "dogpile.cache"},
        "batch of 1,000, async, each key": {"redis.asyncio", "aiocache", "cashews"},
    },
    "l3": {
        "L3 get, p50": {"diskcache, bytes", "diskcache, default"},
        "L3 set, p99": {"diskcache, bytes", "diskcache, default"},
        "L3 hit as a model, p50": {"diskcache, pickled"},
    },
    "bodies": {"encode one model": {"pydantic", "msgpack", "pickle"}, "decode a model of 40": {"pydantic", "pickle"}},
    "invalidation": {
        "invalidate a tag of 1,000 keys": {"limit"},
        "invalidate a tag of 500 keys just stored": {"SMEMBERS and UNLINK", "cashews"},
    },
    "stampede": {
        "64 threads, one cold key, 50 ms loader": {"cachebox.cached", "cachetools.cached"},
        "64 tasks, one cold key, 50 ms loader": {"async_lru", "cashews, lock"},
    },
    "stampede_fleet": {
        "2 processes of 64 threads, one cold key, 50 ms loader": {"dogpile.cache", "redis-py"},
        "2 processes of 64 tasks, one cold key, 50 ms loader": {"cashews"},
    },
    "item_memory": {"memory for each of 2,000 items": {"dict of models", "cachebox", "cachetools", "theine"}},
    "hit_ratio": {
        "hit ratio, Zipf": {"Belady, who knows the future", "lru", "cachetools.TTLCache", "theine"},
        "hit ratio, services, made": {"Belady, who knows the future", "lru"},
        "hit ratio, loop": {"lru"},
        "hit ratio, scans": {"lru"},
    },
    "coherence": {
        "a write seen elsewhere, idle, p50": {"limit"},
        "a write seen elsewhere, a busy thread, p50": {"limit"},
        "a write seen elsewhere, a busy thread, switch_interval=0.2ms, p50": {"limit"},
    },
}
"""For each area, some of its cases, and who has to stand in them beside novacron_cache."""


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "run.py"), *words], capture_output=True, text=True, timeout=110, check=False
    )


def test_every_area_of_the_command_is_tested_here() -> None:
    said = ran("--area", "unknown").stderr.partition("choose from")[2]

    assert {area.strip(" ')\n") for area in said.split(",")} == EXPECTED.keys()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", EXPECTED)
def test_an_area_measures_itself_its_peers_and_its_promises(name: str, tmp_path: Path) -> None:
    written = tmp_path / "result.json"

    done = ran("--smoke", "--area", name, "--json", str(written))

    assert done.returncode == 0, done.stderr
    (area,) = json.loads(written.read_text())["areas"]
    assert area["failures"] == []
    cases = {case["name"]: case["rows"] for case in area["cases"]}
    for case, peers in EXPECTED[name].items():
        assert peers | {"novacron_cache"} <= {row["name"] for row in cases[case]}
    for rows in cases.values():
        for row in rows:
            assert row["value"] >= 0, row
            assert math.isfinite(row["value"]), row
    assert area["figures"] or name == "bodies"
    for figure in area["figures"]:
        assert figure["measured"] is not None, figure
        assert figure["measured"] == 1 or not figure["what"].startswith("loads of a cold key"), figure
        assert figure["what"] in done.stdout
        for bound, kept in (("least", "reached"), ("aim", "aim_reached")):
            if figure[bound] is None:
                assert figure[kept] is None
            elif figure["at_most"]:
                assert figure[kept] is (figure["measured"] <= figure[bound])
            else:
                assert figure[kept] is (figure["measured"] >= figure[bound])


def inside(code: str) -> str:
    """Run code where the benchmarks' own modules are found."""
    text = f"import sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


_BROKEN = """
from measuring import OURS, Contender, compare

def absent():
    raise ImportError("no such peer")

def wrong():
    def check():
        raise AssertionError("2 loads of 1 keys")
    return (lambda: 1.0), check

def halfway():
    turns = [1.0] * 4
    return (lambda: turns.pop()), lambda: None

case = compare("case", [
    Contender("limit", lambda: ((lambda: 4.0), lambda: None)),
    Contender(OURS, lambda: ((lambda: 6.0), lambda: None)),
    Contender("absent", absent),
    Contender("wrong", wrong),
    Contender("halfway", halfway),
], rounds=3)
print([(row.name, row.ratio, row.ours, row.failed) for row in case.rows])
"""


def test_a_peer_that_cannot_be_measured_is_failed_and_not_beaten() -> None:
    assert eval(inside(_BROKEN)) == [  # noqa: S307 - printed a moment ago
        ("limit", 1.0, 4.0 / 6.0, None),
        ("novacron_cache", 1.5, 1.0, None),
        ("absent", None, None, "ImportError: no such peer"),
        ("wrong", None, None, "AssertionError: 2 loads of 1 keys"),
        ("halfway", None, None, "IndexError: pop from empty list"),
    ]


_FAILING = """
import contextlib, io, json, pathlib, tempfile
import run
from measuring import Area, Case, Figure, Row

areas = [
    Area("good", [Case("case", [Row("novacron_cache", 1.0, 1.0, 1.0), Row("peer", failed="ImportError: none")])],
         [Figure("beaten / ours", None, 2.0, at_most=False), Figure("cost", 1.5, 1.25, 2.0)]),
]
result = {"effort": "smoke", "load": [0, 0], "broken": {"bad": "it took more than 1 s"},
          "areas": [area.as_json() for area in areas],
          "setting": {"cpu": "c", "cpus": 2, "python": "p", "server": "v", "system": "s", "packages": {}}}
place = pathlib.Path(tempfile.mkdtemp())
(place / "result.json").write_text(json.dumps(result))
(place / "page.md").write_text("before\\n<!-- measured: begin -->\\nold\\n<!-- measured: end -->\\nafter\\n")
errors = io.StringIO()
with contextlib.redirect_stderr(errors):
    code = run.main(["--from", str(place / "result.json"), "--render", str(place / "page.md")])
print("code", code)
print(errors.getvalue())
print((place / "page.md").read_text())
"""


def test_what_failed_is_said_in_the_exit_code_the_errors_and_the_page() -> None:
    said = inside(_FAILING)

    assert "code 1" in said
    assert "not measured: good: case: peer: ImportError: none" in said
    assert "not measured: bad: it took more than 1 s" in said
    assert "| beaten / ours | not measured | ≥ 2x | - |  |  |" in said
    assert "| cost | 1.5x | ≤ 1.25x | not reached | ≤ 2x | reached |" in said
    assert "| peer | failed | | | ImportError: none |" in said


def test_rendering_replaces_what_is_between_the_marks_and_nothing_else() -> None:
    said = inside(_FAILING)

    page = said[said.index("before") :]
    assert "old" not in page
    assert page.rstrip().endswith("<!-- measured: end -->\nafter")


def test_a_page_without_marks_is_refused() -> None:
    code = "import report\ntry:\n    report.placed('text', 'part')\nexcept ValueError as error:\n    print(error)"

    assert "<!-- measured: begin -->" in inside(code)


def test_traces_of_a_directory_that_is_not_there_are_an_error() -> None:
    done = ran("--area", "hit_ratio", "--traces", "/nowhere/at/all")

    assert done.returncode == 2
    assert "/nowhere/at/all" in done.stderr


_RECORDED = """
import gzip, lzma, pathlib, struct, tempfile
from workloads import recorded

place = pathlib.Path(tempfile.mkdtemp())
for name in ("lirs", "cache2k"):
    (place / name).mkdir()
keys = [number % 150 for number in range(600)]
with gzip.open(place / "lirs" / "small.trace.gz", "wb") as stream:
    stream.write(b"*\\n" + b"".join(b"%d\\n" % key for key in keys))
with lzma.open(place / "cache2k" / "web.trace.xz", "wb") as stream:
    stream.write(b"".join(struct.pack(">i", key) for key in keys) + b"x")
print([(one.family, one.name, one.requests == keys, one.sizes) for one in recorded(place, 10_000)])
"""


def test_recorded_requests_are_read_in_the_formats_they_are_published_in() -> None:
    assert eval(inside(_RECORDED)) == [  # noqa: S307 - printed a moment ago
        ("LIRS traces", "small", True, (10, 10, 30)),
        ("cache2k traces", "web", True, (10, 10, 30)),
    ]


_BELADY = """
from itertools import product
from hit_ratio import belady

def best(requests, size, held=frozenset()):
    if not requests:
        return 0
    key, rest = requests[0], requests[1:]
    if key in held:
        return 1 + best(rest, size, held)
    # It need not be kept, for a cache may let a value pass.
    found = best(rest, size, held)
    if len(held) < size:
        return max(found, best(rest, size, held | {key}))
    return max(found, *(best(rest, size, held - {one} | {key}) for one in held))

for requests in product(range(4), repeat=6):
    assert belady(requests, 2) == best(requests, 2), requests
print("the same")
"""


def test_the_bound_on_hit_ratios_is_what_trying_everything_finds() -> None:
    assert "the same" in inside(_BELADY)

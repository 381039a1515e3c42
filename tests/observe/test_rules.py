"""The rules file for Prometheus: in step with the rules, and right by Prometheus' own judgement."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from servers import required

from novacron_cache.observe import RULES, prometheus_rules
from novacron_cache.observe.snapshot import FAMILIES, PREFIX

ROOT = Path(__file__).parents[2]
FILE = ROOT / "compose" / "prometheus" / "alerts.yml"
TESTS = Path(__file__).with_name("alerts.test.yml")


@pytest.fixture
def promtool() -> Path:
    return required(Path(found) if (found := shutil.which("promtool")) else None, "promtool (Debian: prometheus)")


def test_the_file_is_what_the_rules_say() -> None:
    assert FILE.read_text() == prometheus_rules(), f"python -m novacron_cache.observe.rules > {FILE.relative_to(ROOT)}"


def test_the_thresholds_are_the_promised_ones() -> None:
    found = {rule.name: (rule.over, rule.threshold, rule.unit) for rule in RULES}
    assert found == {
        "CacheHitRateLow": (False, 0.85, "ratio"),
        "CacheResponseSlow": (True, 0.1, "seconds"),
        "CacheErrorRateHigh": (True, 0.01, "ratio"),
        "CacheMemoryHigh": (True, 0.9, "ratio"),
        "CacheConnectionFailures": (True, 5.0, "per minute"),
        "CacheSecurityEvent": (True, 0.0, "events"),
    }


def test_recovery_is_beyond_the_threshold() -> None:
    for rule in RULES:
        assert rule.recovery <= rule.threshold if rule.over else rule.recovery >= rule.threshold, rule.name


def test_every_metric_that_a_rule_names_exists() -> None:
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
    known = {PREFIX + name + suffix for name, family in FAMILIES.items() for suffix in suffixes[family.kind]}
    for rule in RULES:
        named = set(re.findall(rf"{PREFIX}\w+", rule.expression))
        assert named, rule.name
        assert named <= known


def test_promtool_accepts_the_rules(promtool: Path) -> None:
    done = subprocess.run([promtool, "check", "rules", FILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"SUCCESS: {len(RULES)} rules found" in done.stdout


def test_the_rules_do_what_they_say_by_their_unit_tests(promtool: Path, tmp_path: Path) -> None:
    shutil.copy(FILE, tmp_path / "alerts.yml")
    shutil.copy(TESTS, tmp_path / "alerts.test.yml")
    command = [promtool, "test", "rules", "alerts.test.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_unit_test() -> None:
    tested = set(re.findall(r"alertname: (\w+)", TESTS.read_text()))
    assert tested == {rule.name for rule in RULES}

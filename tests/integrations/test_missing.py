"""What a framework's module says where the framework is not installed, and what importing it brings."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = {
    "django": ("django", "django"),
    "fastapi": ("fastapi", "fastapi"),
    "starlette": ("starlette", "fastapi"),
    "responses": ("starlette", "fastapi"),
    "sqlalchemy": ("sqlalchemy", "sqlalchemy"),
    "flask_caching": ("flask_caching", "flask"),
    "dogpile": ("dogpile", "dogpile"),
}


def python(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", FRAMEWORKS)
def test_a_framework_that_is_not_installed_names_its_extra(module: str) -> None:
    framework, extra = FRAMEWORKS[module]
    done = python(f"import sys; sys.modules[{framework!r}] = None\nimport novacron_cache.integrations.{module}")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert f"pip install 'novacron-cache[{extra}]'" in last


def test_the_package_alone_brings_no_framework() -> None:
    done = python(
        "import sys, novacron_cache.integrations, novacron_cache.integrations.sharing\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    assert done.returncode == 0, done.stderr
    assert not {"django", "fastapi", "starlette", "sqlalchemy", "flask", "dogpile"} & set(done.stdout.split())

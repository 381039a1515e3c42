"""The layers only look down: a module imports nothing but what stands below it.

An import inside a function counts, for it is a dependency all the same. One under `if TYPE_CHECKING` does not: nothing
but a type checker ever follows it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = "novacron_cache"
SOURCE = Path(__file__).parents[1] / ROOT

# From the foundation to the roof. A module or package may import those of the rows before its own, and from itself.
LADDER: tuple[tuple[str, ...], ...] = (
    ("chance", "errors", "finalizing"),
    ("durations", "effects", "entry", "events", "keys"),
    ("background", "bypassing", "callables", "compiling", "guards", "limits", "markers", "settings"),
    ("leases",),
    ("codecs", "topology"),
    ("schema", "tiers"),
    ("requests",),
    ("options",),
    ("declaring",),
    ("link", "values"),
    ("engine",),
    ("flows",),
    ("explaining", "receipts", "running"),
    ("building", "delivery", "drivers"),
    ("auditing", "deferring", "gathering", "keeping", "recovery", "observe", "straight", "training"),
    ("operations",),
    ("holding",),
    ("cache",),
    ("dashboard",),
    ("default",),
    ("fronting", "functions", "models"),
    ("batching", "wrapping"),
    ("decorators",),
    ("decorating",),
    ("testing",),
    ("integrations", "vm"),
    ("cli",),
    ("__main__",),
)

# These stand for what an application could write: they use what the package exports, and no module of it.
# By contract a cache has the decorators as methods; it opens this door when one of them is first used.
# A dashboard looks at a cache, and a cache serves one when it is asked to.
DOORS = frozenset({("cache", "decorating"), ("cache", "dashboard")})

PUBLIC_ONLY = frozenset({"vm", "integrations"})

# The package's own exports need every module, so only what stands on top may use them.
MAY_USE_EXPORTS = PUBLIC_ONLY | {"cli", "__main__"}

RANKS = {unit: rank for rank, row in enumerate(LADDER) for unit in row}
EXPORTS = ""


class Import(NamedTuple):
    """One import of something of this package: the unit it reaches, or `EXPORTS`, and where it stands."""

    unit: str
    line: int


def units() -> set[str]:
    """Return the modules and packages right under the root that hold code."""
    return {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in SOURCE.rglob("*.py")} - {"__init__"}


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def name_of(path: Path) -> tuple[str, ...]:
    """Return the dotted name of a file as its parts, `__init__` included: `(novacron_cache, tiers, __init__)`."""
    return path.relative_to(SOURCE.parent).with_suffix("").parts


def imports(name: tuple[str, ...], source: str, known: set[str]) -> Iterator[Import]:
    """Yield what a module imports of this package, wherever in the file it does so.

    Args:
        name: the module's dotted name as parts.
        source: its text.
        known: the units there are, to tell `from . import unit` from `from . import exported_name`.
    """
    for node in _running(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*name[: len(name) - node.level], *(node.module or "").split(".")] if node.level else None
            base = (node.module or "").split(".") if base is None else [part for part in base if part]
            targets = [[*base, alias.name] for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and _is_import_call(node.func):
            argument = node.args[0]
            text = argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else ""
            targets = [text.split(".")]
        else:
            continue
        for target in targets:
            if target[0] == ROOT:
                unit = target[1] if len(target) > 1 and target[1] in known else EXPORTS
                yield Import(unit, node.lineno)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, but for what stands under `if TYPE_CHECKING`."""
    yield node
    skipped = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) else []
    for child in ast.iter_child_nodes(node):
        if child not in skipped:
            yield from _running(child)


def _is_import_call(function: ast.expr) -> bool:
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return called in {"import_module", "__import__"}


def violations(name: tuple[str, ...], source: str, known: set[str]) -> list[str]:
    """Return what is wrong with a module's imports, one sentence for each."""
    unit, found = name[1], []
    if unit not in RANKS:
        return []  # test_every_module_has_a_place says so
    for target, line in imports(name, source, known):
        where = f"{'/'.join(name)}.py:{line}"
        if target == EXPORTS:
            if unit not in MAY_USE_EXPORTS:
                found.append(f"{where}: imports from {ROOT} itself, which imports {unit}; name the module instead")
        elif target == unit or (unit, target) in DOORS:
            continue
        elif unit in PUBLIC_ONLY:
            found.append(f"{where}: {unit} imports {target}, but may use nothing but what {ROOT} exports")
        elif RANKS.get(target, -1) >= RANKS[unit]:
            found.append(f"{where}: {unit} imports {target}, which does not stand before it in LADDER")
    return found


def test_every_module_has_a_place() -> None:
    homeless = units() - set(RANKS)
    assert not homeless, f"give {', '.join(sorted(homeless))} a row in LADDER, before whatever is to import it"


def test_no_module_has_two_places() -> None:
    assert len(RANKS) == sum(map(len, LADDER))


@pytest.mark.parametrize("path", modules(), ids=lambda path: ".".join(name_of(path)[1:]))
def test_a_module_imports_only_what_stands_below_it(path: Path) -> None:
    wrong = violations(name_of(path), path.read_text(encoding="utf-8"), units() | set(RANKS))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", modules(), ids=lambda path: ".".join(name_of(path)[1:]))
def test_the_core_has_never_heard_of_virtual_machines(path: Path) -> None:
    name = name_of(path)
    if name[1] in {"vm", "cli"}:
        return
    reached = {found.unit for found in imports(name, path.read_text(encoding="utf-8"), units() | set(RANKS))}
    assert "vm" not in reached


class TestTheTestItself:
    KNOWN = frozenset({"errors", "keys", "cache", "tiers", "vm", "cli"})

    @pytest.mark.parametrize(
        ("module", "source"),
        [
            ("keys", "from .cache import Cache"),
            ("keys", "from . import cache"),
            ("keys", "import novacron_cache.cache"),
            ("keys", "from novacron_cache.cache import Cache"),
            ("keys", "from novacron_cache import cache"),
            ("keys", "from novacron_cache import Cache"),
            ("keys", "def late():\n    from .cache import Cache"),
            ("keys", "import importlib\nimportlib.import_module('novacron_cache.cache')"),
            ("tiers.redis", "from ..cache import Cache"),
            ("tiers.__init__", "from ..cache import Cache"),
            ("vm.models", "from ..cache import Cache"),
            ("vm.models", "from novacron_cache.errors import CacheError"),
            ("errors", "from .keys import Glob"),
            ("errors", "if TYPE_CHECKING:\n    pass\nelse:\n    from .keys import Glob"),
        ],
    )
    def test_an_import_that_looks_up_is_found(self, module: str, source: str) -> None:
        assert len(violations((ROOT, *module.split(".")), source, set(self.KNOWN))) == 1

    @pytest.mark.parametrize(
        ("module", "source"),
        [
            ("cache", "from .keys import Glob\nfrom . import errors\nimport novacron_cache.tiers.redis"),
            ("tiers.redis", "from . import Tier\nfrom .memory import MemoryTier\nfrom ..errors import TierError"),
            ("tiers.__init__", "from .redis import RedisTier\nfrom ..keys import Glob"),
            ("vm.manager", "from novacron_cache import Cache\nfrom .. import cached\nfrom .models import VMState"),
            ("cli.demo", "from ..vm import VMState\nfrom ..cache import Cache\nfrom novacron_cache import cached"),
            ("keys", "if TYPE_CHECKING:\n    from .cache import Cache"),
            ("keys", "import json\nfrom collections import cache\nimport importlib\nimportlib.import_module('json')"),
        ],
    )
    def test_an_import_that_looks_down_is_not(self, module: str, source: str) -> None:
        assert violations((ROOT, *module.split(".")), source, set(self.KNOWN)) == []

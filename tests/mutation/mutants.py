"""Small wrong programs: each is a module with one thing changed, and the tests have to tell it from the right one.

What is changed stands inside a function. Types, docstrings, decorators, what an error says, and the `strict=True` of a
`zip`, which guards against programs that are wrong already, are left alone: no test is meant to notice them. A change
is one that compiles and that a hasty hand could make: a comparison or a condition turned, a number one too large, an
argument or a result forgotten, a statement deleted.
"""

from __future__ import annotations

import ast
import copy
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
}  # fmt: skip
_UNTOUCHED = {"annotation", "returns", "decorator_list", "type_params"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(slots=True)
class Mutant:
    """One changed module.

    Attributes:
        path: the module's file, relative to the root.
        number: which of the file's mutants it is.
        line: where the change is.
        function: the function it is in, with its class.
        first_lines: where that function and those around it begin; this is how their code objects are recognised.
        before: what is there.
        after: what is put in its place.
        code: the changed module.
    """

    path: str
    number: int
    line: int
    function: str
    first_lines: tuple[int, ...]
    before: str
    after: str
    code: CodeType

    @property
    def name(self) -> str:
        """What `--only` knows it by."""
        return f"{self.path}#{self.number}"


@dataclass(slots=True)
class _Place:
    """Where in a tree something can be put."""

    owner: ast.AST
    field: str
    index: int | None
    functions: tuple[tuple[str, int], ...]

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.owner, self.field, node)
        else:
            getattr(self.owner, self.field)[self.index] = node


def sample(root: Path, paths: Sequence[str], size: int | None, seed: int) -> tuple[int, list[tuple[str, int]]]:
    """Return how many mutants there are of some files and folders, and the numbers of those that are chosen."""
    files = sorted(
        file.relative_to(root).as_posix()
        for path in paths
        for file in ([root / path] if (root / path).is_file() else (root / path).rglob("*.py"))
    )
    every = [(file, number) for file in files for number in range(len(_changes((root / file).read_text())[1]))]
    random.Random(seed).shuffle(every)  # noqa: S311 - chooses a sample
    return len(every), every[:size]


def make(root: Path, path: str, number: int) -> Mutant:
    """Return one mutant of a file."""
    tree, changes = _changes((root / path).read_text())
    place, old, new = changes[number]
    before, after = _text(old), _text(new)
    line = old.lineno
    place.put(ast.copy_location(new, old))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        code = compile(ast.fix_missing_locations(tree), str(root / path), "exec", dont_inherit=True)
    names = [name for name, _ in place.functions]
    return Mutant(
        path, number, line, ".".join(names), tuple(at for _, at in place.functions if at), before, after, code
    )


def _text(node: ast.AST) -> str:
    return ast.unparse(node).split("\n")[0]


def _changes(source: str) -> tuple[ast.Module, list[tuple[_Place, Any, Any]]]:
    tree = ast.parse(source)
    return tree, [
        (place, node, new)
        for place, node in _walk(tree, ())
        if any(at for _, at in place.functions)
        for new in _new(node)
    ]


def _walk(owner: ast.AST, functions: tuple[tuple[str, int], ...]) -> Iterator[tuple[_Place, Any]]:
    """Yield every node that may be changed, with its place and the functions and classes around it."""
    if isinstance(owner, ast.Raise) or (isinstance(owner, ast.keyword) and owner.arg == "strict"):
        return
    if isinstance(owner, (*_FUNCTIONS, ast.ClassDef)):
        is_function = isinstance(owner, _FUNCTIONS)
        first = min([owner.lineno, *(one.lineno for one in owner.decorator_list)]) if is_function else 0
        functions = (*functions, (owner.name, first))
    for field, value in ast.iter_fields(owner):
        if field in _UNTOUCHED:
            continue
        listed = value if isinstance(value, list) else [value]
        for index, node in enumerate(listed):
            if (
                isinstance(node, ast.AST)
                and not _is_docstring(owner, field, index, node)
                and not _is_compared(owner, node)
            ):
                yield _Place(owner, field, index if isinstance(value, list) else None, functions), node
                yield from _walk(node, functions)


def _is_docstring(owner: ast.AST, field: str, index: int, node: ast.AST) -> bool:
    return (
        field == "body"
        and index == 0
        and isinstance(owner, (*_FUNCTIONS, ast.ClassDef, ast.Module))
        and isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
    )


def _is_compared(owner: ast.AST, node: ast.AST) -> bool:
    """Return whether something is the `None` of an `is None`, which is changed as a whole."""
    return isinstance(owner, ast.Compare) and isinstance(owner.ops[0], ast.Is | ast.IsNot) and _is_constant(node)


def _with(node: Any, **fields: Any) -> Any:
    """Return a copy of a node with some fields changed; the rest is shared."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _replaced(items: Sequence[Any], index: int, item: Any) -> list[Any]:
    return [*items[:index], item, *items[index + 1 :]]


def _none() -> ast.Constant:
    return ast.Constant(None)


def _is_constant(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant)


def _new(node: ast.AST) -> list[ast.AST]:
    """Return what a node can be changed into."""
    change = _KINDS.get(type(node))
    return [] if change is None else list(change(node))


def _compare(node: ast.Compare) -> Iterator[ast.AST]:
    for index, operator in enumerate(node.ops):
        if (other := _COMPARISONS.get(type(operator))) is not None:
            yield _with(node, ops=_replaced(node.ops, index, other()))


def _boolean(node: ast.BoolOp) -> Iterator[ast.AST]:
    yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())


def _unary(node: ast.UnaryOp) -> Iterator[ast.AST]:
    if isinstance(node.op, ast.Not | ast.USub):
        yield node.operand


def _test(node: ast.If | ast.IfExp | ast.While) -> Iterator[ast.AST]:
    yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))


def _arithmetic(node: ast.BinOp | ast.AugAssign) -> Iterator[ast.AST]:
    if (other := _ARITHMETIC.get(type(node.op))) is not None:
        yield _with(node, op=other())


def _constant(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, str):
        yield ast.Constant(f"XX{value}")
    elif isinstance(value, bytes):
        yield ast.Constant(b"XX" + value)
    elif value is None:
        yield ast.Constant("")


def _call(node: ast.Call) -> Iterator[ast.AST]:
    for index, argument in enumerate(node.args):
        if not _is_constant(argument) and not isinstance(argument, ast.Starred):
            yield _with(node, args=_replaced(node.args, index, _none()))
    for index, keyword in enumerate(node.keywords):
        if keyword.arg and not _is_constant(keyword.value):
            yield _with(node, keywords=_replaced(node.keywords, index, _with(keyword, value=_none())))


def _assignment(node: ast.Assign | ast.AnnAssign) -> Iterator[ast.AST]:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    if node.value is not None and not isinstance(target, ast.Tuple) and not _is_constant(node.value):
        yield _with(node, value=_none())


def _statement(node: ast.Expr) -> Iterator[ast.AST]:
    if isinstance(node.value, ast.Yield | ast.YieldFrom):
        yield ast.Expr(ast.YieldFrom(ast.Tuple([], ast.Load())))  # a generator must stay one
    elif isinstance(node.value, ast.Call | ast.Await):
        yield ast.Pass()


def _result(node: ast.Return) -> Iterator[ast.AST]:
    if node.value is not None and not _is_constant(node.value):
        yield ast.Return(_none())


_KINDS: dict[type[ast.AST], Callable[[Any], Iterator[ast.AST]]] = {
    ast.Compare: _compare,
    ast.BoolOp: _boolean,
    ast.UnaryOp: _unary,
    ast.If: _test,
    ast.IfExp: _test,
    ast.While: _test,
    ast.BinOp: _arithmetic,
    ast.AugAssign: _arithmetic,
    ast.Constant: _constant,
    ast.Call: _call,
    ast.Assign: _assignment,
    ast.AnnAssign: _assignment,
    ast.Expr: _statement,
    ast.Break: lambda _: iter([ast.Continue()]),
    ast.Continue: lambda _: iter([ast.Break()]),
    ast.Return: _result,
}

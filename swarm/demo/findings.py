"""Three audits of one Python source file, each a pure function of its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct

#: A result stays small however bad the file is; the counts are always complete.
LISTED_MAX = 50

FunctionDef = ast.FunctionDef | ast.AsyncFunctionDef


class Finding(Struct, frozen=True, omit_defaults=True):
    """Something to look at in one file."""

    line: int
    #: Where, for people: a dotted name, or what was found.
    what: str
    #: How bad; only for audits that measure (cyclomatic complexity).
    score: int = 0


class Audit(Struct, omit_defaults=True):
    """The result of one work item."""

    file: str
    #: What the audit looked at: lines, public names or functions.
    looked_at: int = 0
    #: How many findings there are; `findings` has the first or worst ones of them.
    count: int = 0
    findings: list[Finding] = []
    #: Findings by kind; only for audits that tell kinds apart.
    kinds: dict[str, int] = {}
    #: Why the file could not be audited.
    unreadable: str = ""


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """`tree` and all below it, in no certain order; cheaper than `ast.walk`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        push_children(node, waiting)


def push_children(node: ast.AST, waiting: list[ast.AST]) -> None:
    """Append the nodes directly below `node`."""
    for field in node._fields:
        value = getattr(node, field, None)
        if value.__class__ is list:
            for child in value:
                if isinstance(child, ast.AST):
                    waiting.append(child)  # noqa: PERF401 - this is the faster one
        elif isinstance(value, ast.AST):
            waiting.append(value)


# --- suspicious ---------------------------------------------------------------------


def suspicious(file: str, tree: ast.Module) -> Audit:
    """Constructs that are legal and seldom meant."""
    kinds: dict[str, int] = {}
    found: list[Finding] = []
    for node in walk(tree):
        for check in _CHECKS.get(type(node), ()):
            for line, kind in check(node):
                kinds[kind] = kinds.get(kind, 0) + 1
                found.append(Finding(line, kind))
    found.sort(key=lambda finding: finding.line)
    lines = (tree.body[-1].end_lineno or 0) if tree.body else 0
    return Audit(file, lines, len(found), found[:LISTED_MAX], kinds)


_Found = Iterator[tuple[int, str]]


def _handler(node: ast.ExceptHandler) -> _Found:
    if node.type is None:
        yield node.lineno, "bare except"
    broad = node.type is None or _name(node.type) in ("Exception", "BaseException")
    if broad and len(node.body) == 1 and isinstance(node.body[0], ast.Pass):
        yield node.lineno, "every error silenced"


def _defaults(node: FunctionDef | ast.Lambda) -> _Found:
    for default in [*node.args.defaults, *node.args.kw_defaults]:
        made = isinstance(default, ast.Call) and _name(default.func) in ("list", "dict", "set")
        literal = isinstance(default, ast.List | ast.Dict | ast.Set)
        if default is not None and (made or literal):
            yield default.lineno, "mutable default argument"


def _call(node: ast.Call) -> _Found:
    name = _name(node.func)
    if name in ("eval", "exec"):
        yield node.lineno, f"{name}()"
    shell = any(
        keyword.arg == "shell" and getattr(keyword.value, "value", None) is True
        for keyword in node.keywords
    )
    if shell:
        yield node.lineno, "shell=True"


def _compare(node: ast.Compare) -> _Found:
    sides = [node.left, *node.comparators]
    for operator, left, right in zip(node.ops, sides, sides[1:], strict=False):
        equality = isinstance(operator, ast.Eq | ast.NotEq)
        identity = isinstance(operator, ast.Is | ast.IsNot)
        if equality and any(_is_none(side) for side in (left, right)):
            yield node.lineno, "== None"
        if identity and any(_is_text_or_number(side) for side in (left, right)):
            yield node.lineno, "is with a literal"
        if isinstance(operator, ast.Eq) and isinstance(left, ast.Name) and _same(left, right):
            yield node.lineno, "compared with itself"


def _assert(node: ast.Assert) -> _Found:
    if isinstance(node.test, ast.Tuple) and node.test.elts:
        yield node.lineno, "assert on a tuple"


def _dict(node: ast.Dict) -> _Found:
    seen: dict[tuple[type, object], None] = {}
    for key in node.keys:
        if not isinstance(key, ast.Constant):
            continue
        # 1, 1.0 and True are one key, and yet seldom written twice by mistake.
        which = (type(key.value), key.value)
        if which in seen:
            yield key.lineno, "duplicate dictionary key"
        seen[which] = None


def _raise(node: ast.Raise) -> _Found:
    what = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    if what is not None and _name(what) == "NotImplemented":
        yield node.lineno, "raise NotImplemented"


def _try(node: ast.Try) -> _Found:
    for statement in node.finalbody:
        if isinstance(statement, ast.Return):
            yield statement.lineno, "return in finally"


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text_or_number(node: ast.expr) -> bool:
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool):
        return False
    return isinstance(node.value, str | bytes | int | float | complex)


def _same(left: ast.Name, right: ast.expr) -> bool:
    return isinstance(right, ast.Name) and left.id == right.id


#: What to look at in each kind of node.
_CHECKS: Mapping[type[ast.AST], tuple[Callable[[Any], _Found], ...]] = {
    ast.ExceptHandler: (_handler,),
    ast.FunctionDef: (_defaults,),
    ast.AsyncFunctionDef: (_defaults,),
    ast.Lambda: (_defaults,),
    ast.Call: (_call,),
    ast.Compare: (_compare,),
    ast.Assert: (_assert,),
    ast.Dict: (_dict,),
    ast.Raise: (_raise,),
    ast.Try: (_try,),
}


# --- undocumented --------------------------------------------------------------------


def undocumented(file: str, tree: ast.Module) -> Audit:
    """Public classes, functions and methods without a docstring."""
    public = 0
    found: list[Finding] = []
    for name, node in _public(tree, ""):
        public += 1
        if ast.get_docstring(node, clean=False) is None:
            found.append(Finding(node.lineno, name))
    return Audit(file, public, len(found), found[:LISTED_MAX])


def _public(
    scope: ast.Module | ast.ClassDef, prefix: str
) -> Iterator[tuple[str, FunctionDef | ast.ClassDef]]:
    """(dotted name, definition), outside in; what is inside a function is private."""
    for node in scope.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        name = prefix + node.name
        yield name, node
        if isinstance(node, ast.ClassDef):
            yield from _public(node, f"{name}.")


# --- complexity ------------------------------------------------------------------------

#: From this many paths on a function is a finding (McCabe's own limit is 10).
COMPLEX_FROM = 11

_BRANCHES = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.IfExp,
    ast.comprehension,
    ast.match_case,
    ast.Assert,
)
_NESTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def complexity(file: str, tree: ast.Module) -> Audit:
    """Functions with many paths through them, worst first."""
    functions = 0
    found: list[Finding] = []
    for name, node in _functions(tree, ""):
        functions += 1
        paths = paths_through(node)
        if paths >= COMPLEX_FROM:
            found.append(Finding(node.lineno, name, paths))
    found.sort(key=lambda finding: (-finding.score, finding.line))
    return Audit(file, functions, len(found), found[:LISTED_MAX])


def paths_through(function: FunctionDef) -> int:
    """Cyclomatic complexity: 1, plus 1 for each branch; nested functions count by themselves."""
    paths = 1
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, _NESTED):
            continue
        if isinstance(node, _BRANCHES):
            paths += 1
        if isinstance(node, ast.comprehension):
            paths += len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            paths += len(node.values) - 1
        push_children(node, waiting)
    return paths


def _functions(scope: ast.AST, prefix: str) -> Iterator[tuple[str, FunctionDef]]:
    """(dotted name, function) of every function at any depth."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        if isinstance(node, _NESTED):
            yield from _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
            # A definition may stand in an `if` or a `try`; none is inside an expression.
            yield from _functions(node, prefix)

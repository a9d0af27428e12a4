"""The house rules as a test: each failure names what to write instead.

A rule is a function from one source to its complaints, so that the lower half of this
file can show, on small planted sources, that every rule is able to fail.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400
CORE_ASSERTS_PER_100_LINES_MIN = 3
#: A reason shorter than this many letters explains nothing.
REASON_LETTERS_MIN = 8

#: What `swarm/core` must not import, and what to do instead.
CORE_IMPORTS_BANNED = {
    "aiohttp": "I/O belongs in swarm/web",
    "asyncio": "return a command; swarm/actors performs it",
    "concurrent": "return a command; swarm/actors performs it",
    "logging": "return an event or raise; swarm/actors logs",
    "multiprocessing": "return a command; swarm/actors performs it",
    "nats": "return a command; swarm/bus sends it",
    "os": "take the value as an argument",
    "random": "take `rng: Random` as an argument (import it under TYPE_CHECKING)",
    "secrets": "take the nonce or an rng as an argument",
    "signal": "return a command; swarm/actors performs it",
    "socket": "return a command; swarm/bus sends it",
    "structlog": "return an event or raise; swarm/actors logs",
    "subprocess": "return a command; swarm/actors performs it",
    "swarm.actors": "core does not know its drivers; turn the dependency round",
    "swarm.bus": "core does not know its drivers; turn the dependency round",
    "swarm.cli": "core does not know its drivers; turn the dependency round",
    "swarm.testing": "core does not know its tests; turn the dependency round",
    "swarm.web": "core does not know its drivers; turn the dependency round",
    "threading": "return a command; swarm/actors performs it",
    "time": "take `now` as an argument",
    "uvloop": "return a command; swarm/actors performs it",
}

#: What `swarm/core` must not call, by full name, and what to do instead.
CORE_CALLS_BANNED = {
    "datetime.date.today": "take `now` as an argument",
    "datetime.datetime.now": "take `now` as an argument",
    "datetime.datetime.today": "take `now` as an argument",
    "datetime.datetime.utcnow": "take `now` as an argument",
    "hash": "differs between processes; use a digest from hashlib or zlib.crc32",
    "id": "differs between runs; give the object a number of its own",
    "input": "take the value as an argument",
    "open": "take the content as an argument",
    "uuid.uuid1": "take the id as an argument",
    "uuid.uuid4": "take the id as an argument",
    "uuid.uuid6": "take the id as an argument",
    "uuid.uuid7": "take the id as an argument",
}

#: Members of `random` that make a generator to pass in; the others share one hidden generator.
GENERATORS = {"Random", "SystemRandom"}

#: Spelled in two parts, so that this file does not break its own rules.
LATER_NOTE = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME)\b")
#: Absolute only: one behind a name, a variable or a dot is fine.
MACHINE_PATH = re.compile(r"(?<![\w.~}$*)\]-])/(?:work|root|tmp)/(?=[\w.<{$*-])")
#: On a sleep's line, or on the `def` line of the function around it.
VIRTUAL_TIME_MARK = "virtual time"


@dataclass(frozen=True)
class Source:
    """One file: its path relative to the root, with slashes, and its text."""

    path: str
    text: str

    @cached_property
    def lines(self) -> list[str]:
        """The text's lines; line n of a message is `lines[n - 1]`."""
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed module."""
        return ast.parse(self.text, self.path)

    @cached_property
    def comments(self) -> dict[int, str]:
        """Comment text by line number."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}

    @cached_property
    def names(self) -> dict[str, str]:
        """Local name -> full dotted name, for everything imported anywhere in the module."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    found[alias.asname or top] = alias.name if alias.asname else top
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        return found

    def full_name(self, node: ast.expr) -> str:
        """`aio.sleep` -> "asyncio.sleep" after `import asyncio as aio`; "" if not a name."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            base = self.full_name(node.value)
            return f"{base}.{node.attr}" if base else ""
        return ""

    def complain(self, line: int, text: str) -> str:
        """One complaint, in the form that editors can jump to."""
        return f"{self.path}:{line}: {text}"

    def under(self, *folders: str) -> bool:
        """Whether the file lies below one of these folders."""
        return any(self.path.startswith(f"{folder}/") for folder in folders)


Rule = Callable[[Source], Iterator[str]]
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
DEF_TYPES = (ast.FunctionDef, ast.AsyncFunctionDef)


# --- rules on Python sources ---


def core_is_pure(source: Source) -> Iterator[str]:
    """`swarm/core` decides: no clock, no randomness, no I/O, nothing to await."""
    if not source.under("swarm/core"):
        return
    typing_only = _typing_only_nodes(source)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in _imported(node):
                if name == "random.Random" and node in typing_only:
                    continue
                instead = _banned_import(name)
                if instead:
                    yield source.complain(node.lineno, f"core imports {name}: {instead}")
        elif isinstance(node, ast.Call):
            name = source.full_name(node.func)
            if name in CORE_CALLS_BANNED:
                instead = CORE_CALLS_BANNED[name]
                yield source.complain(node.lineno, f"core calls {name}(): {instead}")
        elif isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield source.complain(
                node.lineno, "core awaits: return a command; swarm/actors performs it"
            )


def _typing_only_nodes(source: Source) -> set[ast.AST]:
    return {
        inner
        for node in ast.walk(source.tree)
        if isinstance(node, ast.If) and source.full_name(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module or ''}.{alias.name}" for alias in node.names]


def _banned_import(name: str) -> str | None:
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        instead = CORE_IMPORTS_BANNED.get(".".join(parts[:size]))
        if instead:
            return instead
    return None


def randomness_is_passed_in(source: Source) -> Iterator[str]:
    """No module-level `random.` anywhere under swarm/: it cannot be seeded by a caller."""
    if not source.under("swarm"):
        return
    instead = "take `rng: random.Random` as an argument and call rng"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute):
            name = source.full_name(node)
            module, _, member = name.rpartition(".")
            if module == "random" and member not in GENERATORS:
                yield source.complain(node.lineno, f"{name}: {instead}")
        elif isinstance(node, ast.ImportFrom) and node.module == "random":
            for alias in node.names:
                if alias.name not in GENERATORS:
                    yield source.complain(node.lineno, f"random.{alias.name}: {instead}")


def functions_are_short(source: Source) -> Iterator[str]:
    """At most 70 lines from `def` to the end."""
    for node in ast.walk(source.tree):
        if not isinstance(node, DEF_TYPES):
            continue
        assert node.end_lineno is not None
        size = node.end_lineno - node.lineno + 1
        if size > FUNCTION_LINES_MAX:
            yield source.complain(
                node.lineno,
                f"{node.name}() has {size} lines, at most {FUNCTION_LINES_MAX}: "
                "move one of its steps into a function named for it",
            )


def files_are_short(source: Source) -> Iterator[str]:
    """At most 400 lines under swarm/."""
    size = len(source.lines)
    if source.under("swarm") and size > FILE_LINES_MAX:
        yield source.complain(
            FILE_LINES_MAX + 1,
            f"file has {size} lines, at most {FILE_LINES_MAX}: "
            "move one responsibility into a module named for it",
        )


def errors_are_not_silenced(source: Source) -> Iterator[str]:
    """No bare except, nothing broad dropped, and a reason beside whatever is dropped."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            yield from _handler_complaints(source, node)
        elif isinstance(node, ast.With | ast.AsyncWith):
            for item in node.items:
                yield from _suppress_complaints(source, item.context_expr)


def _handler_complaints(source: Source, node: ast.ExceptHandler) -> Iterator[str]:
    if node.type is None:
        yield source.complain(
            node.lineno, "bare except: name the exception (everything: `except BaseException`)"
        )
        return
    if not all(_does_nothing(statement) for statement in node.body):
        return
    if _is_broad(source, node.type):
        yield source.complain(
            node.lineno, "drops every error: name the exception, or log and count it"
        )
        return
    last = node.body[-1].end_lineno
    assert last is not None
    if not _has_reason(source, node.lineno, last):
        yield source.complain(
            node.lineno, "silent except: say in a comment beside `pass` why nothing is to be done"
        )


def _suppress_complaints(source: Source, call: ast.expr) -> Iterator[str]:
    if not isinstance(call, ast.Call):
        return
    if source.full_name(call.func) != "contextlib.suppress":
        return
    if any(_is_broad(source, argument) for argument in call.args):
        yield source.complain(
            call.lineno, "drops every error: name the exception, or log and count it"
        )
        return
    assert call.end_lineno is not None
    if not _has_reason(source, call.lineno - 1, call.end_lineno):
        yield source.complain(
            call.lineno, "silent suppress: say in a comment on or above it why that is right"
        )


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass):
        return True
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_broad(source: Source, node: ast.expr) -> bool:
    members = node.elts if isinstance(node, ast.Tuple) else [node]
    broad = {"Exception", "BaseException", "builtins.Exception", "builtins.BaseException"}
    return any(source.full_name(member) in broad for member in members)


def _has_reason(source: Source, first: int, last: int) -> bool:
    for line in range(first, last + 1):
        comment = source.comments.get(line, "")
        # A directive for a tool is no reason; what follows it may be one.
        comment = re.sub(r"#\s*(?:noqa|type:|pragma|pylint|ruff)[^#]*?(?=\s-|#|$)", "", comment)
        if len(re.findall(r"[^\W\d_]", comment)) >= REASON_LETTERS_MIN:
            return True
    return False


def no_test_sleeps(source: Source) -> Iterator[str]:
    """Sleeping to synchronise is slow when it works and wrong when the machine is busy."""
    if not source.under("tests"):
        return
    allowed = _virtual_time_lines(source)
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or node.lineno in allowed:
            continue
        name = source.full_name(node.func)
        if name == "time.sleep":
            yield source.complain(
                node.lineno, "time.sleep: wait for a signal, or for a condition with a deadline"
            )
        elif name == "asyncio.sleep" and _is_nonzero_literal(node):
            yield source.complain(
                node.lineno,
                "asyncio.sleep: wait for a signal, or for a condition with a deadline "
                f"(on the simulated loop, mark the line or its def `# {VIRTUAL_TIME_MARK}`)",
            )


def _is_nonzero_literal(call: ast.Call) -> bool:
    delays = call.args[:1] or [k.value for k in call.keywords if k.arg == "delay"]
    return any(isinstance(d, ast.Constant) and d.value != 0 for d in delays)


def _virtual_time_lines(source: Source) -> set[int]:
    marked = {line for line, text in source.comments.items() if VIRTUAL_TIME_MARK in text}
    found = set(marked)
    for node in ast.walk(source.tree):
        # The mark may stand at the end of a signature of several lines.
        if isinstance(node, DEF_TYPES) and marked & {*range(node.lineno, node.body[0].lineno)}:
            assert node.end_lineno is not None
            found.update(range(node.lineno, node.end_lineno + 1))
    return found


def printing_is_for_the_cli(source: Source) -> Iterator[str]:
    """A library that prints corrupts the output of the program that uses it."""
    if not source.under("swarm") or source.under("swarm/cli"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and source.full_name(node.func) == "print":
            yield source.complain(
                node.lineno,
                "print: return the text and print it in swarm/cli, log it with structlog, "
                "or write to the stream you were given",
            )


def modules_say_what_they_are_for(source: Source) -> Iterator[str]:
    """A docstring heads every module of swarm/, except an empty `__init__.py`."""
    if not source.under("swarm"):
        return
    if source.path.endswith("/__init__.py") and not source.tree.body:
        return
    if not ast.get_docstring(source.tree):
        yield source.complain(1, "no module docstring: say in one line what the module is for")


# --- rules on any text ---


def nothing_is_put_off(source: Source) -> Iterator[str]:
    """Notes to do it later rot: finish it, or leave it out."""
    if not source.under("swarm", "tests", "bench"):
        return
    for number, line in enumerate(source.lines, start=1):
        match = LATER_NOTE.search(line)
        if match:
            yield source.complain(
                number, f"{match.group()}: finish it now, or leave it out and open an issue"
            )


def paths_are_not_of_one_machine(source: Source) -> Iterator[str]:
    """What lies where on the author's machine is of no use on another."""
    for number, line in enumerate(source.lines, start=1):
        match = MACHINE_PATH.search(line)
        if match:
            yield source.complain(
                number,
                f"machine path {match.group()}…: use a path relative to the repository, "
                "`tmp_path` in a test, `tempfile` in code",
            )


PYTHON_RULES: list[Rule] = [
    core_is_pure,
    randomness_is_passed_in,
    functions_are_short,
    files_are_short,
    errors_are_not_silenced,
    no_test_sleeps,
    printing_is_for_the_cli,
    modules_say_what_they_are_for,
]
TEXT_RULES: list[Rule] = [nothing_is_put_off, paths_are_not_of_one_machine]


# --- asserts in the core ---


def code_lines(source: Source) -> int:
    """Lines that hold code: not blank, not only a comment, not a docstring."""
    docstrings: set[int] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Module | ast.ClassDef | FunctionNode):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                assert first.end_lineno is not None
                docstrings.update(range(first.lineno, first.end_lineno + 1))
    layout = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type not in layout:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


def assert_shortage(sources: list[Source]) -> str:
    """What is missing to three asserts per 100 lines of code; "" when nothing is."""
    lines = sum(code_lines(source) for source in sources)
    asserts = sum(isinstance(n, ast.Assert) for s in sources for n in ast.walk(s.tree))
    if asserts * 100 >= lines * CORE_ASSERTS_PER_100_LINES_MIN:
        return ""
    needed = -(-lines * CORE_ASSERTS_PER_100_LINES_MIN // 100)
    return (
        f"swarm/core has {asserts} asserts in {lines} lines of code, needs {needed}: "
        "assert the invariants that its functions rely on and leave behind"
    )


# --- the repository obeys ---


def python_sources() -> list[Source]:
    """Every Python file of the package, the tests and the benchmarks."""
    paths = [p for top in ("swarm", "tests", "bench") for p in sorted((ROOT / top).rglob("*.py"))]
    return [Source(p.relative_to(ROOT).as_posix(), p.read_text("utf-8")) for p in paths]


def text_sources() -> list[Source]:
    """Every text file that is, or is about to be, tracked."""
    found = []
    for path in _tracked_paths():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # an image or another binary holds no style
        found.append(Source(path.relative_to(ROOT).as_posix(), text))
    return found


def _tracked_paths() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        # An unpacked source archive: no git, or not a checkout. Other hidden folders hold caches.
        tops = [p for p in ROOT.iterdir() if p.name[0] != "." or p.name == ".ci" or p.is_file()]
        paths = [p for top in tops for p in ([top] if top.is_file() else top.rglob("*"))]
    else:
        paths = [ROOT / name for name in listing.decode().split("\0") if name]
    return sorted(p for p in paths if p.is_file())


def obey(rule: Rule, sources: list[Source]) -> None:
    """Fail with every complaint of one rule, one a line."""
    complaints = [complaint for source in sources for complaint in rule(source)]
    assert not complaints, "\n" + "\n".join(complaints)


def rule_name(rule: Rule) -> str:
    """How a rule is called in a test's id."""
    return getattr(rule, "__name__", "rule")


@pytest.mark.parametrize("rule", PYTHON_RULES, ids=rule_name)
def test_python_sources_obey(rule: Rule) -> None:
    obey(rule, python_sources())


@pytest.mark.parametrize("rule", TEXT_RULES, ids=rule_name)
def test_text_files_obey(rule: Rule) -> None:
    obey(rule, text_sources())


def test_core_asserts_its_invariants() -> None:
    core = [source for source in python_sources() if source.under("swarm/core")]
    assert core, "swarm/core is not where this test looks for it"
    if not any(code_lines(source) for source in core):
        pytest.skip("swarm/core is still empty")
    assert not assert_shortage(core), assert_shortage(core)


def test_sources_are_found() -> None:
    """A rule that looks at nothing would always hold."""
    assert {"swarm/__init__.py", "tests/test_tidy.py"} <= {s.path for s in python_sources()}
    paths = {s.path for s in text_sources()}
    assert {"pyproject.toml", "Makefile", ".ci/run", "tests/test_tidy.py"} <= paths


# --- every rule can fail ---

LONG_BODY = "    x = 1\n"
VIOLATIONS: list[tuple[Rule, str, str, str]] = [
    (core_is_pure, "swarm/core/a.py", "import time\n", "take `now`"),
    (core_is_pure, "swarm/core/a.py", "import asyncio\n", "swarm/actors performs"),
    (core_is_pure, "swarm/core/a.py", "import nats.js as js\n", "swarm/bus sends"),
    (core_is_pure, "swarm/core/a.py", "from nats.js import api\n", "swarm/bus sends"),
    (core_is_pure, "swarm/core/a.py", "from random import Random\n", "under TYPE_CHECKING"),
    (core_is_pure, "swarm/core/a.py", "import random\n", "take `rng: Random`"),
    (core_is_pure, "swarm/core/a.py", "from swarm import bus\n", "does not know its drivers"),
    (core_is_pure, "swarm/core/a.py", "from swarm.bus.base import Bus\n", "does not know"),
    (core_is_pure, "swarm/core/a.py", "def f():\n    from time import time\n", "take `now`"),
    (
        core_is_pure,
        "swarm/core/a.py",
        "from datetime import datetime as d\nd.now()\n",
        "datetime.datetime.now(): take `now`",
    ),
    (core_is_pure, "swarm/core/a.py", "import datetime\ndatetime.datetime.utcnow()\n", "now"),
    (core_is_pure, "swarm/core/a.py", "import uuid\nuuid.uuid4()\n", "take the id"),
    (core_is_pure, "swarm/core/a.py", "hash('x')\n", "hashlib"),
    (core_is_pure, "swarm/core/a.py", "async def f(): ...\n", "return a command"),
    (randomness_is_passed_in, "swarm/a.py", "import random\nrandom.random()\n", "take `rng"),
    (randomness_is_passed_in, "swarm/a.py", "import random as r\nf = r.shuffle\n", "take `rng"),
    (randomness_is_passed_in, "swarm/a.py", "from random import choice\n", "random.choice"),
    (functions_are_short, "bench/a.py", "def f():\n" + LONG_BODY * 70, "move one of its steps"),
    (functions_are_short, "swarm/a.py", "async def f():\n" + LONG_BODY * 70, "71 lines"),
    (files_are_short, "swarm/a.py", "x = 1\n" * 401, "move one responsibility"),
    (errors_are_not_silenced, "swarm/a.py", "try: f()\nexcept: g()\n", "name the exception"),
    (
        errors_are_not_silenced,
        "swarm/a.py",
        "try: f()\nexcept Exception:\n    pass  # nothing can be done here\n",
        "log and count it",
    ),
    (
        errors_are_not_silenced,
        "swarm/a.py",
        "try: f()\nexcept (OSError, BaseException): ...\n",
        "log and count it",
    ),
    (
        errors_are_not_silenced,
        "swarm/a.py",
        "try: f()\nexcept OSError:\n    pass\n",
        "comment beside `pass`",
    ),
    (
        errors_are_not_silenced,
        "swarm/a.py",
        "try: f()\nexcept OSError:  # noqa: PERF203\n    pass\n",
        "comment beside `pass`",
    ),
    (
        errors_are_not_silenced,
        "swarm/a.py",
        "from contextlib import suppress\nwith suppress(OSError):\n    f()\n",
        "comment on or above",
    ),
    (
        errors_are_not_silenced,
        "swarm/a.py",
        "import contextlib as c\n# it may fail, who cares\nwith c.suppress(Exception): f()\n",
        "log and count it",
    ),
    (no_test_sleeps, "tests/a.py", "import time\ntime.sleep(0)\n", "wait for a signal"),
    (no_test_sleeps, "tests/a.py", "from time import sleep\nsleep(1)\n", "with a deadline"),
    (no_test_sleeps, "tests/a.py", "import asyncio\nasyncio.sleep(0.1)\n", "with a deadline"),
    (
        no_test_sleeps,
        "tests/a.py",
        "import asyncio as aio\naio.sleep(delay=2)\n",
        "with a deadline",
    ),
    (printing_is_for_the_cli, "swarm/a.py", "print(1)\n", "print it in swarm/cli"),
    (modules_say_what_they_are_for, "swarm/a.py", "x = 1\n", "say in one line"),
    (modules_say_what_they_are_for, "swarm/a.py", "", "say in one line"),
    (modules_say_what_they_are_for, "swarm/__init__.py", "x = 1\n", "say in one line"),
    (nothing_is_put_off, "swarm/a.py", "# TO" + "DO: later\n", "finish it now"),
    (nothing_is_put_off, "bench/README.md", "FIX" + "ME\n", "finish it now"),
    (paths_are_not_of_one_machine, "docs/a.md", "in `/wo" + "rk/x`\n", "relative to the"),
    (paths_are_not_of_one_machine, "a.toml", 'x = "/ro' + 'ot/.cache"\n', "relative to the"),
    (paths_are_not_of_one_machine, "tests/a.py", "open('/t" + "mp/x')\n", "`tmp_path`"),
    (paths_are_not_of_one_machine, "a.md", "file:///wo" + "rk/x\n", "relative to the"),
]

LEGAL: list[tuple[Rule, str, str]] = [
    (core_is_pure, "swarm/actors/a.py", "import asyncio, time\n"),
    (core_is_pure, "swarm/core_tools.py", "import time\n"),
    (core_is_pure, "swarm/core/a.py", "import datetime\nfrom swarm.errors import BadInput\n"),
    (
        core_is_pure,
        "swarm/core/a.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from random import Random\n",
    ),
    (core_is_pure, "swarm/core/a.py", "def f(rng, now):\n    return rng.random() + now\n"),
    (
        randomness_is_passed_in,
        "swarm/a.py",
        "import random\nrng = random.Random(1)\nrng.random()\n",
    ),
    (randomness_is_passed_in, "swarm/a.py", "from random import SystemRandom\nSystemRandom()\n"),
    (randomness_is_passed_in, "swarm/a.py", "def f(random):\n    return random\n"),
    (randomness_is_passed_in, "tests/a.py", "import random\nrandom.random()\n"),
    (functions_are_short, "swarm/a.py", "def f():\n" + LONG_BODY * 69),
    (files_are_short, "swarm/a.py", "x = 1\n" * 400),
    (files_are_short, "tests/a.py", "x = 1\n" * 401),
    (errors_are_not_silenced, "swarm/a.py", "try: f()\nexcept Exception: g()\n"),
    (
        errors_are_not_silenced,
        "swarm/a.py",
        "try: f()\nexcept OSError:\n    # closing twice is fine\n    pass\n",
    ),
    (
        errors_are_not_silenced,
        "swarm/a.py",
        "try: f()\nexcept OSError:  # noqa: PERF203 - already gone\n    pass\n",
    ),
    (
        errors_are_not_silenced,
        "swarm/a.py",
        "from contextlib import suppress\n# already gone is fine\nwith suppress(OSError): f()\n",
    ),
    (no_test_sleeps, "tests/a.py", "import asyncio\nasyncio.sleep(0)\nasyncio.sleep(d)\n"),
    (no_test_sleeps, "tests/a.py", "import asyncio\nasyncio.sleep(5)  # virtual time\n"),
    (
        no_test_sleeps,
        "tests/a.py",
        "import asyncio\nasync def f(\n    x,\n):  # virtual time\n    await asyncio.sleep(5)\n",
    ),
    (no_test_sleeps, "bench/a.py", "import time\ntime.sleep(1)\n"),
    (printing_is_for_the_cli, "swarm/cli/a.py", "print(1)\n"),
    (printing_is_for_the_cli, "swarm/a.py", "console.print(1)\n"),
    (modules_say_what_they_are_for, "swarm/a.py", '"""What it is for."""\n'),
    (modules_say_what_they_are_for, "swarm/__init__.py", "# empty\n"),
    (nothing_is_put_off, "swarm/a.py", "TODOS = 1\nmastodon = 2\n"),
    (
        paths_are_not_of_one_machine,
        "docs/a.md",
        f"docs/{'work'}/x, /api/{'work'}/1, `swarm work list`\n",
    ),
    (
        paths_are_not_of_one_machine,
        "Makefile",
        f"x = $(DIR)/{'tmp'}/x ./{'tmp'}/x ~/{'work'}/x {{d}}/{'root'}/y\n",
    ),
    (paths_are_not_of_one_machine, "compose.yml", "tmpfs: /tmp\n"),
]


@pytest.mark.parametrize(("rule", "path", "text", "fragment"), VIOLATIONS)
def test_a_violation_is_found(rule: Rule, path: str, text: str, fragment: str) -> None:
    complaints = list(rule(Source(path, text)))
    assert complaints
    assert all(re.match(re.escape(path) + r":\d+: ", complaint) for complaint in complaints)
    assert any(fragment in complaint for complaint in complaints), complaints


@pytest.mark.parametrize(("rule", "path", "text"), LEGAL)
def test_legal_code_passes(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text))) == []


def test_every_rule_has_a_violation_and_a_legal_case() -> None:
    rules = {*PYTHON_RULES, *TEXT_RULES}
    assert {violation[0] for violation in VIOLATIONS} == rules
    assert {legal[0] for legal in LEGAL} == rules


def test_a_complaint_names_the_line() -> None:
    source = Source("swarm/core/a.py", '"""Doc."""\n\nimport time\n')
    assert [c.split(" ")[0] for c in core_is_pure(source)] == ["swarm/core/a.py:3:"]


def test_obey_fails_with_every_complaint() -> None:
    sources = [Source(f"swarm/{name}.py", "print(1)\n") for name in "ab"]
    with pytest.raises(AssertionError, match=r"swarm/a\.py:1: print(.|\n)*swarm/b\.py:1: print"):
        obey(printing_is_for_the_cli, sources)


def test_code_lines_leave_out_what_is_no_code() -> None:
    prose = '"""Doc.\n\nMore.\n"""\n\n# why\n'
    code = 'x = """a\nb"""\n\n\ndef f():\n    """Doc."""\n    return (\n        1  # one\n    )\n'
    # x over two lines, def, return over three.
    assert code_lines(Source("swarm/core/a.py", prose + code)) == 6


def test_too_few_asserts_in_the_core_are_found() -> None:
    body = "x = 1\n" * 97
    enough = Source("swarm/core/a.py", body + "assert x\n" * 3)
    short = Source("swarm/core/b.py", body + "y = 2\n" + "assert x\n" * 2)
    assert assert_shortage([enough]) == ""
    assert "2 asserts in 100 lines of code, needs 3" in assert_shortage([short])
    assert "5 asserts in 200 lines of code, needs 6" in assert_shortage([enough, short])

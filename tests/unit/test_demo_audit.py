"""The three audits: what they find, what they leave alone, and files that cannot be audited."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from swarm.demo import audit as audits
from swarm.demo.audit import AUDITS, RECORDS_ENV, audit
from swarm.demo.findings import (
    COMPLEX_FROM,
    LISTED_MAX,
    Audit,
    Finding,
    complexity,
    paths_through,
    suspicious,
    undocumented,
)
from swarm.testing.history import read_executions


def tree(text: str) -> ast.Module:
    return ast.parse(text)


# --- suspicious ---------------------------------------------------------------------------

SUSPICIOUS = [
    ("try: f()\nexcept: g()\n", 2, "bare except"),
    ("try: f()\nexcept Exception:\n    pass\n", 2, "every error silenced"),
    ("def f(a=[]): ...\n", 1, "mutable default argument"),
    ("def f(*, a={}): ...\n", 1, "mutable default argument"),
    ("async def f(a=dict()): ...\n", 1, "mutable default argument"),
    ("f = lambda a=set(): a\n", 1, "mutable default argument"),
    ("eval(x)\n", 1, "eval()"),
    ("exec(x)\n", 1, "exec()"),
    ("run(x, shell=True)\n", 1, "shell=True"),
    ("x == None\n", 1, "== None"),
    ("None != x\n", 1, "== None"),
    ("1 < x == None\n", 1, "== None"),
    ("x is 'text'\n", 1, "is with a literal"),
    ("x is not 3\n", 1, "is with a literal"),
    ("x == x\n", 1, "compared with itself"),
    ("assert (x, 'message')\n", 1, "assert on a tuple"),
    ("{'a': 1,\n 'a': 2}\n", 2, "duplicate dictionary key"),
    ("raise NotImplemented\n", 1, "raise NotImplemented"),
    ("raise NotImplemented('x')\n", 1, "raise NotImplemented"),
    ("def f():\n  try: g()\n  finally:\n    return 1\n", 4, "return in finally"),
]


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize(("text", "line", "kind"), SUSPICIOUS)
def test_a_suspicious_construct_is_found(text: str, line: int, kind: str) -> None:
    found = suspicious("a.py", tree(text))
    assert found.findings == [Finding(line, kind)]
    assert (found.count, found.kinds) == (1, {kind: 1})


INNOCENT = [
    "try: f()\nexcept ValueError:\n    pass\n",
    "try: f()\nexcept Exception:\n    log()\n",
    "def f(a=(), b=None, c=frozenset(), d=0): ...\n",
    "m.eval(x)\n",
    "run(x, shell=False)\n",
    "x is None\n",
    "x is True\n",
    "x == y\n",
    "f() == f()\n",
    "assert ()\n",
    "{'a': 1, 'b': 1, **c, **c}\n{1: 0, True: 0}\n",
    "raise NotImplementedError\n",
    "raise\n",
    "def f():\n  try: return 1\n  finally: g()\n",
]


@pytest.mark.parametrize("text", INNOCENT)
def test_innocent_code_is_left_alone(text: str) -> None:
    assert suspicious("a.py", tree(text)).findings == []


def test_findings_come_in_order_and_are_counted_beyond_those_listed() -> None:
    text = "def f(a=[], b=eval('1')): ...\n" + "exec(x)\n" * 100
    found = suspicious("a.py", tree(text))
    assert found.count == 102
    assert found.kinds == {"mutable default argument": 1, "eval()": 1, "exec()": 100}
    assert len(found.findings) == LISTED_MAX
    assert [finding.line for finding in found.findings[:4]] == [1, 1, 2, 3]
    assert found.looked_at == 101


# --- undocumented ---------------------------------------------------------------------------


def test_public_names_without_a_docstring_are_found() -> None:
    text = '''
class Shown:
    """Documented."""
    def method(self): ...
    async def waiting(self):
        """Documented."""
    def _own(self): ...
    class Inner:
        def deep(self): ...
class _Hidden:
    def method(self): ...
def function():
    def nested(): ...
'''
    found = undocumented("a.py", tree(text))
    assert [finding.what for finding in found.findings] == [
        "Shown.method",
        "Shown.Inner",
        "Shown.Inner.deep",
        "function",
    ]
    assert (found.count, found.looked_at) == (4, 6)


# --- complexity -------------------------------------------------------------------------------

PATHS = [
    ("pass", 1),
    ("if a: pass", 2),
    ("if a: pass\n elif b: pass\n else: pass", 3),
    ("while a: pass", 2),
    ("for a in b: pass", 2),
    ("x = a if b else c", 2),
    ("x = a and b or c", 3),
    ("x = [a for a in b if a if c]", 4),
    ("try: a\n except B: pass\n except C: pass", 3),
    ("match a:\n  case 1: pass\n  case _: pass", 3),
    ("assert a", 2),
    # A nested function counts by itself.
    ("def g():\n  if a: pass", 1),
]


@pytest.mark.parametrize(("body", "paths"), PATHS)
def test_paths_through_a_function(body: str, paths: int) -> None:
    function = tree(f"def f():\n {body}\n").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert paths_through(function) == paths


def test_complex_functions_are_found_worst_first() -> None:
    def function(name: str, branches: int) -> str:
        return f"def {name}():\n" + " if a: pass\n" * branches

    text = function("simple", COMPLEX_FROM - 2) + function("bad", COMPLEX_FROM - 1)
    text += "if x:\n class A:\n" + "".join(
        f"  {line}\n" for line in function("worse", 20).splitlines()
    )
    found = complexity("a.py", tree(text))
    assert [(finding.what, finding.score) for finding in found.findings] == [
        ("A.worse", 21),
        ("bad", 11),
    ]
    assert (found.count, found.looked_at) == (2, 3)


# --- files ------------------------------------------------------------------------------------

UNREADABLE: list[tuple[bytes, str]] = [
    (b"def f(:\n", "invalid syntax"),
    (b"print 'python 2'\n", "Missing parentheses"),
    (b"x = 1\0\n", "null bytes"),
    (b"# -*- coding: no-such -*-\n", "unknown encoding: no-such"),
    (b"x = '\xff'\n", "encoding"),
    (b"# coding: ascii\nx = '\xe4'\n", "ascii"),
    (b"x = " + b"(" * 300 + b")" * 300, "too many nested parentheses"),
    (b"x = " + b"-" * 100_000 + b"1", ""),
]


@pytest.mark.parametrize("work_type", AUDITS)
@pytest.mark.parametrize(("data", "why"), UNREADABLE)
def test_a_file_that_cannot_be_parsed_gives_a_result_that_says_so(
    tmp_path: Path, data: bytes, why: str, work_type: str
) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(data)
    found = audit("a.py", path, AUDITS[work_type])
    assert found.unreadable.startswith("cannot be parsed: ")
    assert why in found.unreadable
    assert (found.count, found.findings) == (0, [])


def test_a_file_that_is_gone_gives_a_result_that_says_so(tmp_path: Path) -> None:
    found = audit("a.py", tmp_path / "a.py", suspicious)
    assert found.unreadable == "cannot be read: No such file or directory"


def test_encodings_are_honoured(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes("# coding: latin-1\ndef größe(): ...\n".encode("latin-1"))
    assert audit("a.py", path, undocumented).findings == [Finding(2, "größe")]
    path.write_bytes(b"\xef\xbb\xbfdef f(): ...\n")
    assert audit("a.py", path, undocumented).findings == [Finding(1, "f")]


def test_an_empty_file_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.touch()
    for look in AUDITS.values():
        assert audit("a.py", path, look) == Audit("a.py")


def test_warnings_of_the_compiler_are_not_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("x = '\\d'\nassert (x, 1)\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert audit("a.py", path, suspicious).unreadable == ""


def test_a_real_file_is_audited() -> None:
    path = Path(sysconfig.get_path("stdlib"), "argparse.py")
    found = {name: audit("argparse.py", path, look) for name, look in AUDITS.items()}
    assert found["suspicious"].looked_at > 1000
    assert found["undocumented"].count > 20
    assert found["complexity"].findings[0].score >= COMPLEX_FROM


# --- the handlers -------------------------------------------------------------------------------


@pytest.mark.parametrize("work_type", AUDITS)
def test_a_handler_records_its_execution_and_returns_the_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work_type: str
) -> None:
    monkeypatch.setenv(RECORDS_ENV, str(tmp_path / "records"))
    audits._records.cache_clear()
    path = tmp_path / "bäd\udcff name.py"
    path.write_text("def f(a=[]): ...\n")
    task: Any = SimpleNamespace(
        work_item_id="3-1",
        token="1.n.s",
        payload={"file": "shown", "uri": path.as_uri()},
    )
    result = getattr(audits, work_type)(task)
    audits._records().close()
    audits._records.cache_clear()
    assert msgspec.convert(result, Audit).file == "shown"
    assert not msgspec.convert(result, Audit).unreadable
    msgspec.json.encode(result)
    (execution,) = read_executions(tmp_path / "records")
    assert (execution.work_item_id, execution.token) == ("3-1", "1.n.s")
    assert execution.end is not None

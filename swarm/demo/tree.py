"""The work of the demo: the Python files below a directory, as work items."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from swarm.demo.audit import AUDITS
from swarm.errors import BadInput
from swarm.messages import NewItem, Priority
from swarm.sdk.items import to_json

#: Not looked into: caches, and what others have installed there.
SKIPPED = ("__pycache__", "site-packages", "dist-packages", "node_modules")

#: The longest work first: from this many bytes on a file has that priority.
PRIORITY_FROM: tuple[tuple[int, Priority], ...] = (
    (80_000, "critical"),
    (25_000, "high"),
    (5_000, "medium"),
    (0, "low"),
)


class SourceFile(Struct, frozen=True):
    """A file to audit."""

    #: Relative to the tree, for people.
    name: str
    path: Path
    size: int


class Tree(Struct):
    """What was found below a directory."""

    root: Path
    files: list[SourceFile]
    #: Directories that could not be looked into, and why.
    closed: list[str]


def default_root() -> Path:
    """The standard library of the Python that runs this."""
    return Path(sysconfig.get_path("stdlib"))


def find(root: Path) -> Tree:
    """All ``.py`` files below `root`, links not followed; `BadInput` if there are none."""
    if not root.exists():
        raise BadInput(f"--tree {root}: there is no such directory")
    if not root.is_dir():
        raise BadInput(f"--tree {root} is not a directory; name the one that the source is in")
    tree = Tree(root.resolve(), [], [])

    def closed(error: OSError) -> None:
        tree.closed.append(f"{error.filename}: {error.strerror}")

    for folder, folders, names in os.walk(tree.root, onerror=closed):
        folders[:] = sorted(
            name for name in folders if name not in SKIPPED and not name.startswith(".")
        )
        for name in sorted(names):
            path = Path(folder, name)
            if name.endswith(".py") and path.is_file():
                tree.files.append(SourceFile(readable(path, tree.root), path, _size(path)))
    if not tree.files:
        why = f" ({'; '.join(tree.closed)})" if tree.closed else ""
        raise BadInput(f"--tree {root}: no .py file in it{why}; name a directory with Python code")
    return tree


def items(tree: Tree) -> Iterator[NewItem]:
    """One item for each file and audit."""
    for file in tree.files:
        top = file.name.partition("/")[0] if "/" in file.name else "."
        for work_type in AUDITS:
            yield NewItem(
                work_type=work_type,
                description=f"{work_type} in {file.name}",
                priority=priority_of(file.size),
                labels={"package": top[:256]},
                payload=to_json("the payload", {"file": file.name, "uri": file.path.as_uri()}),
            )


def priority_of(size: int) -> Priority:
    """The priority of a file of this many bytes."""
    return next(priority for least, priority in PRIORITY_FROM if size >= least)


def readable(path: Path, root: Path) -> str:
    """How `path` is called in results: any file name becomes text."""
    return os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        # Gone meanwhile: its audit will say so.
        return 0

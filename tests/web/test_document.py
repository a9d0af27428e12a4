"""docs/http.md: its curl lines are run as they stand, its tables are complete."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec

from swarm.web.statuses import HTTP_ONLY, STATUS
from tests.parts import program
from tests.web.world import HttpWorld

DOCUMENT = (Path(__file__).parents[2] / "docs" / "http.md").read_text("utf-8")
BLOCK = re.compile(r"^```(sh|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: What differs from run to run; names and ids are used again further down.
NAMES = ("id", "work_item_id", "token", "command_id")
TIMES = ("submitted_at", "claimed_at", "finished_at", "as_of", "version")


async def test_the_session_goes_as_shown(http: HttpWorld) -> None:
    program("curl")
    session = DOCUMENT.partition("## A session")[2]
    blocks = BLOCK.findall(session)
    assert [kind for kind, _ in blocks] == ["sh", "json"] * (len(blocks) // 2)
    assert len(blocks) >= 18
    known: dict[str, str] = {}
    for (_, line), (_, shown) in zip(blocks[::2], blocks[1::2], strict=True):
        for before, now in known.items():
            line = line.replace(before, now)  # noqa: PLW2901 - the line as it is run
        answer = await run(line.replace("http://localhost:4000", http.fronts[0].url))
        compare(msgspec.json.decode(shown), answer, known)


async def run(line: str) -> Any:
    process = await asyncio.create_subprocess_shell(line, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0, line
    return msgspec.json.decode(out)


def compare(shown: Any, got: Any, known: dict[str, str]) -> None:
    """The same, but for what differs from run to run."""
    if isinstance(shown, dict):
        assert list(shown) == list(got)
        for name, value in shown.items():
            if name in NAMES:
                assert known.setdefault(value, got[name]) == got[name]
            elif name not in TIMES:
                compare(value, got[name], known)
    elif isinstance(shown, list):
        assert len(shown) == len(got)
        for one, other in zip(shown, got, strict=True):
            compare(one, other, known)
    else:
        assert shown == got


def test_the_table_of_errors_is_the_programs() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| (\d+) \|$", DOCUMENT, re.MULTILINE)
    programs = {**{str(code): status for code, status in STATUS.items()}, **HTTP_ONLY}
    assert {code: int(status) for code, status in rows} == programs


def test_every_path_is_described(http: HttpWorld) -> None:
    runner = http.fronts[0]._runner
    assert runner is not None
    table = DOCUMENT.partition("## Every POST")[0]
    for resource in runner.app.router.resources():
        path = resource.canonical.replace("{id}", "<id>")
        assert path in table or f"`{path.removeprefix('/v1/')}`" in table, path

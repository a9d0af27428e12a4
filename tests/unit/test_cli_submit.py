"""`swarm submit|work|status|claim…` against a whole swarm in memory."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarm.cli.main import main
from swarm.cli.submit_file import COMPLAINTS_MAX
from swarm.sdk.client import Swarm
from tests.unit.cli_world import DEADLINE_S, InMemory, json_lines, write_lines


@pytest.fixture
def lines_file(tmp_path: Path) -> Callable[[list[Any]], str]:
    return lambda lines: write_lines(tmp_path, lines)


# --- one item --------------------------------------------------------------------------


def test_one_item_prints_its_id(memory: InMemory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--type", "sum", "--payload", "4", "--priority", "low"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() in ("0-1", "1-1")
    assert captured.err == ""


def test_with_wait_it_prints_the_result(
    memory: InMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.working = True
    assert main(["submit", "--type", "sum", "--payload", "4", "--wait"]) == 0
    assert capsys.readouterr().out == "8\n"


def test_with_wait_a_failure_is_told(memory: InMemory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.working = True
    assert main(["submit", "--type", "sum", "--wait", "--json"]) == 1
    (line,) = json_lines(capsys.readouterr().out)
    assert "is dead: no number" in line["error"]


def test_waiting_has_an_end(memory: InMemory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--type", "sum", "--wait", "--wait-timeout", "50ms"]) == 1
    assert "has not ended within 0.05 s; it is queued" in capsys.readouterr().err


def test_an_oversized_payload_is_refused_before_it_is_sent(
    memory: InMemory, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "big.json").write_text(json.dumps("x" * 300_000))
    assert main(["submit", "--type", "sum", "--payload", f"@{tmp_path / 'big.json'}"]) == 2
    text = capsys.readouterr().err
    assert "too_large" in text
    assert "262144" in text


# --- files -----------------------------------------------------------------------------


def test_bad_lines_are_named_and_the_others_accepted(
    memory: InMemory,
    capsys: pytest.CaptureFixture[str],
    lines_file: Callable[[list[Any]], str],
) -> None:
    lines: list[Any] = [{"work_type": "sum", "payload": n} for n in range(2500)]
    lines[16] = "{oops"
    lines[17] = '["a list"]'
    lines[499] = {"work_type": "sum", "priority": "urgent"}
    lines[500] = {"work_type": "a b"}
    lines[501] = {"payload": 1}
    lines[999] = {"work_type": "sum", "colour": "red"}
    lines[1000] = {"work_type": "sum", "payload": "x" * 300_000}
    lines[2499] = {"work_type": "sum", "dependencies": ["9-1"]}
    lines[5] = ""
    assert main(["submit", lines_file(lines)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    said = captured.err
    for number, fragment in [
        (17, "must be one JSON object"),
        (18, "must be one JSON object"),
        (500, "urgent"),
        (501, "work_type"),
        (502, "work_type"),
        (1000, "colour"),
        (1001, "too_large"),
        (2500, "only the shards 0 to 1"),
    ]:
        (line,) = [line for line in said.splitlines() if line.startswith(f"line {number}: ")]
        assert fragment in line
    assert said.splitlines()[-1] == "accepted 2491, refused 8"


def test_a_good_file_is_done(
    memory: InMemory,
    capsys: pytest.CaptureFixture[str],
    lines_file: Callable[[list[Any]], str],
) -> None:
    path = lines_file([{"work_type": "sum", "payload": n} for n in range(30)])
    assert main(["submit", path]) == 0
    assert capsys.readouterr().err == "accepted 30, refused 0\n"


def test_with_json_every_line_is_answered(
    memory: InMemory,
    capsys: pytest.CaptureFixture[str],
    lines_file: Callable[[list[Any]], str],
) -> None:
    assert main(["submit", "--json", lines_file([{"work_type": "sum"}, "x"])]) == 1
    answers = {answer.pop("line"): answer for answer in json_lines(capsys.readouterr().out)}
    assert list(answers[1]) == ["work_item_id"]
    assert answers[2]["error"]["code"] == "bad_request"


def test_a_file_can_come_from_stdin(
    memory: InMemory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b'{"work_type": "sum"}\n{"work_type": "sum"}'))
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(["submit", "-"]) == 0
    assert capsys.readouterr().err == "accepted 2, refused 0\n"


def test_many_bad_lines_are_counted_not_all_listed(
    memory: InMemory,
    capsys: pytest.CaptureFixture[str],
    lines_file: Callable[[list[Any]], str],
) -> None:
    assert main(["submit", lines_file(["x"] * 500)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith("line ")]) == COMPLAINTS_MAX
    assert said[-1] == "accepted 0, refused 500"


def test_long_files_go_in_chunks(
    memory: InMemory,
    capsys: pytest.CaptureFixture[str],
    lines_file: Callable[[list[Any]], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swarm.cli.submit_file.CHUNK", 7)
    lines: list[Any] = [{"work_type": "sum"}] * 50
    lines[20] = "x"
    assert main(["submit", lines_file(lines)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("line 21: ")
    assert said[-1] == "accepted 49, refused 1"


def test_with_wait_all_results_are_waited_for(
    memory: InMemory,
    capsys: pytest.CaptureFixture[str],
    lines_file: Callable[[list[Any]], str],
) -> None:
    memory.working = True
    lines: list[Any] = [{"work_type": "sum", "payload": n} for n in range(5)]
    path = lines_file([*lines, {"work_type": "sum", "payload": "x"}])
    assert main(["submit", "--wait", "--json", path]) == 1
    captured = capsys.readouterr()
    answers = {answer["line"]: answer for answer in json_lines(captured.out)}
    assert [answers[n + 1]["result"] for n in range(5)] == [0, 2, 4, 6, 8]
    assert "no number" in answers[6]["error"]
    assert captured.err.splitlines()[-1] == "completed 5, failed 1"


# --- looking ---------------------------------------------------------------------------


async def some_items(swarm: Swarm) -> None:
    for number in range(3):
        key = f"k{number}"  # places it, and so the ids, alike in every world
        await swarm.submit(
            "sum", f"number {number}", payload=number, priority="high", idempotency_key=key
        )
    await swarm.submit("other", "the other\none", labels={"a": "b"}, idempotency_key="k")
    claimed = await swarm.claim(["sum"], wait_s=5)
    assert claimed is not None
    await swarm.complete(claimed.work_item_id, claimed.token, {"done": True})


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ([], 4),
        (["--state", "queued"], 3),
        (["--state", "completed"], 1),
        (["--type", "sum"], 3),
        (["--type", "sum", "--state", "queued"], 2),
        (["--type", "none"], 0),
    ],
)
def test_listing_and_counting_agree(
    memory: InMemory, capsys: pytest.CaptureFixture[str], options: list[str], count: int
) -> None:
    memory.prepare = some_items
    assert main(["work", "list", *options, "--count"]) == 0
    assert capsys.readouterr().out == f"{count}\n"
    assert main(["work", "list", *options, "--json"]) == 0
    assert len(list(json_lines(capsys.readouterr().out))) == count


def test_a_list_for_people(memory: InMemory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.prepare = some_items
    assert main(["work", "list", "--limit", "3"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 4
    assert captured.out.startswith("ID ")
    assert "--limit 0 shows all" in captured.err


def test_one_item_for_people_and_programs(
    memory: InMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.prepare = some_items
    assert main(["work", "list", "--type", "other", "--json"]) == 0
    (item,) = json_lines(capsys.readouterr().out)
    assert main(["work", "get", item["work_item_id"]]) == 0
    text = capsys.readouterr().out
    assert "labels       a=b\n" in text
    assert "status       queued\n" in text


def test_an_unknown_item_is_a_failure(memory: InMemory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["work", "get", "1-17"]) == 1
    assert capsys.readouterr().err.startswith("swarm: unknown_item: ")


def test_status(memory: InMemory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.prepare = some_items
    assert main(["status", "--json"]) == 0
    (status,) = json_lines(capsys.readouterr().out)
    assert status["counts"]["queued"] == 3
    assert status["counts"]["completed"] == 1
    assert status["submitted"] == 4
    assert status["problems"] == []
    assert [shard["shard"] for shard in status["shards"]] == [0, 1]
    assert main(["status"]) == 0
    text = capsys.readouterr().out
    assert "items: 3 queued, 1 completed\n" in text
    assert "coordinator-1" in text


def test_status_names_who_has_more_agents_than_it_is_to_have(
    memory: InMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    async def two_agents(swarm: Swarm) -> None:
        for name in ("a1", "a2"):
            bus = memory.world.connect(name)
            reply = await bus.request(f"swarm.attach.{name}", b'{"work_types":["build"]}', 5.0)
            assert b"session" in reply.data
        # A beat that counts them; each question takes its time.
        async with asyncio.timeout(DEADLINE_S):
            while sum(beat.sessions for beat in (await swarm.describe()).coordinators) < 2:
                continue

    memory.settings = msgspec.structs.replace(memory.settings, agents_per_coordinator=1)
    memory.prepare = two_agents
    assert main(["status", "--json"]) == 1
    (status,) = json_lines(capsys.readouterr().out)
    (problem,) = status["problems"]
    assert problem.startswith("coordinator-1: 2 agents are attached, AGENTS_PER_COORDINATOR is 1")


# --- shell agents ------------------------------------------------------------------------


def test_a_claim_prints_id_and_token(memory: InMemory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.prepare = some_items
    assert main(["claim", "--type", "none,other", "--agent", "me", "--lease", "1h"]) == 0
    captured = capsys.readouterr()
    work_item_id, token = captured.out.split()
    assert work_item_id.partition("-")[0] in ("0", "1")
    assert token.startswith("1.")
    assert "held for 3600 s" in captured.err


def test_a_claim_as_json_has_the_payload(
    memory: InMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.prepare = some_items
    assert main(["claim", "--type", "sum", "--agent", "me", "--json"]) == 0
    (claimed,) = json_lines(capsys.readouterr().out)
    assert claimed["item"]["payload"] in (0, 1, 2)
    assert claimed["attempt"] == 1


def test_nothing_to_claim_is_a_failure(
    memory: InMemory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["claim", "--type", "sum", "--agent", "me"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "swarm: nothing to claim among sum\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["heartbeat", "ID"], "stale_token"),
        (["progress", "ID", "50", "half", "way"], "stale_token"),
        (["complete", "ID", "--result", "1"], "stale_token"),
        (["fail", "ID", "--error", "no"], "stale_token"),
    ],
)
def test_a_stale_token_is_refused(
    memory: InMemory, capsys: pytest.CaptureFixture[str], command: list[str], code: str
) -> None:
    held: list[str] = []

    async def hold(swarm: Swarm) -> None:
        handle = await swarm.submit("sum", idempotency_key="always the same shard")
        claimed = await swarm.claim(["sum"], wait_s=5)
        assert claimed is not None
        held.append(handle.work_item_id)

    memory.prepare = hold
    assert main(["work", "list", "--count"]) == 0
    capsys.readouterr()
    argv = [held[0] if word == "ID" else word for word in command]
    assert main([*argv, "--token", "1.x.c", "--agent", "other"]) == 1
    assert capsys.readouterr().err.startswith(f"swarm: {code}: ")

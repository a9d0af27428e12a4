"""`swarm work …`, `swarm dead …` and the shell's holders, against a whole swarm in memory."""

from __future__ import annotations

import argparse
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarm.cli import showing
from swarm.cli.main import main
from swarm.cli.status import size
from swarm.errors import BusTimeout
from swarm.messages import Ask, Attempt, Dependency, WorkItem
from swarm.sdk.client import Swarm
from tests.unit.cli_world import InMemory, json_lines, write_lines

Captured = pytest.CaptureFixture[str]


class Items:
    """Work items of every kind, with the same ids in every world; `tokens` of the held ones."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.tokens: dict[str, str] = {}

    async def make(self, swarm: Swarm) -> None:
        """The items: held, waiting, dead twice, scheduled, blocked, queued, completed."""
        for name in ("held", "waiting", "dead", "dead-too", "completed"):
            await self.submit(swarm, name, max_attempts=2)
            claimed = await swarm.claim([name], wait_s=5)
            assert claimed is not None
            self.tokens[name] = claimed.token
        await swarm.wait(self.ids["waiting"], self.tokens["waiting"], {"approve": "v1.2"})
        await swarm.complete(self.ids["completed"], self.tokens["completed"], {"done": True})
        for name, error in (("dead", "no disk"), ("dead-too", "no net")):
            await swarm.fail(self.ids[name], self.tokens[name], error, final=True)
        await self.submit(swarm, "scheduled", delay_s=7200)
        await self.submit(swarm, "blocked", depends_on=[self.ids["held"], self.ids["completed"]])
        await self.submit(swarm, "queued")

    async def submit(self, swarm: Swarm, name: str, **more: Any) -> None:
        more.setdefault("idempotency_key", name)
        self.ids[name] = (await swarm.submit(name, f"the {name} one", **more)).work_item_id

    def argv(self, *words: str) -> list[str]:
        """`words`, with names of items in capitals as their ids."""
        return [self.ids.get(word.lower(), word) if word.isupper() else word for word in words]


@pytest.fixture
def items(memory: InMemory, capsys: Captured) -> Items:
    """The items are there when a command runs; their ids are known already."""
    items = Items()
    memory.prepare = items.make
    assert main(["work", "list", "--count"]) == 0
    capsys.readouterr()
    return items


def status_then(memory: InMemory, items: Items, seen: dict[str, WorkItem]) -> None:
    """After the command, look at all items."""

    async def look(swarm: Swarm) -> None:
        for name, work_item_id in items.ids.items():
            seen[name] = await swarm.get(work_item_id)

    memory.check = look


# --- looking ------------------------------------------------------------------------------


def test_a_list_says_what_paused_items_wait_for(items: Items, capsys: Captured) -> None:
    assert main(["work", "list"]) == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert "WAITS FOR" in lines["TYPE"]
    assert '{"approve":"v1.2"} (until in 7d)' in lines["waiting"]
    assert " in 2h " in lines["scheduled"]
    assert f" {items.ids['held']} " in lines["blocked"]
    assert items.ids["completed"] not in lines["blocked"]


@pytest.mark.parametrize("status", ["waiting", "scheduled", "blocked", "dead", "completed"])
def test_a_list_of_one_status(items: Items, capsys: Captured, status: str) -> None:
    assert main(["work", "list", "--status", status, "--json"]) == 0
    found = [item["work_type"] for item in json_lines(capsys.readouterr().out)]
    assert sorted(found) == (["dead", "dead-too"] if status == "dead" else [status])


def test_archived_items_are_really_listed(memory: InMemory, capsys: Captured) -> None:
    memory.settings = msgspec.structs.replace(memory.settings, cache_max_size=2)

    async def finish_many(swarm: Swarm) -> None:
        for number in range(12):
            await swarm.submit("a", payload=number)
            claimed = await swarm.claim(["a"], wait_s=5)
            assert claimed is not None
            await swarm.complete(claimed.work_item_id, claimed.token)
        while len([item async for item in swarm.list()]) > 2:
            await swarm.stats()

    memory.prepare = finish_many
    assert main(["work", "list", "--status", "completed", "--json"]) == 0
    found = json_lines(capsys.readouterr().out)
    assert sorted(item.get("payload", 0) for item in found) == list(range(12))
    assert main(["work", "list", "--json", "--archived", "--type", "a"]) == 0
    assert len(list(json_lines(capsys.readouterr().out))) == 12
    assert main(["work", "list", "--count"]) == 0
    assert capsys.readouterr().out == "12\n"
    assert main(["status"]) == 0
    assert "finished items in the records only: 1" in capsys.readouterr().out


def test_records_that_cannot_be_read_are_a_failure(
    memory: InMemory, items: Items, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read_archived(*_: Any) -> AsyncIterator[WorkItem]:
        nothing: list[WorkItem] = []
        for item in nothing:
            yield item
        raise BusTimeout("no permission, perhaps")

    # As if some were archived: then their records are read.
    monkeypatch.setattr("swarm.core.read.sum", lambda _: 5, raising=False)
    monkeypatch.setattr("swarm.sdk.archive.read_archived", read_archived)
    for command in (["work", "list", "--status", "dead"], ["dead", "list"]):
        assert main(command) == 1
        captured = capsys.readouterr()
        assert "the finished records cannot be read: no permission, perhaps" in captured.err


def test_all_about_a_waiting_item(items: Items, capsys: Captured) -> None:
    assert main(items.argv("work", "get", "WAITING")) == 0
    text = capsys.readouterr().out
    assert "status       waiting\n" in text
    assert 'waits for    {"approve":"v1.2"} (until in 7d)\n' in text
    assert "waits        1\n" in text


def test_all_that_can_be_shown_of_an_item(capsys: Captured) -> None:
    now = time.time()
    history = [
        Attempt(1, "a1", now - 60, now - 50, "failed", "no disk"),
        Attempt(2, "a2", now - 40, now - 10, "lapsed", ""),
    ]
    item = WorkItem(
        "3-17",
        "a",
        "claimed",
        "high",
        now - 90,
        attempt=3,
        max_attempts=5,
        agent_id="a3",
        progress=40.0,
        note="reading",
        history=history,
        deaths=1,
        replays=2,
        answer=msgspec.Raw(b'"yes"'),
        answered_by="lisa",
        checkpoint=msgspec.Raw(b'{"page":3}'),
        depends={"0-1": Dependency("completed"), "0-2": Dependency()},
        ask=Ask("cancelled", now + 8.5, "not wanted", "olga"),
    )
    showing.print_item(item)
    text = capsys.readouterr().out
    for line in (
        "asked        to stop within 8 s, then cancelled by olga: not wanted",
        "attempt      3 of 5",
        'answer       "yes" by lisa',
        'checkpoint   {"page":3}',
        "depends on   0-1 completed",
        "depends on   0-2 has not ended",
        "deaths       1 of its agents fell silent or made no progress",
        "replays      2",
    ):
        assert f"{line}\n" in text
    assert "failure 1    a1 failed after 10s at " in text
    assert text.splitlines()[-3].endswith(": no disk")


def test_watching_an_item_until_its_end(memory: InMemory, capsys: Captured) -> None:
    ids: list[str] = []

    async def submit(swarm: Swarm) -> None:
        # Two items of one shard, known before the command that watches them.
        for number in range(2):
            handle = await swarm.submit("sum", payload=number, idempotency_key=f"k{number}")
            ids.append(handle.work_item_id)

    memory.prepare = submit
    assert main(["work", "list", "--count"]) == 0
    capsys.readouterr()
    memory.working = True
    assert main(["work", "watch", *ids[:2]]) == 0
    lines = capsys.readouterr().out.splitlines()
    for number, name in enumerate(ids[:2]):
        mine = [line.split(maxsplit=2) for line in lines if f" {name} " in line]
        assert mine[-1][2] == f"completed {2 * number}"
    assert main(["work", "watch", ids[0], "--json"]) == 0
    states = [item["status"] for item in json_lines(capsys.readouterr().out)]
    assert states[-1] == "completed"


def test_watching_ends_with_a_failure(memory: InMemory, items: Items, capsys: Captured) -> None:
    assert main(items.argv("work", "watch", "DEAD")) == 1
    assert "dead failed no disk" in capsys.readouterr().out
    assert main(items.argv("work", "watch", "WAITING", "--for", "500ms")) == 1
    assert 'waiting {"approve":"v1.2"} (until in 7d)' in capsys.readouterr().out
    assert main(["work", "watch", "0-999"]) == 1
    assert "unknown_item" in capsys.readouterr().err


# --- managing ------------------------------------------------------------------------------


def test_cancelling(memory: InMemory, items: Items, capsys: Captured) -> None:
    seen: dict[str, WorkItem] = {}
    status_then(memory, items, seen)
    argv = items.argv("work", "cancel", "QUEUED", "HELD", "WAITING", "BLOCKED", "--reason", "no")
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{items.ids['queued']} cancelled",
        f"{items.ids['held']} claimed (its agent was asked to stop)",
        f"{items.ids['waiting']} cancelled",
        f"{items.ids['blocked']} cancelled",
    ]
    assert (seen["queued"].status, seen["queued"].error) == ("cancelled", "no")
    ask = seen["held"].ask
    assert ask is not None
    assert (ask.reason, ask.by) == ("no", "client")


def test_what_cannot_be_cancelled_is_a_failure_and_the_others_are(
    memory: InMemory, items: Items, capsys: Captured
) -> None:
    seen: dict[str, WorkItem] = {}
    status_then(memory, items, seen)
    argv = items.argv("work", "cancel", "DEAD", "0-999", "QUEUED", "--json")
    assert main(argv) == 1
    dead, unknown, queued = json_lines(capsys.readouterr().out)
    assert dead["error"]["code"] == "already_finished"
    assert unknown["error"]["code"] == "unknown_item"
    assert queued["status"] == "cancelled"
    assert seen["queued"].status == "cancelled"
    assert main(items.argv("work", "cancel", "COMPLETED")) == 1
    assert capsys.readouterr().err.startswith("swarm: already_finished: ")


def test_retrying_and_prioritizing(memory: InMemory, items: Items, capsys: Captured) -> None:
    seen: dict[str, WorkItem] = {}
    status_then(memory, items, seen)
    assert main(items.argv("work", "retry", "DEAD", "SCHEDULED", "BLOCKED")) == 0
    assert [seen[name].status for name in ("dead", "scheduled", "blocked")] == ["queued"] * 3
    assert seen["dead"].replays == 1
    assert main(items.argv("work", "prioritize", "critical", "QUEUED", "SCHEDULED")) == 0
    assert (seen["queued"].priority, seen["scheduled"].priority) == ("critical", "critical")
    assert main(items.argv("work", "retry", "COMPLETED", "WAITING")) == 1
    assert "already_finished" in capsys.readouterr().err


def test_answering(memory: InMemory, items: Items, capsys: Captured) -> None:
    seen: dict[str, WorkItem] = {}
    status_then(memory, items, seen)
    assert main(items.argv("work", "answer", "WAITING", '{"yes": 1}')) == 0
    assert capsys.readouterr().out == f"{items.ids['waiting']} queued\n"
    assert msgspec.json.decode(seen["waiting"].answer) == {"yes": 1}
    assert seen["waiting"].answered_by == "client"
    assert main(items.argv("work", "answer", "WAITING", "1", "--wait", "2")) == 1
    assert "not_waiting" in capsys.readouterr().err
    assert main(items.argv("work", "answer", "QUEUED", "1")) == 1
    assert "not_waiting" in capsys.readouterr().err


# --- dead ------------------------------------------------------------------------------------


def test_the_dead_are_listed_with_their_errors(items: Items, capsys: Captured) -> None:
    assert main(["dead", "list"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].split()[:4] == ["ID", "TYPE", "CAUSE", "ATTEMPTS"]
    assert "no disk" in text
    assert main(["dead", "list", "--type", "dead-too", "--json"]) == 0
    (item,) = json_lines(capsys.readouterr().out)
    assert (item["error"], item["cause"]) == ("no net", "failed")
    assert main(["dead", "list", "--cause", "lapsed"]) == 0
    assert capsys.readouterr().err == "no such dead items\n"
    assert main(["dead", "list", "--limit", "1"]) == 0
    assert "--limit 0 shows all" in capsys.readouterr().err


def test_one_dead_item_with_its_history(items: Items, capsys: Captured) -> None:
    assert main(items.argv("dead", "show", "DEAD")) == 0
    text = capsys.readouterr().out
    assert "status       dead (failed)\n" in text
    assert "attempt      1 of 2\n" in text
    assert "failure 1    other failed after " in text
    assert main(items.argv("dead", "show", "QUEUED")) == 0
    assert "is queued, not dead" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "replayed"),
    [
        (["--all"], ["dead", "dead-too"]),
        (["DEAD"], ["dead"]),
        (["--type", "dead-too"], ["dead-too"]),
        (["--cause", "failed"], ["dead", "dead-too"]),
        (["--cause", "lapsed"], []),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_replaying(
    memory: InMemory,
    items: Items,
    capsys: Captured,
    argv: list[str],
    replayed: list[str],
    dry_run: bool,
) -> None:
    seen: dict[str, WorkItem] = {}
    status_then(memory, items, seen)
    assert main(items.argv("dead", "replay", *argv, *(["--dry-run"] if dry_run else []))) == 0
    captured = capsys.readouterr()
    verb = "would replay" if dry_run else "replayed"
    assert captured.err == f"{verb} {len(replayed)}, refused 0\n"
    names = [line.split()[0] for line in captured.out.splitlines()]
    assert sorted(names) == sorted(items.ids[name] for name in replayed)
    for name in ("dead", "dead-too"):
        brought_back = name in replayed and not dry_run
        assert seen[name].status == ("queued" if brought_back else "dead")


def test_what_is_not_dead_is_not_replayed(memory: InMemory, items: Items, capsys: Captured) -> None:
    seen: dict[str, WorkItem] = {}
    status_then(memory, items, seen)
    assert main(items.argv("dead", "replay", "SCHEDULED", "DEAD", "0-999")) == 1
    captured = capsys.readouterr()
    assert "it is scheduled, not dead; `swarm work retry` queues it now" in captured.err
    assert "unknown_item" in captured.err
    assert captured.err.endswith("replayed 1, refused 2\n")
    assert (seen["scheduled"].status, seen["dead"].status) == ("scheduled", "queued")
    assert main(items.argv("dead", "replay", "--all", "--dry-run", "--json")) == 0
    for line in json_lines(capsys.readouterr().out):
        assert (line["status"], line["dry_run"], line["replays"]) == ("dead", True, 0)


# --- shell agents ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "status", "field", "value"),
    [
        (["fail", "--error", "no"], "scheduled", "error", ""),
        (["fail", "--error", "no", "--retry-after", "1h"], "scheduled", "error", ""),
        (["fail", "--error", "no", "--final"], "dead", "error", "no"),
        (["release", "--checkpoint", '{"page": 3}'], "queued", "checkpoint", {"page": 3}),
        (["wait", "--for", '"ok?"', "--expires", "1h"], "waiting", "waits_for", "ok?"),
        (["wait", "--for", "[1]", "--checkpoint", "5"], "waiting", "checkpoint", 5),
        (["progress", "40", "--checkpoint", '"x"'], "claimed", "checkpoint", "x"),
    ],
)
def test_what_a_shell_agent_can_say(
    memory: InMemory,
    items: Items,
    capsys: Captured,
    argv: list[str],
    status: str,
    field: str,
    value: Any,
) -> None:
    seen: dict[str, WorkItem] = {}

    def show_token(args: argparse.Namespace) -> None:
        args.token = items.tokens["held"]

    memory.adjust = show_token
    status_then(memory, items, seen)
    words = [argv[0], items.ids["held"], *argv[1:], "--token", "its own", "--agent", "other"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(f"{items.ids['held']} {status}")
    shown = getattr(seen["held"], field)
    shown = msgspec.json.decode(shown) if isinstance(shown, msgspec.Raw) else shown
    # Its backoff may be over by now.
    later = "queued" if argv == ["fail", "--error", "no"] else status
    assert seen["held"].status in (status, later)
    assert shown == value
    if "--retry-after" in argv:
        assert seen["held"].until == pytest.approx(time.time() + 3600, abs=60)


def test_a_claim_tells_what_was_left_for_it(memory: InMemory, capsys: Captured) -> None:
    async def leave(swarm: Swarm) -> None:
        first = await swarm.submit("first")
        claimed = await swarm.claim(["first"], wait_s=5)
        assert claimed is not None
        await swarm.complete(claimed.work_item_id, claimed.token, 7)
        handle = await swarm.submit("next", depends_on=[first])
        claimed = await swarm.claim(["next"], wait_s=5)
        assert claimed is not None
        await swarm.wait(claimed.work_item_id, claimed.token, "ok?", checkpoint={"page": 3})
        await handle.answer("yes")

    memory.prepare = leave
    assert main(["claim", "--type", "next", "--agent", "me", "--wait", "5"]) == 0
    said = capsys.readouterr().err
    assert 'checkpoint: {"page":3}\n' in said
    assert 'answer, by other: "yes"\n' in said
    assert ": completed, 7\n" in said
    assert main(["claim", "--type", "next", "--agent", "me", "--wait", "5", "--json"]) == 0
    (claimed,) = json_lines(capsys.readouterr().out)
    assert (claimed["checkpoint"], claimed["answer"]) == ({"page": 3}, "yes")
    assert (claimed["answered_by"], claimed["waits"]) == ("other", 1)
    (known,) = claimed["depends"].values()
    assert known == {"status": "completed", "result": 7}


# --- submitting --------------------------------------------------------------------------------


def test_all_options_of_a_life(memory: InMemory, capsys: Captured) -> None:
    seen: list[WorkItem] = []

    async def look(swarm: Swarm) -> None:
        seen.extend([item async for item in swarm.list(work_type="a")])

    async def submit(swarm: Swarm) -> None:
        await swarm.submit("first", idempotency_key="k")

    memory.prepare, memory.check = submit, look
    assert main(["work", "list", "--json"]) == 0
    (first,) = json_lines(capsys.readouterr().out)
    argv = ["--max-attempts", "7", "--backoff", "2m", "--progress-within", "5m", "--delay", "10m"]
    argv += ["--deadline", "2h", "--depends-on", first["work_item_id"]]
    argv += ["--on-dependency-failure", "run"]
    assert main(["submit", "--type", "a", *argv]) == 0
    (item,) = seen
    now = time.time()
    assert item.max_attempts == 7
    assert item.not_before == pytest.approx(now + 600, abs=60)
    assert item.deadline == pytest.approx(now + 7200, abs=60)
    assert (item.status, list(item.depends)) == ("blocked", [first["work_item_id"]])


def test_lines_may_depend_on_earlier_lines(
    memory: InMemory, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarm.cli.submit_file.CHUNK", 3)
    seen: dict[str, WorkItem] = {}

    async def look(swarm: Swarm) -> None:
        async for item in swarm.list():
            seen[item.description] = item

    memory.check = look
    lines: list[Any] = [
        {"work_type": "a", "description": "1"},
        {"work_type": "a", "description": "2", "depends_on": [1], "delay_s": 60},
        {"work_type": "a b"},
        "",
        {"work_type": "a", "description": "5", "depends_on": [2, 1]},
        {"work_type": "a", "depends_on": [3]},
        {"work_type": "a", "depends_on": [7]},
        {"work_type": "a b", "depends_on": [5]},
        {"work_type": "a", "depends_on": [8]},
        {"work_type": "a", "depends_on": "x"},
    ]
    assert main(["submit", write_lines(tmp_path, lines), "--json"]) == 1
    captured = capsys.readouterr()
    answers = {answer["line"]: answer for answer in json_lines(captured.out)}
    ids = {line: str(one["work_item_id"]) for line, one in answers.items() if "error" not in one}
    assert sorted(ids) == [1, 2, 5]
    assert list(seen["2"].depends) == [ids[1]]
    assert sorted(seen["5"].depends) == sorted([ids[1], ids[2]])
    errors = {line: one["error"]["message"] for line, one in answers.items() if "error" in one}
    assert "it depends on line 3, of which there is no item" in errors[6]
    assert "lines before 7 that were accepted" in errors[7]
    assert "letters, digits" in errors[8]
    assert "it depends on line 8, which was refused: " in errors[9]
    assert "depends_on is 'x'" in errors[10]
    assert captured.err.splitlines()[-1] == "accepted 3, refused 6"


def test_status_shows_what_there_is(items: Items, capsys: Captured) -> None:
    assert main(["status"]) == 0
    text = capsys.readouterr().out
    assert "1 queued, 1 scheduled, 1 blocked, 1 waiting, 1 claimed, 1 completed, 2 dead\n" in text
    assert "conservation: 0 (all items are accounted for); logs: " in text
    heads = next(line for line in text.splitlines() if line.startswith("SHARD"))
    for column in ("LOG", "SCHEDULED", "BLOCKED", "WAITING", "ARCHIVED"):
        assert column in heads
    assert "CANCELLED" not in heads
    assert main(["status", "--json"]) == 0
    (status,) = json_lines(capsys.readouterr().out)
    assert (status["conservation"], status["archived"]) == (0, 0)
    assert status["log_bytes"] > 0


def test_sizes_for_people() -> None:
    sizes = [size(n) for n in (0, 1023, 1024, 5 * 1024**2)]
    assert sizes == ["0 B", "1023 B", "1.0 KiB", "5.0 MiB"]

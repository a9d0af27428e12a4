"""The checker of replies finds what does not fit together, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec

from swarm.testing.replies import ReplyLog, Told, check_replies, readings
from tests.actors.cluster import Cluster, on_cluster, until


class Story:
    """A record by hand; `ask` returns what `hear` takes."""

    def __init__(self) -> None:
        self.log = ReplyLog(None, lambda: 0.0)  # type: ignore[arg-type]
        self._now = 0.0

    def ask(self, subject: str, sender: str = "lisa", **body: Any) -> str:
        self._now += 1
        inbox = f"_INBOX.{sender}.{self._now:g}"
        data = msgspec.json.encode(body)
        self.log.told.append(Told(self._now, inbox, False, f"swarm.{subject}.{sender}", data))
        return inbox

    def hear(self, inbox: str, **body: Any) -> None:
        self._now += 1
        self.log.told.append(Told(self._now, inbox, True, inbox, msgspec.json.encode(body)))

    def get(self, item: str, status: str, as_of: int) -> None:
        self.hear(self.ask("shard.0.get", work_item_id=item), **seen(item, status, as_of))

    def findings(self) -> list[str]:
        return check_replies(self.log)


def seen(item: str, status: str, as_of: int) -> dict[str, Any]:
    return {"work_item_id": item, "status": status, "as_of": as_of}


def error(code: str, retry: bool = False) -> dict[str, Any]:
    return {"error": {"code": code, "message": "", "retry": retry}}


def test_a_reading_older_than_what_was_shown_before_it_was_asked_for_is_stale() -> None:
    story = Story()
    story.get("0-1", "queued", 5)
    story.hear(story.ask("shard.0.stats"), as_of=4)
    (finding,) = story.findings()
    assert "as of 4, but 5" in finding
    assert readings(story.log) == 2


def test_a_late_answer_to_an_early_question_is_not() -> None:
    story = Story()
    early = story.ask("shard.0.get", work_item_id="0-1")
    story.get("0-1", "claimed", 5)
    story.hear(early, **seen("0-1", "queued", 4))
    # Nor is one about another shard.
    story.hear(story.ask("shard.1.stats"), as_of=1)
    assert story.findings() == []


def test_what_has_ended_stays_so() -> None:
    story = Story()
    story.hear(
        story.ask("shard.0.complete", command_id="c", work_item_id="0-1", token="1.a.s"),
        command_id="c",
        status="completed",
    )
    story.get("0-1", "claimed", 9)
    (finding,) = story.findings()
    assert "0-1 was completed before it was asked for, and then claimed" in finding


def test_what_was_accepted_is_known() -> None:
    story = Story()
    story.hear(story.ask("submit.x", command_id="c"), results=[{"index": 0, "work_item_id": "0-1"}])
    story.hear(story.ask("shard.0.get", work_item_id="0-1"), **error("unknown_item"))
    (finding,) = story.findings()
    assert "0-1 was accepted" in finding


def test_a_repeated_command_gets_one_answer() -> None:
    story = Story()
    for answer in ("0-1", "0-2"):
        results = [{"index": 0, "work_item_id": answer}]
        story.hear(story.ask("submit.x", command_id="c"), results=results)
    complete = {"command_id": "d", "work_item_id": "0-1", "token": "1.a.s"}
    story.hear(story.ask("shard.0.complete", **complete), **error("overloaded", retry=True))
    story.hear(story.ask("shard.0.complete", **complete), command_id="d", status="completed")
    story.hear(story.ask("shard.0.complete", **complete), **error("stale_token"))
    assert [finding.partition(" was answered ")[0] for finding in story.findings()] == [
        "submit c",
        "complete d",
    ]


def test_an_item_has_one_holder() -> None:
    story = Story()

    def claim(command: str, sender: str, token: str) -> None:
        inbox = story.ask("shard.0.claim", sender, command_id=command)
        story.hear(inbox, work_item_id="0-1", token=token)

    claim("c1", "ada", "1.a.s")
    claim("c2", "bob", "1.a.s")
    claim("c3", "cid", "1.b.t")
    claim("c4", "cid", "2.b.t")
    assert len(story.findings()) == 2
    for token in ("1.a.s", "2.b.t"):
        story.hear(
            story.ask("shard.0.complete", command_id=token, work_item_id="0-1", token=token),
            command_id=token,
            status="completed",
        )
    assert "completed under 1.a.s and under 2.b.t" in story.findings()[2]


def test_it_records_what_goes_through_a_bus() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        bus: Any = ReplyLog(cluster.world.connect("lisa"), cluster.world.time)
        await bus.subscribe("_INBOX.lisa.>", lambda message: None)
        body = msgspec.json.encode({"items": [{"work_type": "build"}], "command_id": ""})
        await bus.publish("swarm.submit.build.lisa", body, "_INBOX.lisa.1")
        await bus.publish("swarm.shard.0.stats.lisa", b"{}", "_INBOX.lisa.2")
        await bus.flush()
        reply = await bus.request("swarm.shard.0.stats.lisa", b"{}", 2.0)
        assert reply.data, "what is not recorded works as well"
        # The wildcard above hears the request's answer as well.
        await until(lambda: sum(one.reply and "-" not in one.inbox for one in bus.told) == 2)
        told = [(one.inbox, one.reply) for one in bus.told if "-" not in one.inbox]
        assert sorted(told) == [
            ("_INBOX.lisa.1", False),
            ("_INBOX.lisa.1", True),
            ("_INBOX.lisa.2", False),
            ("_INBOX.lisa.2", True),
        ]
        assert check_replies(bus) == []

    on_cluster(scenario)

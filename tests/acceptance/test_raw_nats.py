"""An agent and a client that speak raw NATS text, against a real system.

They use a socket and the standard library, as docs/protocol.md shows it: so any language
can.  The sessions that the document shows are acted out word for word.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swarm import messages
from swarm.actors import shard_map
from swarm.actors.coordinator import Coordinator
from swarm.actors.requests import SHARD_VERBS
from swarm.actors.router import Router
from swarm.bus.embedded import EmbeddedServer
from swarm.bus.jetstream import connect
from swarm.config import Settings
from swarm.core.ids import is_uuid7
from swarm.errors import REFUSAL_CODES, BusUnavailable, NoAnswer
from swarm.messages import ShardStats
from swarm.schemas import ROUTES, classes
from swarm.sdk.client import Handle, Swarm
from swarm.testing.ports import free_ports
from tests.acceptance.raw_nats import RawNats, play, read_sessions

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "protocol.md").read_text("utf-8")
COORDINATOR = "coordinator-1"
USERS_CONF = ROOT / "configs" / "nats" / "users.conf"
DEADLINE_S = 20.0
POLL_S = 0.02


class System:
    """A coordinator and a router on a real NATS."""

    def __init__(
        self,
        url: str,
        prefix: str,
        url_of: Callable[[str], str] | None = None,
        **settings: Any,
    ) -> None:
        """`url_of`: the address with the credentials of a user; default: `url`."""
        self.url = url
        self._url_of = url_of or (lambda _: url)
        self._settings = Settings(prefix=prefix, coordinators=[COORDINATOR], **settings)
        self.coordinator: Coordinator
        self.router: Router

    @asynccontextmanager
    async def running(self) -> AsyncIterator[System]:
        """From ready to stopped."""
        settings = self._settings
        async with (
            connected(self._url_of("router"), "router", settings) as router_bus,
            connected(self._url_of(COORDINATOR), COORDINATOR, settings) as bus,
        ):
            await router_bus.open_state()
            map_ = await shard_map.agree(router_bus, settings)
            self.router = Router(router_bus, settings, map_)
            self.coordinator = Coordinator(
                bus, settings, COORDINATOR, await shard_map.agree(bus, settings)
            )
            await self.router.start()
            await self.coordinator.start()
            await until(lambda: len(self.coordinator.owned) == settings.shard_count)
            await until(lambda: bool(self.router.live()))
            yield self
            await self.router.stop()
            await self.coordinator.stop()


@asynccontextmanager
async def connected(url: str, name: str, settings: Settings) -> AsyncIterator[Any]:
    """A bus, closed in the end."""
    bus = await connect(url, name, prefix=settings.prefix, connect_timeout_s=DEADLINE_S)
    try:
        yield bus
    finally:
        await bus.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it, with a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(POLL_S)


@pytest.fixture
async def system(nats_server: EmbeddedServer, nats_prefix: str) -> AsyncIterator[System]:
    async with System(nats_server.url, nats_prefix).running() as running:
        yield running


@asynccontextmanager
async def speaking(url: str, name: str, *subjects: str) -> AsyncIterator[RawNats]:
    """A connection of `name`, listening to its inbox and to `subjects`."""
    connection = await RawNats.connect(url)
    try:
        await connection.greet(name, f"_INBOX.{name}.*", *subjects)
        yield connection
    finally:
        await connection.close()


def command_id(number: int) -> str:
    """A command id made by hand: random bits after a time, see docs/protocol.md."""
    return f"0193d5c8-7a00-7b3e-9c41-{number:012x}"


# --- the document ----------------------------------------------------------------------------


def test_the_sizes_in_the_sessions_shown_are_right() -> None:
    frames = read_sessions(DOCUMENT)
    assert len([frame for frame in frames if frame.payload is not None]) > 20
    assert [frame.line for frame in frames if not frame.size_is_right()] == []


async def test_the_sessions_shown_go_as_shown(
    nats_server: EmbeddedServer, nats_prefix: str
) -> None:
    # The same sessions under a prefix of their own: other tests use this server, too.
    document = re.sub(r"(?<=[ .])swarm(?=\.|log[._])", nats_prefix, DOCUMENT)
    async with System(nats_server.url, nats_prefix).running() as system:
        names = await play(read_sessions(document), system.url, {})
    # A token is (fence, nonce of the owner's entries, session): the log shows it.
    (owner,) = [shown for shown in names if shown == "4c81d07be6"]
    assert names[f"1.{owner}.c3c0bdf43efb2"] == f"1.{names[owner]}.c3c0bdf43efb2"


def test_every_subject_message_verb_and_error_is_described() -> None:
    for route in ROUTES:
        assert f"`{route.subject}`" in DOCUMENT, route.subject
    codes = re.findall(r"^\| `([a-z_]+)` \| [^|]+ \| (?:yes|no) \|", DOCUMENT, re.MULTILINE)
    assert sorted(codes) == sorted(REFUSAL_CODES)
    for verb in SHARD_VERBS:
        assert f".{verb}." in DOCUMENT
    inside = {"Ack", "Conflict", "CoordinatorRouted", "Credit", "ErrorBody", "NewItem"}
    inside |= {"RuleRouted", "SubmitResult"}
    inside |= {one.__name__ for one in messages.Event.__args__}
    inside |= {one.__name__ for one in messages.ClusterEvent.__args__}
    inside |= {one.__name__ for one in vars(messages.state).values() if one in classes()}
    for message in classes():
        assert message.__name__ in inside or f"`{message.__name__}`" in DOCUMENT, message
    for event in messages.Event.__args__:
        assert f"| `{event.__struct_config__.tag}` |" in DOCUMENT


def test_every_example_can_be_read() -> None:
    examples = re.findall(r"^```json\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert len(examples) > 12
    for example in examples:
        shown = json.loads(example)
        fitting = [one for one in classes() if _fits(one, example, shown)]
        assert fitting, example


def _fits(message: type[msgspec.Struct], example: str, shown: dict[str, Any]) -> bool:
    """Whether the example is one of this message, and has no field that it has not."""
    fields = {field.encode_name for field in msgspec.structs.fields(message)}
    if not shown.keys() <= fields | {message.__struct_config__.tag_field}:
        return False
    try:
        msgspec.json.decode(example, type=message)
    except msgspec.ValidationError:
        return False
    return True


def test_the_recipe_for_command_ids_makes_command_ids() -> None:
    (recipe,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    made: dict[str, Any] = {}
    for _ in range(20):
        exec(f"import os, time, uuid\n{recipe}", made)
        assert is_uuid7(made["command_id"]), made["command_id"]


# --- permissions -------------------------------------------------------------------------------


PASSWORDS = {"lisa": "c", "ada": "a", "mona": "a", "olga": "o", "router": "s", COORDINATOR: "s"}


@pytest.fixture
async def guarded_url(nats_binary: str, tmp_path: Path) -> AsyncIterator[str]:
    """A server with the users that configs/nats/users.conf names."""
    (port,) = free_ports(1)
    shutil.copy(USERS_CONF, tmp_path)
    (tmp_path / "server.conf").write_text(
        f"listen: 127.0.0.1:{port}\n"
        f'jetstream {{ store_dir: "{tmp_path}/data", sync_interval: always }}\n'
        "include ./users.conf\n"
    )
    keys = {"CLIENT": "c", "AGENT": "a", "OPERATOR": "o", "SERVICE": "s"}
    env = {f"{role}_PASSWORD": password for role, password in keys.items()}
    with (tmp_path / "server.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            nats_binary, "-c", str(tmp_path / "server.conf"), stderr=log, env=env
        )
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


async def test_each_role_may_do_its_part_and_no_more(guarded_url: str) -> None:
    def url_of(user: str) -> str:
        return guarded_url.replace("//", f"//{user}:{PASSWORDS[user]}@")

    # Finished items are archived, and logs are purged, at once.
    soon = {"cache_max_size": 1, "log_floor_bytes": 1000}
    async with System(guarded_url, "swarm", url_of, **soon).running() as system:
        await play(read_sessions(DOCUMENT), guarded_url, PASSWORDS)
        await manage(url_of)
        # Whom the server does not know it does not let in.
        with pytest.raises(BusUnavailable):
            await connect(guarded_url, "eve", connect_timeout_s=1.0)
        connection = await RawNats.connect(guarded_url)
        options = {"user": "ada", "pass": "a", "headers": True, "no_responders": True}
        connection.say(f"CONNECT {json.dumps(options)}")
        forbidden = [
            "swarmlog.6",  # write into a log
            "swarm.shard.6.submit.ada",  # step round the coordinators' checks
            "swarm.shard.6.complete.mona",  # speak as somebody else
            "swarm.heartbeat.mona",
            "swarm.beat.coordinator-1",
            "swarm.gone.coordinator-1",
            "swarm.agent.mona.s1.work",
            "_INBOX.mona.1",
            "$JS.API.STREAM.DELETE.swarmlog_6",
        ]
        for subject in forbidden:
            connection.publish(subject, {})
        for subject in ("_INBOX.mona.*", "_INBOX.>", "swarm.agent.mona.>", "swarm.shard.>", ">"):
            connection.say(f"SUB {subject} 9")
            forbidden.append(subject)
        connection.say("PING")
        refused = []
        while (word := await asyncio.wait_for(connection.words.get(), DEADLINE_S)) != "PONG":
            refused += re.findall(r'-ERR .Permissions Violation for \w+ to "(.+)"', word)
        assert refused == forbidden
        await connection.close()
        assert system.coordinator.failures == 0


async def manage(url_of: Callable[[str], str]) -> None:
    """Clients and operators of this library, as the users that they are."""
    async with Swarm.connect(url_of("lisa"), name="lisa") as lisa:
        items = [{"work_type": "other", "payload": number} for number in range(60)]
        for handle in await lisa.submit_many(items):
            assert isinstance(handle, Handle)
            await handle.prioritize("low")
            assert (await handle.cancel()).status == "cancelled"
    async with Swarm.connect(url_of("olga"), name="olga") as olga:
        async with asyncio.timeout(DEADLINE_S):
            shards: list[ShardStats] = []
            while not (
                any(one.archived for one in shards) and any(one.first_seq > 1 for one in shards)
            ):
                found = (await olga.stats()).values()
                shards = [one for one in found if isinstance(one, ShardStats)]
        listed = [item async for item in olga.list(work_type="other", archived=True)]
        assert sorted(msgspec.json.decode(item.payload) for item in listed) == list(range(60))
        with pytest.raises(NoAnswer):
            await olga.cancel(listed[0].work_item_id, timeout_s=0.5)


# --- what is refused, and what is dropped ---------------------------------------------------------


async def submit(lisa: RawNats, prefix: str, number: int, **item: Any) -> str:
    """Submit one item; its id."""
    body = {"command_id": command_id(number), "items": [{"work_type": "text", **item}]}
    reply = await lisa.ask("lisa", f"{prefix}.submit.text.lisa", body)
    return str(reply["results"][0]["work_item_id"])


def shard_of(item: str, prefix: str) -> str:
    """Beginning of the subjects of the item's shard."""
    return f"{prefix}.shard.{item.partition('-')[0]}"


async def claim(agent: RawNats, name: str, prefix: str, item: str, number: int) -> dict[str, Any]:
    """Claim the item, which is the only one ready in its shard."""
    body = {"command_id": command_id(number), "work_types": ["text"]}
    claimed = await agent.ask(name, f"{shard_of(item, prefix)}.claim.{name}", body)
    assert claimed["work_item_id"] == item
    return dict(claimed)


async def test_stale_tokens_and_others_items_are_refused(system: System, nats_prefix: str) -> None:
    prefix = nats_prefix
    async with (
        speaking(system.url, "lisa") as lisa,
        speaking(system.url, "ada") as ada,
        speaking(system.url, "bob") as bob,
    ):
        item = await submit(lisa, prefix, 1)
        held = await claim(ada, "ada", prefix, item, 2)
        about = {"command_id": command_id(3), "work_item_id": item, "token": held["token"]}
        shard = shard_of(item, prefix)

        async def code(agent: RawNats, name: str, verb: str, **fields: Any) -> tuple[str, bool]:
            answer = await agent.ask(name, f"{shard}.{verb}.{name}", {**about, **fields})
            return answer["error"]["code"], answer["error"]["retry"]

        for verb in ("complete", "fail", "release", "renew"):
            assert await code(bob, "bob", verb) == ("not_holder", False)
            assert await code(ada, "ada", verb, token="1.other.s1") == ("stale_token", False)
        released = await ada.ask("ada", f"{shard}.release.ada", about)
        assert released["status"] == "queued"
        # The claim has ended, also for who held it.
        about["command_id"] = command_id(7)
        assert await code(ada, "ada", "complete") == ("stale_token", False)
        again = await claim(bob, "bob", prefix, item, 4)
        assert again["attempt"] == 1, "handing back costs no attempt"
        assert await code(ada, "ada", "complete") == ("not_holder", False)
        assert await code(ada, "ada", "complete", token="") == ("not_holder", False)
        about["token"] = again["token"]
        ended = {**about, "command_id": command_id(5), "result": [1]}
        # Said twice, with other ids: the same claim, the same outcome.
        for number in (5, 6):
            ended["command_id"] = command_id(number)
            assert (await bob.ask("bob", f"{shard}.complete.bob", ended))["status"] == "completed"
        assert await code(bob, "bob", "fail") == ("already_finished", False)
        seen = await lisa.ask("lisa", f"{shard}.get.lisa", {"work_item_id": item})
        assert (seen["result"], seen["agent_id"]) == ([1], "bob")


async def test_a_reply_subject_that_is_no_inbox_of_the_sender_is_dropped(
    system: System, nats_prefix: str
) -> None:
    prefix = nats_prefix
    item = {"command_id": command_id(1), "items": [{"work_type": "text"}]}
    stolen = [f"{prefix}log.3", "_INBOX.bob.1", "_INBOX.lisa", "_INBOX.lisa.*", "_INBOX.lisaa.1"]
    async with speaking(system.url, "lisa", *stolen[:3], "_INBOX.lisaa.1") as lisa:
        for reply in stolen:
            lisa.publish(f"{prefix}.submit.text.lisa", item, reply)
            lisa.publish(f"{prefix}.shard.3.stats.lisa", {}, reply)
            lisa.publish(f"{prefix}.coordinator.{COORDINATOR}.submit.lisa", item, reply)
        await until(lambda: system.router.bad_replies == len(stolen))
        await until(lambda: system.coordinator.bad_replies == len(stolen))
        # Nothing of it was carried out, and nothing was written into the log.
        stats = await lisa.ask("lisa", f"{prefix}.shard.3.stats.lisa", {})
        assert (stats["submitted"], stats["foreign"]) == (0, 0)
        assert lisa.messages.empty(), await lisa.message()


async def test_what_cannot_be_read_is_refused_and_harms_nobody(
    system: System, nats_prefix: str
) -> None:
    shard = f"{nats_prefix}.shard.3"
    nested = b'{"work_item_id":"3-1","x":' + b"[" * 3000 + b"]" * 3000 + b"}"
    work_control = [f"{nats_prefix}.agent.ada.*.{kind}" for kind in ("work", "control")]
    async with speaking(system.url, "ada", *work_control) as ada:
        for data, named in (
            (b"{", "JSON"),
            (b"[]", "object"),
            (b'{"work_item_id":3}', "work_item_id"),
            (b'{"work_item_id":"4-1"}', "this is shard 3"),
            (b'{"work_item_id":"drei"}', "one looks like 3-17"),
            (nested, "nest"),
        ):
            ada.publish(f"{shard}.get.ada", None, "_INBOX.ada.x", raw=data)
            error = (await ada.answer("_INBOX.ada.x"))["error"]
            assert error["code"] == "bad_request"
            assert named in error["message"], error
        answer = await ada.ask("ada", f"{shard}.eat.ada", {})
        assert "complete" in answer["error"]["message"], "says what a shard knows"
        # What is not answered may ask for errors; a session that is no name goes nowhere.
        next_ = f"{nats_prefix}.coordinator.{COORDINATOR}.next.ada"
        wrong = {"verb": "fail", "command_id": "x", "work_item_id": "3-1", "token": "t"}
        answer = await ada.ask("ada", next_, {"session": "s1", "slots": 1})
        assert "number" in answer["error"]["message"]
        ada.publish(next_, {"session": "a b", "number": 1, "slots": 0, "done": [wrong]})
        ada.publish(next_, {"session": "s1\r\n", "number": 1, "slots": 0, "done": [wrong]})
        ada.publish(next_, {"session": "*", "number": 1, "slots": 0, "done": [wrong]})
        ada.publish(next_, None, raw=nested)
        ada.publish(f"{nats_prefix}.heartbeat.ada", None, raw=nested)
        beat = {"coordinator": COORDINATOR, "number": 1, "slots": 0, "work_types": ["text"]}
        for session in ("a b", ">", ""):
            listed = {"session": session, "held": [["3-1", "t"]], **beat}
            ada.publish(f"{nats_prefix}.heartbeat.ada", listed)
        # Commands of an unknown session are carried out, and answered where it says it listens.
        ada.publish(next_, {"session": "s1", "number": 1, "slots": 0, "done": [wrong]})
        while (message := await ada.message()).subject != f"{nats_prefix}.agent.ada.s1.work":
            pass
        assert message.json["acks"][0]["error"]["code"] == "unknown_item"
        stats = await ada.ask("ada", f"{shard}.stats.ada", {})
        assert (stats["epoch"], stats["foreign"]) == (1, 0), "the shard did not even close"
        assert system.coordinator.failures == 0


async def test_one_bad_item_of_a_batch_is_named_and_the_others_are_accepted(
    system: System, nats_prefix: str
) -> None:
    bad = [
        {},
        {"work_type": "two words"},
        {"work_type": "a.b"},
        {"work_type": ">"},
        {"work_type": "text", "priority": "at once"},
        {"work_type": "text", "dependencies": ["99-1"]},
        {"work_type": "text", "payload": "x" * 300_000},
        17,
    ]
    codes = [*["bad_request"] * 6, "too_large", "bad_request"]
    items = [{"work_type": "text"}, *bad, {"work_type": "text", "of_a_later_version": True}]
    answers: dict[int, dict[str, Any]] = {}
    async with speaking(system.url, "lisa") as lisa:
        subject = f"{nats_prefix}.submit._.lisa"
        lisa.publish(subject, {"items": items, "command_id": command_id(1)}, "_INBOX.lisa.b")
        while len(answers) < len(items):
            reply = await lisa.answer("_INBOX.lisa.b")
            answers |= {result["index"]: result for result in reply["results"]}
        assert [answers[index]["error"]["code"] for index in range(1, 9)] == codes
        assert answers[0]["work_item_id"]
        assert answers[9]["work_item_id"]
        # The whole batch again: the same answers.
        lisa.publish(
            subject, {"items": items, "command_id": command_id(1), "retry": 1}, "_INBOX.lisa.c"
        )
        again: dict[int, dict[str, Any]] = {}
        while len(again) < len(items):
            reply = await lisa.answer("_INBOX.lisa.c")
            again |= {result["index"]: result for result in reply["results"]}
        assert again == answers
        # … but not for ever.
        last = {"items": bad[5:6], "command_id": command_id(2), "retry": 5}
        answer = await lisa.ask("lisa", subject, last)
        assert answer["results"][0]["error"]["code"] == "bad_request"
        whole = {"items": [{"work_type": "text"}] * 1001}
        answer = await lisa.ask("lisa", subject, whole)
        assert answer["error"]["code"] == "bad_request"


async def test_an_agent_that_lost_its_work_gets_it_again(system: System, nats_prefix: str) -> None:
    """The life of a session where messages are lost: resent, stopped, attached again."""
    prefix = nats_prefix
    heard = [f"{prefix}.agent.ada.*.work", f"{prefix}.agent.ada.*.control"]
    async with (
        speaking(system.url, "lisa") as lisa,
        speaking(system.url, "ada", *heard) as ada,
        speaking(system.url, "eve") as eve,
    ):
        item = await submit(lisa, prefix, 1)
        # A session of one's own choice: attaching twice is attaching once.
        attach = {"work_types": ["text"], "session": "s0c5d11ab9e"}
        for _ in range(2):
            attached = await ada.ask("ada", f"{prefix}.attach.ada", attach)
            assert attached["session"] == "s0c5d11ab9e"
        other = await eve.ask("eve", f"{prefix}.describe.eve", {})
        assert other["coordinators"][0]["sessions"] <= 1
        taken = await ada.ask("ada", f"{prefix}.attach.ada", {"work_types": ["text"]})
        assert taken["error"]["code"] == "agent_id_in_use"
        session = {"session": "s0c5d11ab9e", "slots": 1, "number": 1, "received": 0}
        ada.publish(f"{prefix}.coordinator.{COORDINATOR}.next.ada", session)
        assigned = (await ada.message()).json["items"][0]
        assert assigned["work_item_id"] == item
        beat = {
            **session,
            "coordinator": COORDINATOR,
            "work_types": ["text"],
            "slots": 0,
            "received": 1,
        }
        # Not listed twice: it is sent again, the same claim.
        for number in (2, 3):
            ada.publish(f"{prefix}.heartbeat.ada", {**beat, "number": number, "held": []})
        resent = (await ada.message()).json["items"][0]
        assert resent == assigned
        # What is listed and not held is stopped.
        held = [[item, assigned["token"]], ["0-99", "1.x.y"]]
        ada.publish(f"{prefix}.heartbeat.ada", {**beat, "number": 4, "held": held})
        stop = (await ada.message()).json
        assert (stop["kind"], stop["work_item_id"], stop["token"]) == ("stop", "0-99", "1.x.y")
        # Not listed four times in all since then: queued again, without an attempt.
        for number in (5, 6):
            ada.publish(f"{prefix}.heartbeat.ada", {**beat, "number": number, "held": []})
        assert (await ada.message()).json["items"] == [assigned], "sent again first"
        for number in (7, 8):
            ada.publish(f"{prefix}.heartbeat.ada", {**beat, "number": number, "held": []})
        shard = shard_of(item, prefix)

        async def status() -> Any:
            return await lisa.ask("lisa", f"{shard}.get.lisa", {"work_item_id": item})

        while (seen := await status())["status"] != "queued":
            assert seen["status"] == "claimed"
        assert seen.get("attempt", 0) == 0

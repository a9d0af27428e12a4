"""The HTTP API: work over HTTP, requests that come twice, bad ones, and trouble behind it."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator

import pytest

from swarm.bus.base import Message
from swarm.core.ids import uuid7
from swarm.core.sharding import SHARD_DISTRIBUTIONS, SHARD_KEYS
from swarm.errors import REFUSAL_CODES
from swarm.messages import ShardStats
from swarm.subjects import MIXED
from swarm.web import api, bodies, statuses
from swarm.web.api import Api
from swarm.web.http import HttpServer
from swarm.web.voices import VOICES_MAX, Voices
from tests.web.world import MEMBERS, HttpWorld, running, until

TEXT = {"work_types": ["text"]}
OTHER = {"work_types": ["other"]}


async def test_an_item_lives_its_whole_life_over_http(http: HttpWorld) -> None:
    (name,) = await http.submitted()
    claim = await http.post("/v1/claim", TEXT, key=http.id(), sender="ada")
    assert (claim.status, claim.body["work_item_id"], claim.body["attempt"]) == (200, name, 1)
    held = {"work_item_id": name, "token": claim.body["token"]}
    report = {**held, "percent": 40, "note": "half"}
    assert (await http.post("/v1/progress", report, key=http.id(), sender="ada")).status == 200
    renewed = await http.post("/v1/renew", held, sender="ada")
    assert renewed.body["lease_s"] > 0
    waiting = asyncio.create_task(http.get(f"/v1/items/{name}?wait_s=10", front=1))
    done = await http.post(
        "/v1/complete", {**held, "result": [1, 2]}, key=http.id(), sender="ada", front=1
    )
    assert (done.status, done.body["status"]) == (200, "completed")
    seen = await waiting
    assert (seen.body["status"], seen.body["result"], seen.body["note"]) == (
        "completed",
        [1, 2],
        "half",
    )


async def test_what_an_agent_and_anybody_may_say(http: HttpWorld) -> None:
    one = await http.claimed()
    held = {"work_item_id": one["work_item_id"], "token": one["token"]}
    for verb, more, status in (
        ("wait", {"waits_for": "a word"}, "waiting"),
        ("answer", {"answer": {"yes": True}}, "queued"),
        ("prioritize", {"priority": "critical"}, "queued"),
        ("cancel", {"reason": "enough"}, "cancelled"),
    ):
        said = await http.post(f"/v1/{verb}", {**held, **more}, key=http.id(), sender="ada")
        assert (said.status, said.body.get("status")) == (200, status), (verb, said)
    other = await http.claimed()
    held = {"work_item_id": other["work_item_id"], "token": other["token"]}
    back = await http.post("/v1/release", {**held, "reason": "later"}, key=http.id(), sender="ada")
    assert back.body["status"] == "queued"
    late = await http.post("/v1/fail", {**held, "error": "late"}, key=http.id(), sender="ada")
    assert (late.status, late.code) == (409, "stale_token")
    third = await http.claimed()
    held = {"work_item_id": third["work_item_id"], "token": third["token"]}
    other_agent = await http.post("/v1/fail", held, key=http.id(), sender="bob")
    assert (other_agent.status, other_agent.code) == (403, "not_holder")
    failed = await http.post("/v1/fail", held, key=http.id(), sender="ada")
    assert failed.body["status"] == "scheduled"


# --- twice --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "uuid", "quoted"])
async def test_a_submit_that_comes_twice_is_stored_once(http: HttpWorld, kind: str) -> None:
    key = {"text": "order 4711", "uuid": http.id(), "quoted": '"order 4711"'}[kind]
    items = {"items": [{"work_type": "text", "payload": number} for number in range(5)]}
    answers = await asyncio.gather(
        *(http.post("/v1/submit", items, key=key, front=number % 2) for number in range(4))
    )
    assert {answer.status for answer in answers} == {200}
    ids = [[one["work_item_id"] for one in answer.body["results"]] for answer in answers]
    assert ids == [ids[0]] * 4
    assert len(set(ids[0])) == 5
    stats = (await http.swarm.stats()).values()
    assert sum(one.submitted for one in stats if isinstance(one, ShardStats)) == 5


@pytest.mark.parametrize("distribution", SHARD_DISTRIBUTIONS)
@pytest.mark.parametrize("shard_key", SHARD_KEYS)
async def test_however_items_are_placed_a_key_is_known_again(
    shard_key: str, distribution: str
) -> None:
    async with running(shard_key=shard_key, distribution=distribution) as http:
        items = {"items": [{"work_type": "text", "payload": number} for number in range(9)]}
        for key in ("order", http.id()):
            answers = [
                await http.post("/v1/submit", items, key=key, front=front) for front in (0, 1)
            ]
            assert answers[0].body["results"] == answers[1].body["results"]


async def test_a_submit_says_what_routers_route_by(http: HttpWorld) -> None:
    seen: list[Message] = []
    await http.world.connect("spy").subscribe("swarm.submit.*.*", seen.append)
    high = {"work_type": "text", "priority": "high", "team": "core"}
    low = {"work_type": "text", "priority": "low", "team": "core"}
    for number, items in enumerate(([high], [high, low], [high, {"work_type": "other"}, {}])):
        answer = await http.post("/v1/submit", {"items": items}, key=f"batch-{number}")
        assert answer.status == 200
    said = [(one.subject.split(".")[2], dict(one.headers or {})) for one in seen]
    assert said == [
        ("text", {"Swarm-Priority": "high", "Swarm-Team": "core"}),
        ("text", {"Swarm-Priority": MIXED, "Swarm-Team": "core"}),
        (MIXED, {"Swarm-Priority": MIXED, "Swarm-Team": MIXED}),
    ]


@pytest.mark.parametrize("kind", ["text", "uuid"])
async def test_a_key_for_other_content_is_refused(http: HttpWorld, kind: str) -> None:
    key = "order" if kind == "text" else http.id()
    first = {"items": [{"work_type": "text", "payload": 1}]}
    assert (await http.post("/v1/submit", first, key=key)).status == 200
    other = {"items": [{"work_type": "text", "payload": 2}]}
    answer = await http.post("/v1/submit", other, key=key, front=1)
    assert answer.status == 422
    assert answer.body["results"][0]["error"]["code"] == "idempotency_conflict"


async def test_an_item_with_a_key_of_its_own_keeps_it(http: HttpWorld) -> None:
    body = {"items": [{"work_type": "text", "idempotency_key": "mine"}, {"work_type": "text"}]}
    results = (await http.post("/v1/submit", body, key="batch")).body["results"]
    keys = [
        (await http.get(f"/v1/items/{one['work_item_id']}")).body["idempotency_key"]
        for one in results
    ]
    assert keys == ["mine", "batch.1"]


async def test_a_claim_that_comes_twice_gets_the_same_item(http: HttpWorld) -> None:
    await http.submitted(16)
    seen = []
    for _ in range(6):
        key = http.id()
        twice = [
            await http.post("/v1/claim", TEXT, key=key, sender="ada", front=front)
            for front in (0, 1)
        ]
        # Shards are asked in random order: without a look back, the second gets another one.
        assert twice[0].body == twice[1].body
        seen.append(twice[0].body["work_item_id"])
    assert len(set(seen)) == 6


async def test_a_claim_is_the_senders_own(http: HttpWorld) -> None:
    await http.submitted(2)
    key = http.id()
    first = await http.post("/v1/claim", TEXT, key=key, sender="ada")
    other = await http.post("/v1/claim", TEXT, key=key, sender="bob", front=1)
    assert first.status == 200
    # Bob is not told what Ada holds, whatever id he names.
    assert other.body.get("token") != first.body["token"]


async def test_a_claim_granted_by_a_coordinator_that_leaves_is_found_again(
    http: HttpWorld,
) -> None:
    await http.submitted(16)
    key = http.id()
    first = await http.post("/v1/claim", TEXT, key=key, sender="ada")
    shard = int(first.body["work_item_id"].partition("-")[0])
    owner = next(one for one in http.coordinators.values() if shard in one.owned)
    # Gone without a word; its shards have no owner until the other one notices.
    http.world.crash(owner.name)
    again = await http.post("/v1/claim", TEXT, key=key, sender="ada", front=1)
    assert again.body == first.body
    del http.coordinators[owner.name]
    await owner.stop()


async def test_an_outcome_that_comes_twice_is_acknowledged_twice(http: HttpWorld) -> None:
    one = await http.claimed()
    body = {"work_item_id": one["work_item_id"], "token": one["token"], "result": 7}
    key = http.id()
    first = await http.post("/v1/complete", body, key=key, sender="ada")
    again = await http.post("/v1/complete", body, key=key, sender="ada", front=1)
    assert (first.status, first.body) == (200, again.body)


async def test_a_key_older_than_what_is_remembered_is_never_carried_out_again(
    http: HttpWorld,
) -> None:
    """Whether it is a retry cannot be known behind a proxy: so it is taken for one."""
    now = time.time()
    for coordinator in http.coordinators.values():
        for worker in coordinator._shards:
            worker._shard.commands.horizon = int((now - 60) * 1000)
    old, fresh = uuid7(int((now - 90) * 1000), 1), uuid7(int((now - 30) * 1000), 1)
    answer = await http.post("/v1/submit", ITEM, key=old)
    assert (answer.status, answer.body["results"][0]["error"]["code"]) == (410, "too_old")
    assert (await http.post("/v1/submit", ITEM, key=fresh)).status == 200
    answer = await http.post("/v1/claim", TEXT, key=old, sender="ada")
    assert (answer.status, answer.code) == (410, "too_old")


# --- bad requests ---------------------------------------------------------------------------------

ITEM = b'{"items":[{"work_type":"text"}]}'


#: Path, body, key (ID: a fresh one), status, and part of the message.
BAD: list[tuple[str, bytes, str | None, int, str]] = [
    ("/v1/submit", ITEM, None, 400, "Idempotency-Key is missing"),
    ("/v1/submit", ITEM, "", 400, "Idempotency-Key is missing"),
    ("/v1/submit", ITEM, "x" * 201, 400, "1 to 200 printable"),
    ("/v1/submit", b"", "k", 400, "missing required field `items`"),
    ("/v1/submit", b"[]", "k", 400, "Expected `object`"),
    ("/v1/submit", b'{"items":', "k", 400, "no valid JSON"),
    ("/v1/submit", b'{"items":[]}', "k", 400, "items is empty"),
    ("/v1/submit", b'{"items":[], "command_id":"x"}', "k", 400, "differ"),
    ("/v1/submit", b'\xff{"items":[]}', "k", 400, "not valid UTF-8"),
    ("/v1/submit", b"[" * 100_000, "k", 400, "nested too deep"),
    ("/v1/claim", b'{"work_types":["text"]}', None, 400, "Idempotency-Key is missing"),
    ("/v1/claim", b'{"work_types":["text"]}', "mine", 400, "no UUIDv7"),
    ("/v1/claim", b'{"work_types":[]}', "ID", 400, "work_types is empty"),
    ("/v1/claim", b'{"work_types":["a.b"]}', "ID", 400, "$.work_types[0]"),
    ("/v1/claim?wait_s=31", b'{"work_types":["text"]}', "ID", 400, "0 to 30"),
    ("/v1/claim?wait_s=nan", b'{"work_types":["text"]}', "ID", 400, "0 to 30"),
    ("/v1/claim?wait=1", b'{"work_types":["text"]}', "ID", 400, "unknown query wait"),
    ("/v1/claim", b'{"work_types":["text"]}', "ID", 404, "nothing is ready of: text"),
    ("/v1/complete", b"{}", "ID", 400, "missing required field"),
    ("/v1/complete", b'{"command_id":7}', "ID", 400, "differ"),
    (
        "/v1/complete",
        b'{"command_id":"0193d5c8-7a00-7b3e-9c41-5d2f8e6a1b70"}',
        None,
        400,
        "missing",
    ),
    ("/v1/complete", b'{"command_id":"x"}', "ID", 400, "differ"),
    ("/v1/complete", b'{"work_item_id":"x","token":"t"}', "ID", 400, "no work item id"),
    ("/v1/complete", b'{"work_item_id":"1-99","token":"t"}', "ID", 404, "1-99"),
    ("/v1/fail?timeout_s=0.3", b'{"work_item_id":"99-1","token":"t"}', "ID", 504, "no answer"),
    ("/v1/renew", b'{"work_item_id":"1-99","token":"t"}', None, 404, "1-99"),
    ("/v1/nothing", b"{}", "ID", 404, "there is no /v1/nothing"),
    ("/v1/items", b"{}", "ID", 405, "takes GET"),
]


async def test_a_bad_request_is_told_what_is_wrong(http: HttpWorld) -> None:
    for path, body, key, status, said in BAD:
        answer = await http.post(path, body, key=http.id() if key == "ID" else key)
        assert answer.status == status, (path, body, answer)
        assert answer.headers["Content-Type"].startswith("application/json")
        assert said in answer.body["error"]["message"], (path, body, answer)
        assert set(answer.body["error"]) == {"code", "message", "retry"}


async def test_bad_queries_and_senders_are_named(http: HttpWorld) -> None:
    for path, said in (
        ("/v1/items?limit=0", "1 to 1000"),
        ("/v1/items?limit=x", "0 to 1000"),
        ("/v1/items?after=x", "what the page before has named"),
        ("/v1/items?after=1-" + "9" * 40, "too long"),
        ("/v1/items?status=odd", "odd"),
        ("/v1/items/x", "no work item id"),
        ("/v1/items/1-1?waits=3", "unknown query waits"),
    ):
        answer = await http.get(path)
        assert (answer.status, answer.code) == (400, "bad_request"), path
        assert said in answer.body["error"]["message"], path
    for sender in ("a.b", "*", "x" * 65):
        answer = await http.post("/v1/renew", {}, sender=sender)
        assert "Swarm-Sender" in answer.body["error"]["message"]
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = await http.ask("POST", "/v1/submit", data=ITEM, headers=twice)
    assert "is there twice" in answer.body["error"]["message"]


async def test_a_packed_body_is_not_unpacked(http: HttpWorld) -> None:
    headers = {"Idempotency-Key": "k", "Content-Encoding": "gzip"}
    answer = await http.ask("POST", "/v1/submit", data=gzip.compress(ITEM), headers=headers)
    assert (answer.status, answer.code) == (400, "bad_request")
    assert "Content-Encoding 'gzip'" in answer.body["error"]["message"]


async def test_a_body_may_name_the_same_id(http: HttpWorld) -> None:
    one = await http.claimed()
    key = http.id()
    held = {"work_item_id": one["work_item_id"], "token": one["token"], "verb": "complete"}
    body = {**held, "command_id": key, "retry": 7, "of_a_later_version": 1}
    assert (await http.post("/v1/complete", body, key=key.upper(), sender="ada")).status == 200


async def test_bad_items_of_a_batch_are_refused_alone(http: HttpWorld) -> None:
    items = [{"work_type": "text"}, {"work_type": "a b"}, {"priority": "low"}]
    answer = await http.post("/v1/submit", {"items": items}, key="batch")
    assert answer.status == 200
    found = [one.get("error", {}).get("code", "stored") for one in answer.body["results"]]
    assert found == ["stored", "bad_request", "bad_request"]
    none = await http.post("/v1/submit", {"items": items[1:]}, key="none")
    assert none.status == 400
    assert len(none.body["results"]) == 2


async def test_what_is_too_large_is_refused_before_it_is_sent() -> None:
    async with running(max_payload=64 * 1024) as http:
        one = {"items": [{"work_type": "text", "payload": "x" * 17_000}]}
        answer = await http.post("/v1/submit", one, key="one")
        assert (answer.status, answer.body["results"][0]["error"]["code"]) == (413, "too_large")
        batch = b'{"items":[' + b" " * 33_000 + b"]}"

        async def in_pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(batch), 1000):
                yield batch[start : start + 1000]

        for body in (batch, in_pieces()):
            answer = await http.post("/v1/submit", body, key="batch")
            assert (answer.status, answer.code) == (413, "too_large")
        held = await http.claimed()
        done = {
            "work_item_id": held["work_item_id"],
            "token": held["token"],
            "result": "x" * 20_000,
        }
        answer = await http.post("/v1/complete", done, key=http.id(), sender="ada")
        assert (answer.status, answer.code) == (413, "too_large")
        keyed = {"items": [{"work_type": "t"}] * 1000}
        answer = await http.post("/v1/submit", keyed, key="k" * 150)
        assert "the batch has" in answer.body["error"]["message"]


async def test_what_is_no_http_hangs_and_breaks_nothing(http: HttpWorld) -> None:
    port = int(http.fronts[0].url.rpartition(":")[2])
    for sent in (
        b"\x00\xff\x00 garbage\r\n\r\n",
        b"GET /v1/id HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"POST /v1/submit HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/submit HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        async with asyncio.timeout(5):
            status = await reader.readline()
            rest = await reader.read(4000)
        assert b" 400 " in status, (sent[:40], status)
        assert b"Traceback" not in rest
        writer.close()
    # Whoever hangs up in the middle leaves nothing behind.
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/submit HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
    await writer.drain()
    writer.close()
    assert (await http.get("/v1/id")).status == 200


async def test_a_body_that_does_not_come_is_not_waited_for(
    http: HttpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.05)
    never = asyncio.Event()

    async def hangs() -> AsyncIterator[bytes]:
        yield b'{"items":'
        await never.wait()

    answer = await http.post("/v1/submit", hangs(), key="k")
    assert (answer.code, answer.body["error"]["retry"]) == ("bad_request", True)
    assert "did not arrive" in answer.body["error"]["message"]


# --- trouble ------------------------------------------------------------------------------------


async def test_before_and_without_nats_everything_is_unavailable_at_once(http: HttpWorld) -> None:
    before = HttpServer({}, api=Api("swarm", lambda: MEMBERS))
    await before.start("127.0.0.1", 0)
    http.fronts.append(before)
    http.world.partition("front-0")
    await until(lambda: not http.buses[0].connected)
    for front in (0, 2):
        answer = await http.post("/v1/submit", ITEM, key="k", front=front)
        assert (answer.status, answer.code) == (503, "unavailable")
        assert (answer.body["error"]["retry"], answer.headers["Retry-After"]) == (True, "1")
    http.world.heal("front-0")
    await until(lambda: http.buses[0].connected)
    assert (await http.post("/v1/submit", ITEM, key="k")).status == 200


async def test_nobody_there_is_unavailable_in_time(http: HttpWorld) -> None:
    (name,) = await http.submitted()
    for coordinator in http.coordinators.values():
        await coordinator.stop()
    http.coordinators.clear()
    for method, path, body in (
        ("POST", "/v1/submit?timeout_s=0.4", ITEM),
        ("POST", "/v1/claim?timeout_s=0.4", b'{"work_types":["text"]}'),
        ("GET", f"/v1/items/{name}?timeout_s=0.4", None),
        ("GET", "/v1/items?timeout_s=0.4", None),
    ):
        key = {"Idempotency-Key": http.id()}
        answer = await http.ask(method, path, data=body, headers=key)
        assert answer.status in (503, 504), (path, answer)
        error = answer.body.get("error") or answer.body["results"][0]["error"]
        assert error["retry"] is True
        assert answer.headers["Retry-After"]


async def test_a_mute_swarm_is_no_answer(http: HttpWorld) -> None:
    (name,) = await http.submitted()
    for bus in http.coordinators:
        http.world.pause(bus, 2.0)
    answer = await http.get(f"/v1/items/{name}?timeout_s=0.3")
    assert (answer.status, answer.code) == (504, "no_answer")
    for bus in http.coordinators:
        http.world.resume(bus)


async def test_a_defect_is_json_without_a_traceback(
    http: HttpWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(api, "describe", broken)
    answer = await http.get("/v1/describe")
    assert (answer.status, answer.code) == (500, "internal")
    assert "secret" not in answer.body["error"]["message"]


async def test_long_polls_end_when_the_node_stops(http: HttpWorld) -> None:
    (name,) = await http.submitted()
    poll = asyncio.create_task(http.get(f"/v1/items/{name}?wait_s=30", front=1))
    claim = asyncio.create_task(
        http.post("/v1/claim?wait_s=30", OTHER, key=http.id(), sender="ada", front=1)
    )
    await until(lambda: http.apis[1].asking == 2)
    await http.fronts[1].stop()
    for task in (poll, claim):
        answer = await task
        assert (answer.status, answer.code) == (503, "unavailable")


# --- looking ------------------------------------------------------------------------------------


async def test_pages_hold_every_item_once(http: HttpWorld) -> None:
    wanted = set(await http.submitted(25))
    await http.submitted(3, "other")
    seen: list[str] = []
    after = ""
    pages = 0
    while True:
        page = await http.get(f"/v1/items?work_type=text&limit=4&after={after}")
        assert len(page.body["items"]) <= 4
        seen += [item["work_item_id"] for item in page.body["items"]]
        after = page.body["after"]
        pages += 1
        if not after:
            break
    assert sorted(seen) == sorted(wanted)
    assert pages >= 7


async def test_a_change_ends_a_long_poll(http: HttpWorld) -> None:
    (name,) = await http.submitted()
    version = (await http.get(f"/v1/items/{name}")).body["version"]
    poll = asyncio.create_task(http.get(f"/v1/items/{name}?wait_s=20&version={version}"))
    await http.post("/v1/claim", TEXT, key=http.id(), sender="ada")
    assert (await poll).body["status"] == "claimed"


async def test_members_map_and_ids_are_shown(http: HttpWorld) -> None:
    shown = (await http.get("/members")).body
    assert shown["members"] == [{"name": "c1", "host": "10.0.0.1", "port": 4000}]
    assert (shown["source"], shown["stale"], shown["as_of"]) == ("static", False, 1.5)
    assert (await http.get("/v1/describe")).body["map"]["shard_count"] == 8
    ids = [(await http.get("/v1/id")).body["id"] for _ in range(2)]
    assert ids[0] != ids[1]


async def test_only_so_many_inboxes_stay_open(http: HttpWorld) -> None:
    voices = Voices("swarm", http.swarm._runtime)
    voices.connected(http.buses[0])
    first = await voices.of("sender-0")
    for number in range(1, VOICES_MAX + 1):
        await voices.of(f"sender-{number}")
    assert await voices.of("sender-0") is not first
    assert len(voices._voices) <= VOICES_MAX
    await voices.close()


def test_every_error_has_a_status_that_is_one() -> None:
    assert set(statuses.STATUS) == REFUSAL_CODES
    assert all(400 <= status < 600 for status in statuses.STATUS.values())
    assert statuses.status_of("of_a_later_version", retry=True) == 503
    assert statuses.status_of("of_a_later_version", retry=False) == 400

"""Messages, on every bus."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from swarm.actors.sending import Sender
from swarm.bus.base import Handler, Message, headers_size
from swarm.bus.nats_link import NatsLink
from swarm.errors import BusTimeout, BusUnavailable, NoResponders, PayloadTooLarge
from tests.conformance.worlds import Seen, World, ignore, outcome, settled


async def test_a_connection_knows_itself(world: World) -> None:
    bus = await world.connect("agent-7")
    assert bus.sender == "agent-7"
    assert bus.connected
    assert bus.reconnects == 0
    assert bus.max_payload >= 64 * 1024


async def test_a_message_arrives_with_all_its_parts(world: World) -> None:
    sender, receiver = await world.connect("s"), await world.connect("r")
    seen: Seen[Message] = Seen()
    subject = world.subject("x.y")
    await receiver.subscribe(subject, seen)
    await sender.publish(subject, b"\x00\r\n\xff", "_INBOX.s.1", {"Key": "value: 1", "k2": "ü"})
    await sender.publish(subject, b"")
    first, second = await seen.count(2)
    assert first == Message(subject, b"\x00\r\n\xff", "_INBOX.s.1", {"Key": "value: 1", "k2": "ü"})
    assert (second.data, second.reply, second.headers) == (b"", "", None)


async def test_messages_of_one_publisher_stay_in_order(world: World) -> None:
    sender, receiver = await world.connect("s"), await world.connect("r")
    seen: Seen[Message] = Seen()
    await receiver.subscribe(world.subject(">"), seen)
    for number in range(2000):
        await sender.publish(world.subject(f"n{number % 3}"), str(number).encode())
    arrived = [int(message.data) for message in await seen.count(2000)]
    assert arrived == list(range(2000))


async def test_what_is_sent_together_arrives_in_order_but_for_what_cannot_be_sent(
    world: World,
) -> None:
    """Subjects that are new and known, small messages and large ones, and one that is none."""
    sender, receiver = await world.connect("s"), await world.connect("r")
    send = Sender(sender)
    seen: Seen[Message] = Seen()
    await receiver.subscribe(world.subject(">"), seen)
    messages = [
        (world.subject(f"n{number % 7}"), b"%d " % number + b"x" * (6000 * (number % 11 == 0)))
        for number in range(400)
    ]
    too_large = b"x" * (sender.max_payload + 1)
    await send.all([*messages, (messages[0][0], too_large), *messages])
    arrived = await seen.count(800)
    assert [(one.subject, one.data) for one in arrived] == [*messages, *messages]
    assert send.failed == 1


async def test_as_many_as_said_of_what_is_usual_are_sent(world: World) -> None:
    sender, receiver = await world.connect("s"), await world.connect("r")
    seen: Seen[Message] = Seen()
    await receiver.subscribe(world.subject(">"), seen)
    known, new = world.subject("known"), world.subject("new")
    await sender.publish(known, b"0")
    sent = sender.publish_usual([(known, b"1"), (known, b"2"), (new, b"3"), (known, b"4")])
    # In memory a closer look costs nothing, so that each is sent by `publish`.
    assert sent == (2 if isinstance(sender, NatsLink) else 0), "those before the first new one"
    await sender.publish(known, b"end")
    arrived = [one.data for one in await seen.count(sent + 2)]
    assert arrived == [b"0", *[b"1", b"2"][:sent], b"end"]
    await sender.close()
    assert sender.publish_usual([(known, b"5")]) == 0


async def test_a_sender_hears_itself(world: World) -> None:
    bus = await world.connect()
    seen: Seen[Message] = Seen()
    await bus.subscribe(world.subject("x"), seen)
    await bus.publish(world.subject("x"), b"1")
    assert len(await seen.count(1)) == 1


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("a.b", ["a.b"]),
        ("a.*", ["a.b", "a.c"]),
        ("*.b", ["a.b", "x.b"]),
        ("a.>", ["a.b", "a.c", "a.b.c"]),
        ("*.*.c", ["a.b.c"]),
        (">", ["a", "a.b", "a.c", "x.b", "a.b.c"]),
    ],
)
async def test_wildcards(world: World, pattern: str, matches: list[str]) -> None:
    bus = await world.connect()
    seen: Seen[Message] = Seen()
    await bus.subscribe(world.subject(pattern), seen)
    for subject in ("a", "a.b", "a.c", "x.b", "a.b.c"):
        await bus.publish(world.subject(subject), b"")
    await seen.count(len(matches))
    await settled(bus)
    assert sorted(m.subject for m in seen.all) == sorted(map(world.subject, matches))


def numbered(seen: Seen[tuple[int, bytes]], number: int) -> Handler:
    """A handler that adds a number to what it keeps."""

    def keep(message: Message) -> None:
        seen((number, message.data))

    return keep


async def test_a_queue_group_gets_each_message_once(world: World) -> None:
    sender = await world.connect("s")
    members = [await world.connect(f"m{number}") for number in range(3)]
    seen: Seen[tuple[int, bytes]] = Seen()
    alone: Seen[Message] = Seen()
    subject = world.subject("work")
    for number, member in enumerate(members):
        await member.subscribe(subject, numbered(seen, number), queue="g")
    await members[0].subscribe(subject, alone)
    for number in range(300):
        await sender.publish(subject, str(number).encode())
    await seen.count(300)
    await alone.count(300)
    await settled(sender, *members)
    assert Counter(data for _, data in seen.all) == {str(n).encode(): 1 for n in range(300)}
    assert {number for number, _ in seen.all} == {0, 1, 2}, "a member got nothing of 300"


async def test_different_groups_each_get_all(world: World) -> None:
    bus = await world.connect()
    one: Seen[Message] = Seen()
    two: Seen[Message] = Seen()
    await bus.subscribe(world.subject("x"), one, queue="one")
    await bus.subscribe(world.subject("x"), two, queue="two")
    for _ in range(20):
        await bus.publish(world.subject("x"), b"")
    assert len(await one.count(20)) == len(await two.count(20)) == 20


async def test_a_message_without_a_listener_is_lost(world: World) -> None:
    bus = await world.connect()
    await bus.publish(world.subject("x"), b"before")
    await settled(bus)
    seen: Seen[Message] = Seen()
    await bus.subscribe(world.subject("x"), seen)
    await bus.publish(world.subject("x"), b"after")
    assert [m.data for m in await seen.count(1)] == [b"after"]


async def test_a_subscription_is_active_when_subscribe_returns(world: World) -> None:
    sender = await world.connect("s")
    for number in range(20):
        receiver = await world.connect(f"r{number}")
        seen: Seen[Message] = Seen()
        await receiver.subscribe(world.subject(f"x{number}"), seen)
        # From another connection, with nothing that would give the first one time.
        await sender.publish(world.subject(f"x{number}"), b"")
        await seen.count(1)


async def test_no_handler_is_called_after_unsubscribe(world: World) -> None:
    sender, receiver = await world.connect("s"), await world.connect("r")
    seen: Seen[Message] = Seen()
    subscription = await receiver.subscribe(world.subject("x"), seen)
    await sender.publish(world.subject("x"), b"1")
    await seen.count(1)
    # Some of these are on their way when the subscription ends.
    for number in range(200):
        await sender.publish(world.subject("x"), str(number).encode())
    await sender.flush()
    await subscription.unsubscribe()
    at_the_end = len(seen.all)
    await subscription.unsubscribe()
    await sender.publish(world.subject("x"), b"late")
    await settled(sender, receiver)
    assert len(seen.all) == at_the_end


async def test_one_of_two_subscriptions_can_end(world: World) -> None:
    bus = await world.connect()
    one: Seen[Message] = Seen()
    two: Seen[Message] = Seen()
    first = await bus.subscribe(world.subject("x"), one)
    await bus.subscribe(world.subject("x"), two)
    await first.unsubscribe()
    await bus.publish(world.subject("x"), b"")
    await two.count(1)
    await settled(bus)
    assert not one.all


async def test_a_handler_that_raises_stops_nothing(
    world: World, request: pytest.FixtureRequest
) -> None:
    if "memory" in request.node.name:
        pytest.skip("in memory an error of a handler ends the simulation: it shall be found")
    bus = await world.connect()
    seen: Seen[Message] = Seen()

    def broken(message: Message) -> None:
        seen(message)
        raise RuntimeError("a handler's own mistake")

    await bus.subscribe(world.subject("x"), broken)
    for _ in range(3):
        await bus.publish(world.subject("x"), b"")
    await seen.count(3)
    await bus.flush()
    assert bus.connected


# --- requests ------------------------------------------------------------------------


async def test_a_request_gets_its_reply(world: World) -> None:
    client, service = await world.connect("c"), await world.connect("s")
    sending: set[asyncio.Task[None]] = set()
    seen: Seen[Message] = Seen()

    def serve(message: Message) -> None:
        seen(message)
        sending.add(asyncio.ensure_future(service.publish(message.reply, b"re:" + message.data)))

    await service.subscribe(world.subject("ask.*"), serve)
    reply = await client.request(world.subject("ask.c"), b"1", 5.0, {"h": "v"})
    assert reply.data == b"re:1"
    assert seen.all[0].headers == {"h": "v"}
    assert seen.all[0].reply.startswith("_INBOX.c.")
    assert reply.subject == seen.all[0].reply
    answers = await asyncio.gather(
        *(client.request(world.subject("ask.c"), str(n).encode(), 5.0) for n in range(100))
    )
    assert [answer.data for answer in answers] == [f"re:{n}".encode() for n in range(100)]
    await asyncio.gather(*sending)


async def test_only_the_first_reply_counts(world: World) -> None:
    client, service = await world.connect("c"), await world.connect("s")
    sending: set[asyncio.Task[None]] = set()

    async def reply_twice(message: Message) -> None:
        await service.publish(message.reply, b"first")
        await service.publish(message.reply, b"second")

    def serve(message: Message) -> None:
        sending.add(asyncio.ensure_future(reply_twice(message)))

    await service.subscribe(world.subject("x"), serve)
    assert (await client.request(world.subject("x"), b"", 5.0)).data == b"first"
    await asyncio.gather(*sending)
    await settled(service, client)
    assert (await client.request(world.subject("x"), b"", 5.0)).data == b"first"
    await asyncio.gather(*sending)


async def test_a_request_without_anybody_listening_fails_at_once(world: World) -> None:
    bus = await world.connect()
    async with asyncio.timeout(5.0):
        with pytest.raises(NoResponders, match="nobody"):
            await bus.request(world.subject("nobody"), b"", 3600.0)


async def test_a_request_that_is_not_answered_times_out(world: World) -> None:
    bus = await world.connect()
    seen: Seen[Message] = Seen()
    await bus.subscribe(world.subject("mute"), seen)
    with pytest.raises(BusTimeout):
        await bus.request(world.subject("mute"), b"", 0.05)
    # An answer that comes too late disturbs nobody.
    await bus.publish(seen.all[0].reply, b"late")
    await settled(bus)
    assert bus.connected


async def test_inboxes_are_fresh_and_below_the_sender(world: World) -> None:
    one, two = await world.connect("same"), await world.connect("same")
    inboxes = [one.inbox(), one.inbox(), two.inbox()]
    assert len(set(inboxes)) == 3
    assert all(inbox.startswith("_INBOX.same.") for inbox in inboxes)
    seen: Seen[Message] = Seen()
    await one.subscribe(inboxes[0], seen)
    await two.publish(inboxes[0], b"hello")
    assert (await seen.count(1))[0].data == b"hello"


# --- limits --------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [None, {"Swarm-Priority": "high", "k": "ü"}])
async def test_the_size_guard_and_the_connection_after_it(
    world: World, headers: dict[str, str] | None
) -> None:
    bus = await world.connect()
    seen: Seen[Message] = Seen()
    await bus.subscribe(world.subject("x"), seen)
    largest = bus.max_payload - headers_size(headers)
    with pytest.raises(PayloadTooLarge, match=str(bus.max_payload)):
        await bus.publish(world.subject("x"), bytes(largest + 1), headers=headers)
    with pytest.raises(PayloadTooLarge):
        await bus.request(world.subject("x"), bytes(largest + 1), 1.0, headers)
    await bus.publish(world.subject("x"), bytes(largest), headers=headers)
    assert len((await seen.count(1))[0].data) == largest
    await settled(bus)
    assert len(seen.all) == 1
    assert bus.connected
    assert bus.reconnects == 0


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0\r\n\r\n", "a\tb"])
async def test_a_subject_that_is_none_is_refused(world: World, subject: str) -> None:
    bus = await world.connect()
    with pytest.raises(ValueError, match=r"subject|publish"):
        await bus.publish(subject, b"")
    with pytest.raises(ValueError, match="subject"):
        await bus.subscribe(subject, ignore)
    await bus.flush()
    assert bus.reconnects == 0


@pytest.mark.parametrize("pattern", ["a..b", ".a", "a.", ">.a"])
async def test_a_pattern_that_is_none_is_refused(world: World, pattern: str) -> None:
    bus = await world.connect()
    with pytest.raises(ValueError, match="subject"):
        await bus.subscribe(pattern, ignore)
    await bus.flush()
    assert bus.reconnects == 0


# --- the end -------------------------------------------------------------------------


async def test_closing_sends_what_was_published(world: World) -> None:
    sender, receiver = await world.connect("s"), await world.connect("r")
    seen: Seen[Message] = Seen()
    await receiver.subscribe(world.subject("x"), seen)
    for _ in range(500):
        await sender.publish(world.subject("x"), bytes(100))
    await sender.close()
    assert len(await seen.count(500)) == 500


async def test_closing_twice_and_using_it_afterwards(world: World) -> None:
    bus = await world.connect()
    subscription = await bus.subscribe(world.subject("x"), ignore)
    log = world.log()
    await bus.create_log(log)
    await bus.close()
    await bus.close()
    assert not bus.connected
    await subscription.unsubscribe()
    calls = {
        "publish": bus.publish(world.subject("x"), b""),
        "request": bus.request(world.subject("x"), b"", 1.0),
        "subscribe": bus.subscribe(world.subject("x"), ignore),
        "flush": bus.flush(),
        "create_log": bus.create_log(log),
        "append": bus.append(log, b"", 0, 1.0),
        "read": bus.read(log, 1, 1),
        "log_info": bus.log_info(log),
        "purge": bus.purge(log, 1),
        "create_records": bus.create_records(world.log(1), 0),
        "put_record": bus.put_record(world.log(1), "k", b"", 1.0),
        "get_records": bus.get_records(world.log(1), "k"),
        "server_time": bus.server_time(),
        "open_state": bus.open_state(),
        "storage": bus.storage(),
        "state_get": bus.state_get("k"),
        "state_create": bus.state_create("k", b""),
        "state_read": bus.state_read("k"),
        "state_update": bus.state_update("k", b"", 1),
    }
    for name, call in calls.items():
        assert isinstance(await outcome(call), BusUnavailable), name


async def test_closing_fails_what_is_waited_for(world: World) -> None:
    bus = await world.connect()
    seen: Seen[Message] = Seen()
    await bus.subscribe(world.subject("mute"), seen)
    waiting = asyncio.create_task(outcome(bus.request(world.subject("mute"), b"", 3600.0)))
    await seen.count(1)
    await bus.close()
    async with asyncio.timeout(5.0):
        assert isinstance(await waiting, (BusTimeout, BusUnavailable))

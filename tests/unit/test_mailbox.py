"""A mailbox wakes its actor once for all that waits, and for each thing that comes later."""

from __future__ import annotations

import asyncio

from swarm.actors.actor import Mailbox


async def is_awake(box: Mailbox[int]) -> bool:
    """Whether the actor would go on now; it does, if so."""
    waiting = asyncio.ensure_future(box.wait())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    if waiting.done():
        return True
    waiting.cancel()
    return False


async def test_what_comes_wakes_the_actor_once() -> None:
    box: Mailbox[int] = Mailbox(10)
    assert not await is_awake(box)
    assert box.put(1)
    assert box.put(2)
    assert await is_awake(box)
    assert [box.pop(), box.pop()] == [1, 2]
    assert not await is_awake(box)


async def test_what_comes_while_the_actor_works_wakes_it_again() -> None:
    box: Mailbox[int] = Mailbox(10)
    box.put(1)
    assert await is_awake(box)
    # Not taken yet: this one must not be left behind by an actor that takes one only.
    box.put(2)
    assert [box.pop(), box.pop()] == [1, 2]
    assert await is_awake(box)
    assert not await is_awake(box)


async def test_an_actor_that_gave_up_waiting_is_woken_later() -> None:
    box: Mailbox[int] = Mailbox(10)
    assert not await is_awake(box)
    box.wake()
    box.put(1)
    assert await is_awake(box)
    assert not await is_awake(box)
    box.put(2)
    assert await is_awake(box)


async def test_a_full_mailbox_takes_nothing_and_says_so() -> None:
    box: Mailbox[int] = Mailbox(1)
    assert box.put(1)
    assert not box.put(2)
    assert box.pop() == 1
    assert box.put(3)

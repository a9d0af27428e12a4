"""`swarm health`: every coordinator that is found, by its own `/health` and `/ready`."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from swarm.cli import common, settings
from swarm.cli.main import DONE, FAILED

if TYPE_CHECKING:
    import aiohttp

    from swarm.config import Settings
    from swarm.discovery.base import Member, MemberSet
    from swarm.messages import Beat

#: Asked at once.
AT_ONCE = 32


class Found(Struct):
    """What a coordinator says of itself."""

    name: str
    #: ``host:port``; empty: it answers no HTTP, its beats tell.
    address: str
    healthy: bool
    ready: bool
    #: What hinders it, in its own words or ours.
    why: list[str]
    #: How long `/health` took; None: there was no answer, or nobody to ask.
    answered_ms: float | None = None


def add_parser(subparsers: Any) -> None:
    """`swarm health`."""
    parser = subparsers.add_parser(
        "health",
        help="whether every coordinator is alive and ready",
        description="Find the coordinators as COORDINATOR_DISCOVERY says, and ask each for "
        "/health and /ready.  Exit 1 when one of them is not ready, none is found, or discovery "
        "does not answer.",
    )
    settings.add_config(parser)
    common.add_connection(parser, timeout_s=5.0)


def run(args: argparse.Namespace) -> int:
    """Ask, and print."""
    read, _ = settings.read_settings(args)
    return common.run_async(_health(args, read))


async def _health(args: argparse.Namespace, read: Settings) -> int:
    known, beats = await _members(args, read)
    found = await _ask_all(known.members, beats, args.timeout)
    good = bool(found) and not known.stale and all(one.healthy and one.ready for one in found)
    if args.json:
        common.print_json(
            {"ok": good, "source": known.source, "stale": known.stale, "why": known.why}
            | {"coordinators": found}
        )
    else:
        _print(known, found)
    return DONE if good else FAILED


async def _members(args: argparse.Namespace, read: Settings) -> tuple[MemberSet, dict[str, Beat]]:
    """Who is there; with NATS, their beats, too."""
    from swarm.discovery.base import MemberSet

    if read.discovery == "nats":
        from swarm.discovery.beats import of_beats

        async with common.connect(args) as swarm:
            beats = (await swarm.describe(timeout_s=args.timeout)).coordinators
        known = MemberSet("nats", of_beats(beats), as_of=time.time())
        return known, {beat.coordinator: beat for beat in beats}
    from swarm.discovery.choosing import choose
    from swarm.discovery.following import Discovery

    discovery = Discovery(choose(read), quiet=True)
    await discovery.start()
    try:
        return await discovery.first(args.timeout), {}
    finally:
        await discovery.stop()


# --- asking ---------------------------------------------------------------------------------


async def _ask_all(members: list[Member], beats: dict[str, Beat], timeout_s: float) -> list[Found]:
    import aiohttp

    free = asyncio.Semaphore(AT_ONCE)
    limit = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=limit) as http:

        async def ask(member: Member) -> Found:
            if not member.host:
                return _by_beat(beats[member.name])
            async with free:
                return await _ask(http, member, timeout_s)

        return list(await asyncio.gather(*map(ask, members)))


async def _ask(http: aiohttp.ClientSession, member: Member, timeout_s: float) -> Found:
    import aiohttp

    from swarm.discovery.fetching import said_of

    found = Found(member.name, member.address, healthy=False, ready=False, why=[])
    try:
        began = time.perf_counter()
        status, _ = await _get(http, member, "/health")
        found.answered_ms = round((time.perf_counter() - began) * 1000, 1)
        found.healthy = status == 200
        if not found.healthy:
            found.why = [f"/health answers {status}"]
            return found
        status, body = await _get(http, member, "/ready")
        found.ready = status == 200
        if not found.ready:
            found.why = body or [f"/ready answers {status}"]
    except TimeoutError:
        found.why = [f"no answer within {timeout_s:g} s"]
    except (aiohttp.ClientError, OSError) as error:
        found.why = [said_of(error)]
    return found


async def _get(http: aiohttp.ClientSession, member: Member, path: str) -> tuple[int, list[str]]:
    """(status, what it lacks)."""
    async with http.get(f"http://{member.address}{path}") as response:
        body = await response.read()
        try:
            why = msgspec.json.decode(body, type=_Why).why
        except msgspec.MsgspecError:
            why = []  # not one of ours, then: its status tells
        return response.status, why


class _Why(Struct):
    why: list[str] = []


def _by_beat(beat: Beat) -> Found:
    """Of one that answers no HTTP: it beats, so it is alive."""
    why = [f"shard {shard} cannot be opened: {reason}" for shard, reason in beat.closed.items()]
    why += beat.alarms
    if beat.draining:
        why.append("it is about to leave")
    return Found(beat.coordinator, "", healthy=True, ready=not why, why=why)


# --- for people ---------------------------------------------------------------------------


def _print(known: MemberSet, found: list[Found]) -> None:
    from rich.table import Table

    if found:
        table = Table("COORDINATOR", "ADDRESS", "HEALTH", "READY", box=None, pad_edge=False)
        table.header_style = "bold"
        table.add_column("TOOK", justify="right")
        for one in found:
            took = "-" if one.answered_ms is None else f"{one.answered_ms:.1f} ms"
            health = "alive" if one.healthy else "no answer"
            address = one.address or "(beats on NATS)"
            table.add_row(one.name, address, health, "yes" if one.ready else "no", took)
        common.console().print(table)
    for one in found:
        for reason in one.why:
            common.note(f"swarm: {one.name}: {reason}")
    if known.stale:
        common.note(f"swarm: discovery by {known.source}: {known.why}")
    elif not found:
        common.note(
            f"swarm: {known.source} knows no coordinator; start one with `swarm up` or `swarm node`"
        )

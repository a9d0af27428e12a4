"""More coordinators, more shards: what does an item cost then?

Real `swarm node` processes with the default settings (one standby a shard), a router of its
own, and 1,000 agents that complete one item at a time, attached through the router.  What
counts is CPU time: on one machine more processes cannot be faster, but what an item costs
says what more machines would give.

More processes than cores get in each other's way by themselves, whatever they do.  How much
that is, swarms of one coordinator each show, which share nothing but the machine and NATS.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from bench import machine
from bench.child import Failed, cpu_seconds
from bench.load_apart import jobs_of
from bench.nodes import Nodes, running
from bench.plan import SYNC, Job, Measured
from bench.results import Session
from bench.running import WARM, Env, session_of, tell
from bench.session import run_load
from swarm.config import Settings
from swarm.sdk.client import Swarm

#: (coordinators, shards)
SIZES = ((2, 16), (4, 16), (8, 16), (2, 64), (8, 64))
QUICK_SIZES = ((2, 4),)
#: (swarms of one coordinator each, shards of all): what more processes cost by themselves.
APART = ((2, 16), (4, 16), (8, 16))
QUICK_APART = ((2, 4),)
AGENTS = 1000
#: So many that most of the session is what goes on for ever, finished items put away included,
#: and not its end, when some coordinators have run dry and their agents work for others.
ITEMS = 240_000
#: How long the nodes are watched at rest.
REST_S = 1.0
READY_S = 300.0
LOOK_S = 0.1
SESSION_S = 240.0


async def measure(env: Env) -> list[Session]:
    """Each size in each round."""
    options = env.options
    sizes = QUICK_SIZES if options.quick else SIZES
    sessions = []
    for number in range(1, options.rounds + 1):
        for coordinators, shards in sizes:
            sessions.append(await _session(env, number, coordinators, shards))
        for swarms, shards in QUICK_APART if options.quick else APART:
            sessions.append(await _apart(env, number, swarms, shards))
    return sessions


def settings(env: Env) -> dict[str, str | int | float | bool]:
    """What the section's figures are of."""
    items, agents = _amount(env)
    return {"rounds": env.options.rounds, "agents": agents, "items": items, "standbys": 1}


def _amount(env: Env) -> tuple[int, int]:
    return (2000, 50) if env.options.quick else (ITEMS, AGENTS)


async def _session(env: Env, number: int, coordinators: int, shards: int) -> Session:
    prefix, server = env.new_prefix(), env.servers[SYNC]
    items, agents = _amount(env)
    roles = roles_of(coordinators)
    logs = env.directory / prefix
    logs.mkdir()
    probe_ms = machine.probe_ms()
    kept = {"SHARD_COUNT": str(shards), "SWARM_PREFIX": prefix}
    async with running(server.url, logs, roles, **kept) as nodes:
        await until_settled(nodes, prefix, coordinators, shards)
        pids = {"nats": server.pid, **nodes.pids}
        rest = await at_rest(pids, REST_S)
        job = Job(
            server.url,
            prefix,
            shards,
            agents,
            1,
            items,
            int(items * WARM),
            pids=pids,
        )
        measured = await run_load("bench.ours", job, env.directory, SESSION_S)
    await env.forget(SYNC, prefix)
    _fill(measured, list(roles), rest)
    name = f"scale_{coordinators}_{shards}"
    session = session_of(number, "nodes", name, items, measured, probe_ms, SYNC)
    tell(session, f"{coordinators} coordinators, {shards} shards")
    return session


async def _apart(env: Env, number: int, swarms: int, shards: int) -> Session:
    """As many coordinators, each a swarm of its own, router included, without a standby."""
    prefix, server = env.new_prefix(), env.servers[SYNC]
    items, agents = _amount(env)
    pids, logs = {"nats": server.pid}, env.directory / prefix
    job = Job(server.url, prefix, shards, agents, 1, items, int(items * WARM), swarms=swarms)
    probe_ms = machine.probe_ms()
    async with AsyncExitStack() as stack:
        for part in jobs_of(job):
            (logs / part.prefix).mkdir(parents=True)
            kept = {
                "SHARD_COUNT": str(part.shards),
                "SWARM_PREFIX": part.prefix,
                # Together as many finished items in memory as one swarm keeps.
                "CACHE_MAX_SIZE": str(Settings().cache_max_size // swarms),
            }
            roles = {part.prefix: "coordinator,router"}
            nodes = await stack.enter_async_context(
                running(server.url, logs / part.prefix, roles, **kept)
            )
            await until_settled(nodes, part.prefix, 1, part.shards)
            pids |= nodes.pids
        rest = await at_rest(pids, REST_S)
        job.pids = pids
        measured = await run_load("bench.load_apart", job, env.directory, SESSION_S)
    await env.forget(SYNC, prefix)
    _fill(measured, [name for name in pids if name != "nats"], rest)
    name = f"apart_{swarms}_{shards}"
    session = session_of(number, "nodes", name, items, measured, probe_ms, SYNC)
    tell(session, f"{swarms} swarms of one coordinator, {shards} shards in all")
    return session


def _fill(measured: Measured, nodes: Sequence[str], rest: Mapping[str, float]) -> None:
    """The figures of a session, by the CPU time of its processes."""
    by_role = measured.cpu_s
    ours = sum(seconds for role, seconds in by_role.items() if role in nodes)
    if by_role:
        measured.figures = {
            "nodes_us": round(1e6 * ours / measured.items, 1),
            "nats_us": round(1e6 * by_role["nats"] / measured.items, 1),
            "load_us": round(1e6 * by_role["load"] / measured.items, 1),
        }
        figures = measured.figures
        figures["cost_us"] = round(figures["nodes_us"] + figures["nats_us"], 1)
        figures["rest_percent"] = round(sum(rest.values()), 2)


async def at_rest(pids: dict[str, int], seconds: float) -> dict[str, float]:
    """CPU of each process that has nothing to do, % of a core."""
    started, before = time.monotonic(), cpu_seconds(pids)
    await asyncio.sleep(seconds)
    took, after = time.monotonic() - started, cpu_seconds(pids)
    return {name: 100 * (after[name] - before[name]) / took for name in pids if name in after}


def roles_of(coordinators: int) -> dict[str, str]:
    """A router, and so many coordinators."""
    names = [f"coordinator-{number}" for number in range(1, coordinators + 1)]
    return {"router-1": "router", **dict.fromkeys(names, "coordinator")}


async def until_settled(
    nodes: Nodes, prefix: str, coordinators: int, shards: int
) -> dict[str, int]:
    """Return once all live, and every shard has an owner and a standby that is there.

    Returns how many shards each coordinator owns.
    """
    give_up_at = time.monotonic() + READY_S
    async with nodes.connect(prefix) as swarm:
        while not (owns := await _settled(swarm, coordinators, shards)):
            if time.monotonic() > give_up_at:
                raise Failed(f"the swarm did not settle within {READY_S:.0f} s")
            await nodes.pause(LOOK_S)
        return owns


async def _settled(swarm: Swarm, coordinators: int, shards: int) -> dict[str, int]:
    """What each owns; {} as long as anything is missing."""
    beats = (await swarm.describe(timeout_s=READY_S)).coordinators
    owned = {shard for beat in beats for shard in beat.owns}
    ready = {int(s) for beat in beats for s, behind in beat.standby.items() if behind >= 0}
    wanted = set(range(shards))
    followed = ready >= wanted or coordinators == 1
    if len(beats) != coordinators or owned != wanted or not followed:
        return {}
    return {beat.coordinator: len(beat.owns) for beat in beats}

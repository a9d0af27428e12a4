"""`python -m bench.profile`: CPU time an item takes in our process, found in seconds.

The shipped coordinator with its shard workers, bus and NATS client, in one process with a
stand-in for the server (`bench.stand_in`) and a load whose time is not counted.  So there
is no socket and no kernel in these figures, and nothing in them waits: they are for
comparing before with after, and for finding out where the time goes (`--top`).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import io
import logging
import pstats
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from types import FrameType
from typing import Any

import msgspec
import structlog
from msgspec import Raw

from bench import stand_in
from bench.ours import COORDINATOR
from bench.plan import BATCH, ITEMS, WORK_TYPE
from bench.stand_in import StandInBus
from bench.submitting import CLIENT, Ids
from swarm.actors import shard_map
from swarm.actors.coordinator import Coordinator
from swarm.config import Settings
from swarm.hosting.process import run as run_loop
from swarm.messages import (
    Attach,
    Attached,
    Complete,
    Heartbeat,
    ItemCommand,
    Next,
    Submit,
    SubmitReply,
    Work,
)
from swarm.runtime import Runtime
from swarm.subjects import Subjects

PREFIX = "swarm"
READY_S = 20.0
LOOK_S = 0.02
#: Messages under way at a time, which a real server would spread over several rounds.
AT_ONCE = 32

_encode = msgspec.json.Encoder().encode
_work = msgspec.json.Decoder(Work)
_attached = msgspec.json.Decoder(Attached)
_reply = msgspec.json.Decoder(SubmitReply)


class Steps:
    """Counts what the interpreter does: alike in every run, whatever else the machine does.

    Steps are of unequal length, and what happens inside C counts for nothing, so this is
    for telling whether a change is one at all.  Runs in a `StillLoop`.
    """

    def __init__(self) -> None:
        self.count = 0

    def enable(self) -> None:
        """Count from here on."""
        sys.settrace(self._called)

    def disable(self) -> None:
        """Count no more."""
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, arg: object) -> TraceFunction | None:
        if frame.f_code.co_filename == stand_in.__file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, arg: object) -> TraceFunction:
        self.count += 1
        return self._stepped


class StillLoop(asyncio.SelectorEventLoop):
    """A loop whose time stands still while steps are counted: nothing is done by the clock."""

    _stopped_at: float | None = None

    def time(self) -> float:
        """Monotonic seconds."""
        return super().time() if self._stopped_at is None else self._stopped_at

    def stand_still(self, still: bool) -> None:
        """Stop the clock, or let it go on."""
        self._stopped_at = self.time() if still else None


Meter = cProfile.Profile | Steps
TraceFunction = Callable[[FrameType, str, Any], Any]


class Bench:
    """One coordinator, the stand-in, and the load's side of all messages."""

    def __init__(self, shards: int) -> None:
        self._settings = Settings(
            prefix=PREFIX, shard_count=shards, coordinators=[COORDINATOR], parallel_workers=1
        )
        self._subjects = Subjects(PREFIX)
        self._ids = Ids()
        self._bus: StandInBus
        self._coordinator: Coordinator
        #: Enabled while our side is at work, once measuring has begun.
        self.meter: Meter | None = None
        self._measuring = False
        #: CPU seconds of our side since then.
        self.ours_s = 0.0

    async def start(self) -> None:
        """Return once all shards are open."""
        self._bus = await StandInBus.make(COORDINATOR, PREFIX)
        map_ = await shard_map.agree(self._bus, self._settings)
        loop = asyncio.get_running_loop()
        ahead_s = time.time() - loop.time()
        # A wall clock that stands still with the loop's.
        runtime = Runtime(wall=lambda: ahead_s + loop.time())
        self._coordinator = Coordinator(self._bus, self._settings, COORDINATOR, map_, runtime)
        await self._coordinator.start()
        async with asyncio.timeout(READY_S):
            while True:
                if len(self._coordinator.owned) == self._settings.shard_count:
                    break
                await asyncio.sleep(LOOK_S)

    async def stop(self) -> None:
        """Stop everything."""
        await self._coordinator.stop()
        await self._bus.close()

    def begin(self) -> None:
        """What was done until now was to prepare."""
        self._measuring, self.ours_s = True, 0.0
        self._stand_still(True)

    def end(self) -> None:
        """All is measured."""
        self._measuring = False
        self._stand_still(False)

    def _stand_still(self, still: bool) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(loop, StillLoop):
            loop.stand_still(still)

    async def _exchange(self, frames: list[bytes], answers: int) -> list[tuple[bytes, bytes]]:
        wire = self._bus.wire
        data = b"".join(frames)
        before = time.thread_time() - wire.own_s
        meter = self.meter if self._measuring else None
        if meter is not None:
            meter.enable()
        said = await wire.exchange(data, answers)
        if meter is not None:
            meter.disable()
        self.ours_s += time.thread_time() - wire.own_s - before
        return said

    # --- what the load does ---

    async def submit(self, batches: int, at_once: int = 4) -> None:
        """Requests of `BATCH` items each."""
        subject = self._subjects.coordinator(COORDINATOR, "submit", CLIENT)
        items = [Raw(item) for item in ITEMS]
        for start in range(0, batches, at_once):
            frames = []
            for _ in range(min(at_once, batches - start)):
                body = _encode(Submit(items, self._ids.new()))
                frames.append(self._bus.wire.frame(subject, body, f"_INBOX.{CLIENT}.s"))
            missing = len(frames) * BATCH
            while missing:
                for _, data in await self._exchange(frames, 1):
                    missing -= len(_reply.decode(data).results)
                frames = []

    async def attach(self, agents: int) -> list[Agent]:
        """So many sessions."""
        found = []
        body = _encode(Attach([WORK_TYPE], 1000))
        for number in range(agents):
            name = f"agent-{number}"
            subject = self._subjects.coordinator(COORDINATOR, "attach", name)
            frame = self._bus.wire.frame(subject, body, f"_INBOX.{name}.a")
            ((_, data),) = await self._exchange([frame], 1)
            found.append(Agent(name, _attached.decode(data).session, self._subjects))
        return found

    async def drain(self, agents: list[Agent], slots: int, items: int) -> None:
        """Claim and complete `items` items."""
        by_subject = {agent.work_subject: agent for agent in agents}
        turn = list(agents)
        given = acknowledged = 0
        at_once = AT_ONCE if self._settings.shard_count == 1 else len(agents)
        while acknowledged < items:
            frames = []
            for agent in turn[:at_once]:
                body = agent.next(self._ids, min(slots, items - given))
                given += min(slots, items - given)
                frames.append(self._bus.wire.frame(agent.next_subject, body))
            turn = turn[at_once:]
            # Shards answer apart: an agent has its turn when it has all that it waits for.
            for subject, data in await self._exchange(frames, 1 if frames or not turn else 0):
                agent = by_subject[subject.decode()]
                acknowledged += agent.hear(_work.decode(data))
                if not agent.waits_for:
                    turn.append(agent)

    async def beat(self, agents: list[Agent], rounds: int) -> int:
        """Heartbeats of agents that have nothing to do; returns how many."""
        for _ in range(rounds):
            frames = [self._bus.wire.frame(agent.beat_subject, agent.beat()) for agent in agents]
            # The answer to an attach follows them through the mailbox.
            subject = self._subjects.coordinator(COORDINATOR, "attach", "last")
            body = _encode(Attach([WORK_TYPE], session="s1"))
            frames.append(self._bus.wire.frame(subject, body, "_INBOX.last.a"))
            await self._exchange(frames, 1)
        return rounds * len(agents)


class Agent:
    """One agent session."""

    def __init__(self, name: str, session: str, subjects: Subjects) -> None:
        self.name = name
        self.session = session
        self.work_subject = subjects.agent_work(name, session)
        self.next_subject = subjects.coordinator(COORDINATOR, "next", name)
        self.beat_subject = subjects.heartbeat(name)
        self._held: list[tuple[str, str]] = []
        self._number = self._received = 0
        #: Assignments and acknowledgements that are to come.
        self.waits_for = 0

    def next(self, ids: Ids, wanted: int) -> bytes:
        """Complete all that it holds, ask for `wanted`."""
        done: list[ItemCommand] = [Complete(ids.new(), name, token) for name, token in self._held]
        self.waits_for = len(done) + wanted
        self._number += 1
        self._held.clear()
        return _encode(Next(self.session, self._number, wanted, self._received, done))

    def hear(self, work: Work) -> int:
        """Take work; returns how many completions were acknowledged."""
        for ack in work.acks:
            assert ack.error is None, f"refused: {ack.error}"
        self._held += [(one.work_item_id, one.token) for one in work.items]
        self._received += len(work.items)
        self.waits_for -= len(work.items) + len(work.acks)
        return len(work.acks)

    def beat(self) -> bytes:
        """Its heartbeat."""
        return _encode(
            Heartbeat(
                self.session,
                COORDINATOR,
                self._number,
                0,
                [WORK_TYPE],
                self._received,
                list(self._held),
            )
        )


async def _submit(bench: Bench, items: int) -> int:
    await bench.submit(2)
    bench.begin()
    await bench.submit(items // BATCH)
    return items // BATCH * BATCH


async def _drain(bench: Bench, agents: int, slots: int, items: int, queued: int = 0) -> int:
    await bench.submit((items + queued) // BATCH + 2)
    attached = await bench.attach(agents)
    await bench.drain(attached, slots, agents * slots)
    bench.begin()
    await bench.drain(attached, slots, items)
    return items


async def _beat(bench: Bench, agents: int, rounds: int) -> int:
    attached = await bench.attach(agents)
    await bench.beat(attached, 1)
    bench.begin()
    return await bench.beat(attached, rounds)


Done = Callable[[Bench, int], Awaitable[int]]

#: Name: (shards, what is done: given a bench and by what to divide the number of items, it
#: returns for how many the time is).
WORKLOADS: dict[str, tuple[int, Done]] = {
    "submit": (1, lambda bench, by: _submit(bench, 60_000 // by)),
    "submit, 16 shards": (16, lambda bench, by: _submit(bench, 60_000 // by)),
    "one at a time, 200 agents": (1, lambda bench, by: _drain(bench, 200, 1, 20_000 // by)),
    "one at a time, 200 agents, 16 shards": (
        16,
        lambda bench, by: _drain(bench, 200, 1, 20_000 // by),
    ),
    "one at a time, 200 agents, 300,000 queued": (
        1,
        lambda bench, by: _drain(bench, 200, 1, 20_000 // by, 300_000),
    ),
    "in tens, 100 agents": (1, lambda bench, by: _drain(bench, 100, 10, 40_000 // by)),
    "in tens, 100 agents, 16 shards": (
        16,
        lambda bench, by: _drain(bench, 100, 10, 40_000 // by),
    ),
    "heartbeat, 1,000 idle agents": (1, lambda bench, by: _beat(bench, 1000, 20 // by)),
    "heartbeat, 1,000 idle agents, 16 shards": (
        16,
        lambda bench, by: _beat(bench, 1000, 20 // by),
    ),
}
#: Items are divided by this where every step of the interpreter is counted.
COUNTED = 5


async def _measure(name: str, by: int = 1, meter: Meter | None = None) -> float:
    """CPU microseconds an item, or what `meter` counts."""
    shards, work = WORKLOADS[name]
    bench = Bench(shards)
    await bench.start()
    try:
        bench.meter = meter
        items = await work(bench, by)
        bench.end()
    finally:
        await bench.stop()
    return (1e6 * bench.ours_s if not isinstance(meter, Steps) else meter.count) / items


def _report(names: list[str], rounds: int, top: int) -> None:
    print(f"{'an item':45} {'CPU us, least':>13}  median  steps")
    for name in names:
        found = [run_loop(_measure(name)) for _ in range(rounds)]
        with asyncio.Runner(loop_factory=StillLoop) as still:
            steps = still.run(_measure(name, COUNTED, Steps()))
        times = f"{min(found):13.2f}  {median(found):6.2f}" if found else f"{'-':>13}  {'-':>6}"
        print(f"{name:45} {times}  {steps:5.0f}", flush=True)
        if top:
            print(run_loop(_profile(name, top)))


async def _profile(name: str, top: int) -> str:
    profiler = cProfile.Profile()
    await _measure(name, 1, profiler)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(top)
    return text.getvalue()


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("only", nargs="?", default="", help="workloads whose name has this in it")
    parser.add_argument("--rounds", type=int, default=3, help="0: only count steps")
    parser.add_argument(
        "--top", type=int, default=0, metavar="N", help="and the N functions that take longest"
    )
    args = parser.parse_args()
    names = [name for name in WORKLOADS if args.only in name]
    if not names:
        parser.error(
            f"no workload has {args.only!r} in its name; there are: {', '.join(WORKLOADS)}"
        )
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    _report(names, args.rounds, args.top)
    return 0


if __name__ == "__main__":
    sys.exit(main())

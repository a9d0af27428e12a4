"""The demo's course: start a swarm, submit a tree's audits, wait, collect, check."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from swarm.config import Settings
from swarm.demo import chaos
from swarm.demo import tree as trees
from swarm.demo.audit import AUDITS, RECORDS_ENV
from swarm.demo.findings import Audit
from swarm.demo.report import Killed, Summary, items_per_s, starts
from swarm.demo.screen import Screen
from swarm.errors import NoAnswer, Refusal, SwarmError
from swarm.hosting.process import unless
from swarm.hosting.runfile import RunFile
from swarm.hosting.supervisor import Supervisor, UpPlan
from swarm.messages import NewItem, ShardStats
from swarm.sdk.client import Handle, Swarm
from swarm.subjects import Subjects
from swarm.testing.history import (
    AckLog,
    History,
    check,
    read_acks,
    read_executions,
    read_logs,
)

#: One item of so many is held back and submitted by itself, when all agents are free.
ALONE_OF = 5
#: At most so many: each costs a round trip.
ALONE_MAX = 200
#: Between two looks at the swarm's counts.
LOOK_S = 0.5
#: The same while a coordinator is to be killed in the middle of the work.
STRIKE_LOOK_S = 0.05
#: If nothing ends for this long, nothing will.
STALLED_S = 60.0

_audit = msgspec.json.Decoder(Audit)


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """What to audit, and with what."""

    tree: trees.Tree
    settings: Settings
    #: Agent processes for each audit.
    agents: int
    data_dir: Path
    #: Kill a coordinator in the middle.
    chaos: bool = False


class Demo:
    """One run.  `data_dir` holds the swarm's data, its logs and everybody's records."""

    def __init__(self, plan: DemoPlan, console: Console) -> None:
        self._plan = plan
        self._screen = Screen(console, {name: len(plan.tree.files) for name in AUDITS})
        self._records = plan.data_dir / "records"
        self._acks = AckLog(self._records)
        #: Work item id -> when its submission was sent: of the backlog, and of items alone.
        self._sent: dict[str, float] = {}
        self._alone: dict[str, float] = {}
        self._ended = -1
        self._ended_at = 0.0
        self._audits: dict[str, list[Audit]] = {name: [] for name in AUDITS}
        self._history = History({}, [])
        #: Kills a coordinator once so many items have ended; None: not (any more).
        self._strike_at: float | None = None
        self._struck: chaos.Strike | None = None

    async def run(self) -> Summary:
        """Do it all; raises a `SwarmError` that says what went wrong."""
        plan = self._plan
        began = time.time()
        self._screen.say(f"auditing {plan.tree.root}: {len(plan.tree.files):,} files")
        for closed in plan.tree.closed:
            self._screen.say(f"not looked into: {closed}")
        supervisor = self._supervisor()
        try:
            run = await supervisor.start()
            ready_s = time.time() - began
            self._screen.say(f"the swarm is ready after {ready_s:.1f} s")
            # Either the work is done, or a part of the swarm fails for good.
            if not await unless(supervisor.failed, self._work(run, supervisor)):
                raise SwarmError(supervisor.failure)
        finally:
            await supervisor.stop()
            self._acks.close()
        # The agents have ended: nothing is added to the records any more.
        executions = read_executions(self._records)
        return Summary(
            audits=self._audits,
            report=check(executions, read_acks(self._records), self._history),
            items=len(plan.tree.files) * len(AUDITS),
            items_per_s=items_per_s(self._sent, self._history),
            free=starts(self._alone, executions),
            backlog=starts(self._sent, executions),
            ready_s=ready_s,
            total_s=time.time() - began,
            killed=self._killed(),
        )

    def _killed(self) -> Killed | None:
        struck = self._struck
        if struck is None:
            return None
        pause_s = chaos.longest_pause_s(struck, self._history)
        return Killed(struck.victim, len(struck.shards), struck.sessions, pause_s)

    def _supervisor(self) -> Supervisor:
        """Of a swarm of our own, with its agents."""
        plan = self._plan
        # Its run file is private too: a `swarm up` of the user stays the one that is found.
        env = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(plan.data_dir),
            RECORDS_ENV: str(self._records),
        }
        agents = [
            ("--type", name, "--handler", f"swarm.demo.audit:{name}")
            for name in AUDITS
            for _ in range(plan.agents)
        ]
        up = UpPlan(
            data_dir=plan.data_dir, settings=plan.settings, nats_port=0, agents=tuple(agents)
        )
        return Supervisor(up, env)

    async def _work(self, run: RunFile, supervisor: Supervisor) -> None:
        """All that a client does: submit, wait, look at the results and at the logs."""
        alone, backlog = hold_back(list(trees.items(self._plan.tree)))
        self._strike_at = len(backlog) * chaos.AFTER if self._plan.chaos else None
        async with Swarm.connect(run.nats_url, name="demo", prefix=run.prefix) as swarm:
            with self._screen:
                await self._submit(swarm, backlog)
                await self._until_ended(swarm, len(alone), supervisor)
                await self._one_by_one(swarm, alone)
                await self._until_ended(swarm, 0, supervisor)
            await self._collect(swarm)
            shard_count = (await swarm.describe()).map.shard_count
            self._history = await read_logs(swarm.bus, Subjects(run.prefix), range(shard_count))

    # --- the work ------------------------------------------------------------------------

    async def _submit(self, swarm: Swarm, items: Sequence[NewItem]) -> None:
        sent = time.time()
        outcomes = await swarm.submit_many(items)
        names = [outcome.work_item_id for outcome in outcomes if isinstance(outcome, Handle)]
        self._acks.submitted(names)
        self._sent = dict.fromkeys(names, sent)
        refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal | NoAnswer)]
        if refused:
            raise SwarmError(
                f"{len(refused)} of {len(items)} items were not accepted; the first: {refused[0]}"
            )

    async def _one_by_one(self, swarm: Swarm, items: Sequence[NewItem]) -> None:
        """Each when the one before has ended, so that it meets free agents."""
        for item in items:
            sent = time.time()
            (outcome,) = await swarm.submit_many([item])
            if not isinstance(outcome, Handle):
                raise outcome
            self._acks.submitted([outcome.work_item_id])
            self._alone[outcome.work_item_id] = sent
            await outcome.result(timeout=STALLED_S)

    async def _until_ended(self, swarm: Swarm, held_back: int, supervisor: Supervisor) -> None:
        """Return when all that was submitted has ended; shows the swarm's counts meanwhile."""
        clock = asyncio.get_running_loop().time
        files = len(self._plan.tree.files)
        wanted = files * len(AUDITS) - held_back
        self._ended_at = clock()
        while True:
            stats = [one for one in (await swarm.stats()).values() if isinstance(one, ShardStats)]
            ended = sum(one.counts["completed"] + one.counts["dead"] for one in stats)
            queued = {name: sum(one.ready.get(name, 0) for one in stats) for name in AUDITS}
            self._screen.show({name: files - count for name, count in queued.items()}, ended)
            await self._strike_if_due(ended, swarm, supervisor)
            if ended >= wanted:
                return
            if ended != self._ended:
                self._ended, self._ended_at = ended, clock()
            elif clock() - self._ended_at > STALLED_S:
                raise SwarmError(
                    f"no work item has ended for {STALLED_S:.0f} s, {wanted - ended} are left; "
                    f"see the logs in {self._plan.data_dir / 'logs'}"
                )
            await asyncio.sleep(LOOK_S if self._strike_at is None else STRIKE_LOOK_S)

    async def _strike_if_due(self, ended: int, swarm: Swarm, supervisor: Supervisor) -> None:
        if self._strike_at is None or ended < self._strike_at:
            return
        beats = (await swarm.describe()).coordinators
        self._struck = chaos.strike(supervisor.coordinators, beats)
        if self._struck is not None:
            self._strike_at = None
            self._screen.say(
                f"kill -9 of {self._struck.victim}, which owns {len(self._struck.shards)} shards "
                f"and serves {self._struck.sessions} agents"
            )

    async def _collect(self, swarm: Swarm) -> None:
        """The results, as the swarm has stored them in the items."""
        completed = []
        async for item in swarm.list(status="completed"):
            self._audits[item.work_type].append(_audit.decode(item.result))
            completed.append(item.work_item_id)
        self._acks.completed(completed)


def hold_back(items: Sequence[NewItem]) -> tuple[list[NewItem], list[NewItem]]:
    """(items to submit alone, all others): a sample spread evenly over the tree and audits."""
    step = max(ALONE_OF, -(-len(items) // ALONE_MAX))
    # Files have one item for each audit; another step would always meet the same audit.
    while step % len(AUDITS) == 0:
        step += 1
    return list(items[::step]), [item for index, item in enumerate(items) if index % step]

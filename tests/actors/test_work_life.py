"""Work lives from end to end: real clients and agents on a simulated swarm of two shards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from swarm import Agent, Context, GiveUp, Handle, InlineRunner, RetryLater
from swarm.config import Settings
from swarm.errors import LeaseLost, Refusal, WorkCancelled, WorkFailed
from swarm.messages import ShardStats, WorkItem
from tests.actors.cluster import Cluster, on_cluster, pass_time, until

SETTINGS = Settings(
    shard_count=2,
    coordinators=["c1", "c2"],
    lease_s=4.0,
    heartbeat_s=0.8,
    append_timeout_s=0.4,
    retry_backoff_s=0.5,
    retry_backoff_max_s=2.0,
    wait_expires_s=60.0,
    deadline_grace_s=2.0,
)

Scenario = Callable[["Life"], Coroutine[Any, Any, None]]


class Life:
    """A running cluster, its client, and agents that work on it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.swarm = cluster.swarm
        self.agents: dict[str, tuple[Agent, asyncio.Task[None]]] = {}
        #: Contexts of the handlers that were called, in order.
        self.called: list[Context] = []

    def agent(
        self,
        name: str,
        handler: Callable[[Context], Coroutine[Any, Any, Any]],
        *,
        work_type: str = "a",
        **more: Any,
    ) -> Agent:
        """An agent that runs `handler`, at work."""
        seed = 50 + len(self.agents)
        runtime = self.cluster.runtime(seed)
        agent = Agent(agent_id=name, runner=InlineRunner(), runtime=runtime, **more)

        @agent.handles(work_type)
        async def noted(ctx: Context) -> Any:
            self.called.append(ctx)
            return await handler(ctx)

        bus = self.cluster.world.connect(name)
        self.agents[name] = agent, asyncio.create_task(agent.run(bus))
        return agent

    async def leave(self, name: str) -> None:
        """Stop this agent, in order."""
        agent, running = self.agents.pop(name)
        agent.stop()
        await running

    async def status(self, handle: Handle, status: str) -> WorkItem:
        """The item once it is in this status."""
        async for seen in handle.watch(timeout=60.0):
            if seen.status == status:
                return seen
        raise AssertionError(f"{handle} has never been {status}: {await handle.get()}")

    async def counts(self) -> dict[str, int]:
        """Items by status; asserts that the counts of every shard add up."""
        counts: dict[str, int] = {}
        for shard in (await self.swarm.stats()).values():
            assert isinstance(shard, ShardStats), shard
            assert (shard.conservation, shard.foreign) == (0, 0)
            for status, count in shard.counts.items():
                counts[status] = counts.get(status, 0) + count
        return {status: count for status, count in counts.items() if count}


def live(scenario: Scenario, settings: Settings = SETTINGS) -> None:
    """Run a scenario; whatever happened, the counts add up in the end."""

    async def on(cluster: Cluster) -> None:
        await cluster.start("c1", "c2")
        life = Life(cluster)
        await scenario(life)
        await life.counts()
        for coordinator in cluster.coordinators.values():
            for worker in coordinator._shards:
                worker._shard.validate()
        for name in list(life.agents):
            await life.leave(name)

    on_cluster(on, settings=settings)


async def forever(ctx: Context) -> None:
    await asyncio.Event().wait()


def in_turn(*outcomes: Any) -> Callable[[Context], Coroutine[Any, Any, Any]]:
    """A handler that raises or returns these, one at each call."""
    left = iter(outcomes)

    async def handler(ctx: Context) -> Any:
        outcome = next(left)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return handler


# --- failing ----------------------------------------------------------------------------


def test_a_failed_attempt_is_tried_again() -> None:
    async def scenario(life: Life) -> None:
        life.agent("a1", in_turn(ValueError("no disk"), KeyError("x"), "done"))
        handle = await life.swarm.submit("a")
        assert await handle.result(timeout=60) == "done"
        seen = await handle.get()
        assert [(one.agent, one.how, one.error) for one in seen.history] == [
            ("a1", "failed", "ValueError: no disk"),
            ("a1", "failed", "KeyError: 'x'"),
        ]
        assert [ctx.attempt for ctx in life.called] == [1, 2, 3]
        assert await life.counts() == {"completed": 1}

    live(scenario)


def test_an_item_without_attempts_left_is_dead_and_can_be_brought_back() -> None:
    async def scenario(life: Life) -> None:
        life.agent("a1", in_turn(*[ValueError(f"no {n}") for n in range(4)], "done"))
        handle = await life.swarm.submit("a", max_attempts=2)
        with pytest.raises(WorkFailed) as caught:
            await handle.result(timeout=60)
        assert str(caught.value).endswith(
            "is dead: ValueError: no 1 (before that: a1 failed: ValueError: no 0)"
        )
        assert await life.counts() == {"dead": 1}
        assert (await handle.retry()).status == "queued"
        with pytest.raises(WorkFailed):
            await handle.result(timeout=60)
        await handle.retry()
        assert await handle.result(timeout=60) == "done"
        seen = await handle.get()
        assert (seen.replays, len(seen.history), seen.attempt) == (2, 4, 1)
        with pytest.raises(Refusal, match="already_finished"):
            await handle.retry()

    live(scenario)


def test_a_handler_says_when_it_is_to_be_tried_again() -> None:
    async def scenario(life: Life) -> None:
        life.agent("a1", in_turn(RetryLater(30.0, "rate limit"), "done"))
        handle = await life.swarm.submit("a")
        paused = await life.status(handle, "scheduled")
        assert paused.until == pytest.approx(life.cluster.world.time() + 30.0, abs=1.0)
        assert paused.history[0].error == "rate limit"
        before = life.cluster.world.time()
        assert await handle.result(timeout=60) == "done"
        assert life.cluster.world.time() - before > 28.0

    live(scenario)


def test_a_scheduled_retry_can_be_had_at_once() -> None:
    async def scenario(life: Life) -> None:
        life.agent("a1", in_turn(RetryLater(3000.0), "done"))
        handle = await life.swarm.submit("a")
        await life.status(handle, "scheduled")
        await handle.retry()
        assert await handle.result(timeout=10) == "done"

    live(scenario)


def test_a_handler_gives_up() -> None:
    async def scenario(life: Life) -> None:
        async def handler(ctx: Context) -> None:
            try:
                raise ValueError("no such customer")
            except ValueError as error:
                raise GiveUp from error

        life.agent("a1", handler)
        handle = await life.swarm.submit("a")
        with pytest.raises(WorkFailed, match="is dead: ValueError: no such customer"):
            await handle.result(timeout=60)
        assert len(life.called) == 1

    live(scenario)


def test_a_failing_group_of_tasks_is_a_failure_not_a_stop() -> None:
    """`TaskGroup` cancels the task that it is in: nobody told the handler to stop."""

    async def scenario(life: Life) -> None:
        async def handler(ctx: Context) -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(forever(ctx))
                tasks.create_task(in_turn(ValueError("no"))(ctx))

        life.agent("a1", handler)
        handle = await life.swarm.submit("a", max_attempts=2)
        with pytest.raises(WorkFailed, match="dead: ExceptionGroup: ValueError: no"):
            await handle.result(timeout=60)
        assert len(life.called) == 2

    live(scenario)


def test_in_a_group_of_tasks_the_meaning_is_found() -> None:
    async def scenario(life: Life) -> None:
        async def gives_up(ctx: Context) -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(forever(ctx))
                tasks.create_task(in_turn(GiveUp("not this one"))(ctx))

        async def waits(ctx: Context) -> Any:
            if ctx.waits:
                return ctx.answer

            async def ask() -> None:
                ctx.wait_for("ok?")

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(forever(ctx))
                tasks.create_task(ask())
            return None

        life.agent("a1", gives_up)
        life.agent("a2", waits, work_type="b")
        dead, waiting = await life.swarm.submit("a"), await life.swarm.submit("b")
        with pytest.raises(WorkFailed, match="not this one"):
            await dead.result(timeout=60)
        await life.status(waiting, "waiting")
        await waiting.answer(5)
        assert await waiting.result(timeout=60) == 5

    live(scenario)


# --- checkpoints ----------------------------------------------------------------------------


def test_a_checkpoint_is_durable_when_it_returns_and_survives_the_agent() -> None:
    async def scenario(life: Life) -> None:
        kept = asyncio.Event()

        async def first(ctx: Context) -> None:
            assert ctx.last_checkpoint is None
            await ctx.progress(10, "reading")
            await ctx.checkpoint({"page": 3})
            kept.set()
            await forever(ctx)

        async def second(ctx: Context) -> Any:
            return ctx.last_checkpoint

        life.agent("a1", first)
        handle = await life.swarm.submit("a")
        await asyncio.wait_for(kept.wait(), 60)
        seen = await handle.get()
        assert msgspec.json.decode(seen.checkpoint) == {"page": 3}
        assert (seen.progress, seen.note) == (10.0, "reading")
        # The agent dies without a word.
        _, running = life.agents.pop("a1")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        life.agent("a2", second)
        assert await handle.result(timeout=60) == {"page": 3}
        assert msgspec.json.decode((await handle.get()).checkpoint) is None

    live(scenario)


def test_a_stopping_agent_hands_its_newest_checkpoint_on_without_an_attempt() -> None:
    async def scenario(life: Life) -> None:
        kept = asyncio.Event()

        async def first(ctx: Context) -> None:
            await ctx.checkpoint({"page": 1})
            kept.set()
            try:
                await forever(ctx)
            finally:
                assert ctx.cancel_reason == "its agent is stopping"
                assert ctx.grace_s == 0.0
                await ctx.checkpoint({"page": 2})

        async def second(ctx: Context) -> Any:
            return [ctx.last_checkpoint, ctx.attempt]

        life.agent("a1", first, drain_s=0.0)
        handle = await life.swarm.submit("a")
        await asyncio.wait_for(kept.wait(), 60)
        await life.leave("a1")
        life.agent("a2", second)
        assert await handle.result(timeout=60) == [{"page": 2}, 1]

    live(scenario)


def test_checkpoints_that_cannot_be_kept_are_refused_in_the_handler() -> None:
    async def scenario(life: Life) -> None:
        async def handler(ctx: Context) -> str:
            for wrong, why in (
                (None, "cannot be None"),
                (object(), "cannot be written as JSON"),
                ("x" * 300_000, "too_large"),
                # Too much only together with what the item has besides.
                ("x" * (262_144 - ctx.claimed.item_bytes - 10), "too_large"),
            ):
                with pytest.raises(Refusal, match=why):
                    await ctx.checkpoint(wrong)
            await ctx.checkpoint([1])
            with pytest.raises(Refusal, match="would wait for the loop"):
                ctx.checkpoint_sync([2])
            return "done"

        async def waits_first(ctx: Context) -> str:
            if not ctx.waits:
                ctx.wait_for("ok?")
            return await handler(ctx)

        life.agent("a1", waits_first)
        handle = await life.swarm.submit("a")
        await life.status(handle, "waiting")
        await handle.answer("x" * 100)
        assert await handle.result(timeout=60) == "done"

    live(scenario)


# --- waiting ----------------------------------------------------------------------------------


def test_an_item_waits_for_an_answer_and_goes_on_with_another_agent() -> None:
    async def scenario(life: Life) -> None:
        async def handler(ctx: Context) -> Any:
            if not ctx.waits:
                assert (ctx.answer, ctx.answered_by) == (None, "")
                await ctx.wait_for({"approve": ctx.payload}, checkpoint={"step": 1})
            return [ctx.answer, ctx.answered_by, ctx.last_checkpoint, ctx.attempt, ctx.waits]

        life.agent("a1", handler)
        handle = await life.swarm.submit("a", payload="v1.2")
        waiting = await life.status(handle, "waiting")
        assert msgspec.json.decode(waiting.waits_for) == {"approve": "v1.2"}
        assert (waiting.agent_id, waiting.attempt) == ("", 0)
        assert waiting.until == pytest.approx(life.cluster.world.time() + 60.0, abs=2.0)
        await life.leave("a1")
        life.agent("a2", handler)
        assert (await handle.answer({"yes": True})).status in ("queued", "claimed")
        assert await handle.result(timeout=60) == [{"yes": True}, "me", {"step": 1}, 1, 1]
        with pytest.raises(Refusal, match="already_finished"):
            await handle.answer("late")

    live(scenario)


def test_of_two_answers_the_first_one_counts() -> None:
    async def scenario(life: Life) -> None:
        async def handler(ctx: Context) -> Any:
            return ctx.answer if ctx.waits else ctx.wait_for("ok?")

        agent = life.agent("a1", handler)
        handle = await life.swarm.submit("a")
        with pytest.raises(Refusal, match="not_waiting"):
            await handle.answer("too early", wait=1)
        await life.status(handle, "waiting")
        agent.stop()
        answers = await asyncio.gather(handle.answer(1), handle.answer(2), return_exceptions=True)
        refused = [one for one in answers if isinstance(one, Refusal)]
        assert [one.code for one in refused] == ["already_answered"]
        life.agent("a2", handler)
        assert await handle.result(timeout=60) == (1 if answers[1] in refused else 2)

    live(scenario)


@pytest.mark.parametrize("on_expiry", ["dead", "resume"])
def test_a_wait_expires(on_expiry: Any) -> None:
    async def scenario(life: Life) -> None:
        async def handler(ctx: Context) -> Any:
            if ctx.waits:
                return [ctx.answer, ctx.answered_by]
            return ctx.wait_for("ok?", expires_s=5.0, on_expiry=on_expiry)

        life.agent("a1", handler)
        handle = await life.swarm.submit("a")
        if on_expiry == "resume":
            assert await handle.result(timeout=60) == [None, ""]
        else:
            with pytest.raises(WorkFailed, match=r"is dead \(expired\): what it waited for"):
                await handle.result(timeout=60)

    live(scenario)


def test_a_handler_that_catches_its_wait_has_ended_all_the_same() -> None:
    async def scenario(life: Life) -> None:
        async def handler(ctx: Context) -> str:
            if ctx.waits:
                return "second"
            try:
                ctx.wait_for("ok?")
            except BaseException:  # noqa: BLE001 - what handlers must not do
                return "first"

        life.agent("a1", handler)
        handle = await life.swarm.submit("a")
        await life.status(handle, "waiting")
        await handle.answer(None)
        assert await handle.result(timeout=60) == "second"
        assert life.called[1].answered_by == "me"

    live(scenario)


def test_what_cannot_be_waited_for_is_refused_in_the_handler() -> None:
    async def scenario(life: Life) -> None:
        async def handler(ctx: Context) -> str:
            for arguments in (
                {"what": object()},
                {"what": "x" * 300_000},
                {"what": 1, "checkpoint": "x" * 300_000},
                {"what": 1, "expires_s": -1.0},
                {"what": 1, "expires_s": float("nan")},
                {"what": 1, "on_expiry": "never"},
            ):
                with pytest.raises(Refusal):
                    ctx.wait_for(**arguments)
            return "done"

        life.agent("a1", handler)
        assert await (await life.swarm.submit("a")).result(timeout=60) == "done"

    live(scenario)


# --- cancel, priority ----------------------------------------------------------------------


def test_an_item_that_nobody_holds_is_cancelled_at_once() -> None:
    async def scenario(life: Life) -> None:
        handle = await life.swarm.submit("a")
        assert (await handle.cancel("not wanted")).status == "cancelled"
        assert (await handle.cancel("again")).status == "cancelled"
        with pytest.raises(WorkCancelled, match="is cancelled: not wanted"):
            await handle.result(timeout=60)
        assert await life.counts() == {"cancelled": 1}

    live(scenario)


def test_a_cancelled_handler_is_told_and_its_item_ends_when_it_stops() -> None:
    async def scenario(life: Life) -> None:
        told: list[Any] = []

        async def handler(ctx: Context) -> None:
            try:
                await forever(ctx)
            except asyncio.CancelledError:
                told.append((ctx.cancelled, ctx.cancel_reason, ctx.grace_s > 0))
                await asyncio.sleep(1.0)  # virtual time: tidying up
                raise

        life.agent("a1", handler)
        handle = await life.swarm.submit("a")
        await until(lambda: life.called)
        assert (await handle.cancel("not wanted", grace_s=20)).status == "claimed"
        assert (await handle.get()).ask is not None
        began = life.cluster.world.time()
        with pytest.raises(WorkCancelled, match="not wanted"):
            await handle.result(timeout=60)
        assert 0.9 < life.cluster.world.time() - began < 5.0
        assert told == [(True, "not wanted", True)]
        # Its slot is free again.
        again = await life.swarm.submit("a")
        await until(lambda: len(life.called) == 2)
        await again.cancel(grace_s=0)

    live(scenario)


@pytest.mark.parametrize("result", ["finished", None])
def test_what_is_finished_within_the_grace_counts(result: str | None) -> None:
    async def scenario(life: Life) -> None:
        async def handler(ctx: Context) -> str | None:
            try:
                await forever(ctx)
            except asyncio.CancelledError:
                await asyncio.sleep(1.0)  # virtual time: the rest of the work
            return result

        life.agent("a1", handler)
        handle = await life.swarm.submit("a")
        await until(lambda: life.called)
        await handle.cancel("not wanted", grace_s=20)
        if result:
            assert await handle.result(timeout=60) == "finished"
        else:
            with pytest.raises(WorkCancelled):
                await handle.result(timeout=60)

    live(scenario)


def test_after_its_grace_a_handler_is_stopped_whatever_it_does() -> None:
    async def scenario(life: Life) -> None:
        ends: list[str] = []

        async def handler(ctx: Context) -> str:
            try:
                await forever(ctx)
            except asyncio.CancelledError:
                ends.append("asked")
            try:
                await forever(ctx)
            except asyncio.CancelledError:
                ends.append("stopped")
                assert ctx.grace_s == 0.0
                with pytest.raises(LeaseLost):
                    await ctx.checkpoint([1])
                with pytest.raises(LeaseLost):
                    ctx.wait_for("ok?")
            return "too late"

        life.agent("a1", handler)
        handle = await life.swarm.submit("a")
        await until(lambda: life.called)
        await handle.cancel("not wanted", grace_s=3)
        with pytest.raises(WorkCancelled):
            await handle.result(timeout=60)
        await until(lambda: ends == ["asked", "stopped"])
        assert await life.counts() == {"cancelled": 1}

    live(scenario)


def test_a_deadline_asks_the_holder_to_stop() -> None:
    async def scenario(life: Life) -> None:
        life.agent("a1", forever)
        handle = await life.swarm.submit("a", deadline=life.cluster.world.time() + 5.0)
        with pytest.raises(WorkFailed, match=r"is dead \(deadline\)"):
            await handle.result(timeout=60)
        assert life.called[0].cancel_reason == "its deadline has passed"

    live(scenario)


def test_work_that_does_not_advance_is_given_to_others() -> None:
    async def scenario(life: Life) -> None:
        async def handler(ctx: Context) -> str:
            if ctx.attempt == 1:
                await forever(ctx)
            for percent in range(10):
                await ctx.progress(10 * percent)
                await asyncio.sleep(2.0)  # virtual time: advancing work
            return "done"

        life.agent("a1", handler)
        handle = await life.swarm.submit("a", progress_s=3.0)
        assert await handle.result(timeout=120) == "done"
        assert [one.how for one in (await handle.get()).history] == ["stalled"]

    live(scenario)


def test_a_more_urgent_item_goes_first() -> None:
    async def scenario(life: Life) -> None:
        handles = [await life.swarm.submit("a", idempotency_key="k") for _ in range(1)]
        shard = handles[0].work_item_id.partition("-")[0]
        while len(handles) < 3:
            handle = await life.swarm.submit("a")
            if handle.work_item_id.startswith(f"{shard}-"):
                handles.append(handle)
            else:
                await handle.cancel()
        await handles[2].prioritize("critical")

        async def handler(ctx: Context) -> None:
            return None

        life.agent("a1", handler)
        for handle in handles:
            await handle.result(timeout=60)
        order = [ctx.work_item_id for ctx in life.called]
        assert order[0] == handles[2].work_item_id
        with pytest.raises(Refusal, match="already_finished"):
            await handles[0].prioritize("low")

    live(scenario)


# --- times, dependencies ------------------------------------------------------------------------


def test_a_delayed_item_is_not_claimed_before_its_time() -> None:
    async def scenario(life: Life) -> None:
        life.agent("a1", in_turn("done"))
        began = life.cluster.world.time()
        handle = await life.swarm.submit("a", delay_s=30.0)
        assert (await handle.get()).status == "scheduled"
        assert await handle.result(timeout=60) == "done"
        assert 30.0 <= life.cluster.world.time() - began < 32.0

    live(scenario)


def test_results_of_dependencies_are_handed_on() -> None:
    async def scenario(life: Life) -> None:
        large = "x" * 100_000

        async def makes(ctx: Context) -> Any:
            return large if ctx.payload == "large" else {"made": ctx.payload}

        async def joins(ctx: Context) -> Any:
            ends = [(end.status, end.omitted) for end in ctx.depends.values()]
            results = [await ctx.result_of(name) for name in ctx.depends]
            with pytest.raises(Refusal, match="does not depend on '0-99'"):
                await ctx.result_of("0-99")
            return [ends, [one if one != large else "large" for one in results]]

        # By their keys the first is in another shard than the others.
        parts = [
            {"work_type": "a", "payload": n, "idempotency_key": f"part-{n}"}
            for n in (1, 2, "large")
        ]
        last = {"work_type": "b", "depends_on": [0, 1, 2]}
        *made, joined = await life.swarm.submit_many([*parts, last])
        assert isinstance(joined, Handle)
        assert (await joined.get()).status == "blocked"
        shards = {one.work_item_id[0] for one in made if isinstance(one, Handle)}
        assert len(shards) == 2, "one of them is in another shard"
        life.agent("a1", makes, concurrency=2)
        life.agent("b1", joins, work_type="b")
        ends, results = await joined.result(timeout=60)
        assert sorted(map(tuple, ends)) == [("completed", False)] * 2 + [("completed", True)]
        assert sorted(results, key=str) == ["large", {"made": 1}, {"made": 2}]

    live(scenario)


@pytest.mark.parametrize(
    ("on_failure", "status"), [("block", "blocked"), ("cancel", "cancelled"), ("run", "completed")]
)
def test_what_becomes_of_an_item_whose_dependency_dies(on_failure: Any, status: str) -> None:
    async def scenario(life: Life) -> None:
        async def handler(ctx: Context) -> Any:
            (end,) = ctx.depends.values()
            if end.status == "dead":
                with pytest.raises(WorkFailed, match="is dead"):
                    await ctx.result_of(next(iter(ctx.depends)))
            return [end.status, end.result]

        life.agent("a1", in_turn(GiveUp("no"), "second"))
        life.agent("b1", handler, work_type="b")
        # Several, so that some are in the other shard.
        first = await life.swarm.submit("a")
        others = [
            await life.swarm.submit("b", depends_on=[first], on_dependency_failure=on_failure)
            for _ in range(5)
        ]
        with pytest.raises(WorkFailed):
            await first.result(timeout=60)
        if status == "blocked":
            await pass_time(5.0)
        for other in others:
            assert (await life.status(other, status)).status == status
        await first.retry()
        assert await first.result(timeout=60) == "second"
        for other in others:
            if status == "blocked":
                assert await other.result(timeout=60) == ["completed", "second"]
            elif status == "completed":
                assert await other.result(timeout=60) == ["dead", None]

    live(scenario)


# --- looking ----------------------------------------------------------------------------------


def test_archived_items_are_listed_when_asked_for() -> None:
    async def scenario(life: Life) -> None:
        async def handler(ctx: Context) -> str:
            if ctx.payload >= 20:
                raise GiveUp("no")
            return "done"

        life.agent("a1", handler, concurrency=4)
        handles = [await life.swarm.submit("a", payload=n) for n in range(25)]
        for handle in handles:
            async for _ in handle.watch(timeout=60):
                pass
        gone = await life.swarm.submit("a")
        await gone.cancel()

        def archived() -> int:
            return sum(
                sum(worker._shard.archived.values())
                for coordinator in life.cluster.coordinators.values()
                for worker in coordinator._shards
            )

        await until(lambda: archived() >= 18)
        in_memory = [item async for item in life.swarm.list(status="completed")]
        assert len(in_memory) <= 2
        found = [item async for item in life.swarm.list(status="completed", archived=True)]
        assert sorted(msgspec.json.decode(item.payload) for item in found) == list(range(20))
        assert {bytes(item.result) for item in found} == {b'"done"'}
        everything = [item async for item in life.swarm.list(archived=True)]
        names = [item.work_item_id for item in everything]
        assert sorted(names) == sorted(one.work_item_id for one in (*handles, gone))
        assert await life.counts() == {"completed": 20, "dead": 5, "cancelled": 1}
        # A dead one that is in the records only cannot be brought back; what is dead and
        # in memory can, and is listed once.
        assert (await handles[0].get()).status == "completed"
        assert len([item async for item in life.swarm.list(status="dead", archived=True)]) == 5

    live(scenario, msgspec.structs.replace(SETTINGS, cache_max_size=2))


def test_an_archived_item_is_known_whoever_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A NATS server that was the leader answers for the records, of which it knows none."""

    async def scenario(life: Life) -> None:
        async def handler(ctx: Context) -> int:
            return int(ctx.payload)

        life.agent("a1", handler, concurrency=4)
        handles = [await life.swarm.submit("a", payload=n) for n in range(12)]
        for number, handle in enumerate(handles):
            assert await handle.result(timeout=60.0) == number
        cluster = life.cluster
        workers = [worker for c in cluster.coordinators.values() for worker in c._shards]
        await until(lambda: sum(sum(w._shard.archived.values()) for w in workers) >= 8)
        # The new owner of both shards has put no record yet.
        cluster.world.crash("c1")
        del cluster.coordinators["c1"]
        await until(lambda: len(cluster.coordinators["c2"].owned) == 2)
        records = cluster.world._records
        real = records.get

        def behind(name: str, key: str, as_of: int, node: str) -> list[bytes]:
            return real(name, key, as_of, node) if as_of else []

        monkeypatch.setattr(records, "get", behind)
        for number, handle in enumerate(handles):
            assert (await handle.get()).status == "completed"
            assert await handle.result(timeout=60.0) == number

    live(scenario, msgspec.structs.replace(SETTINGS, cache_max_size=2))


def test_watching_through_a_failover() -> None:
    async def scenario(life: Life) -> None:
        go_on = asyncio.Event()

        async def handler(ctx: Context) -> str:
            await ctx.progress(50, "half")
            await go_on.wait()
            return "done"

        life.agent("a1", handler)
        handle = await life.swarm.submit("a")
        seen: list[tuple[str, str]] = []

        async def watch() -> None:
            async for item in handle.watch():
                seen.extend([(item.status, item.note)])

        watching = asyncio.create_task(watch())
        await until(lambda: ("claimed", "half") in seen)
        owner = next(
            name
            for name, coordinator in life.cluster.coordinators.items()
            if int(handle.work_item_id[0]) in coordinator.owned
        )
        await life.cluster.coordinators.pop(owner).stop()
        await until(lambda: sum(len(c.owned) for c in life.cluster.coordinators.values()) == 2)
        go_on.set()
        await watching
        assert seen[-1] == ("completed", "half")
        assert seen.count(("completed", "half")) == 1

    live(scenario)

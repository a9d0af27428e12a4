"""Faults are done to whom they are meant for, undone, and put on record."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from swarm.bus.base import Message
from swarm.errors import BusTimeout, NoAnswer
from swarm.messages import Beat, Description, ShardMap
from swarm.sdk.client import Swarm
from swarm.testing.chaos import faults
from swarm.testing.chaos.cast import CAST, Company
from swarm.testing.chaos.faults import Mischief
from swarm.testing.chaos.net import Network
from swarm.testing.chaos.plan import Fault

#: Long enough to tell the order of things.
FOR_S = 0.02


class Stage:
    """Members, network and swarm that write down what is done to them."""

    def __init__(self) -> None:
        self.acts: list[str] = []
        self.members = {name: _Member(name, self.acts) for role in ROLES for name in role}
        self.bus = self
        #: What the swarm says; None: nothing.
        self.leader: str | None = "server-3"
        self.owner: str | None = "coordinator-2"

    def monitor(self, server: str) -> str:
        return f"http://127.0.0.1:1/{server}"

    def cut(self, name: str) -> None:
        self.acts.append(f"cut {name}")

    def heal(self, name: str) -> None:
        self.acts.append(f"heal {name}")

    def split(self, one: str, other: str) -> None:
        self.acts.append(f"split {one} {other}")

    def join(self, one: str, other: str) -> None:
        self.acts.append(f"join {one} {other}")

    async def request(self, subject: str, data: bytes, timeout_s: float) -> Message:
        assert subject == "$JS.API.STREAM.INFO.chaoslog_4"
        if self.leader is None:
            raise BusTimeout("no answer")
        return Message("inbox", b'{"cluster": {"leader": "%s"}}' % self.leader.encode())

    async def describe(self, *, timeout_s: float) -> Description:
        if self.owner is None:
            raise NoAnswer("no answer")
        beats = [Beat("coordinator-1", "i", 1, 1, owns=[3]), Beat(self.owner, "i", 1, 1, owns=[4])]
        return Description("chaos", 1, ShardMap(1, 6, "hash", "consistent_hash", []), beats)


ROLES = (CAST.servers, CAST.coordinators, CAST.routers, CAST.agents, CAST.clients)


class _Member:
    def __init__(self, name: str, acts: list[str]) -> None:
        self._name = name
        self._acts = acts

    def _note(self, act: str) -> None:
        self._acts.append(f"{act} {self._name}")

    async def kill(self) -> None:
        self._note("kill")

    async def end(self) -> None:
        self._note("end")

    async def start(self) -> None:
        self._note("start")

    def pause(self) -> None:
        self._note("pause")

    def go_on(self) -> None:
        self._note("go on")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(Mischief, "_is_well", lambda _self, _server: True)
    return Stage()


def mischief(stage: Stage) -> Mischief:
    return Mischief(cast(Company, stage), cast(Network, stage), cast(Swarm, stage))


def quiet(_what: str) -> None:
    """Says nothing."""


def fault(kind: Any, role: Any, *names: str, pick: Any = "any", at_s: float = 0.0) -> Fault:
    return Fault(at_s, kind, role, pick, list(names), FOR_S, shard=4)


@pytest.mark.parametrize(
    ("wanted", "acts"),
    [
        (fault("kill", "agent", "agent-1"), ["kill agent-1", "start agent-1"]),
        (fault("restart", "router", "router-2"), ["end router-2", "start router-2"]),
        (fault("stop", "client", "client-1"), ["pause client-1", "go on client-1"]),
        (fault("cut", "server", "server-1"), ["cut server-1", "heal server-1"]),
        (
            fault("stop", "server", "server-1", "server-2", pick="two"),
            ["pause server-1", "pause server-2", "go on server-1", "go on server-2"],
        ),
        (
            fault("split", "server", "server-1", "server-2", pick="two"),
            ["split server-1 server-2", "join server-1 server-2"],
        ),
    ],
    ids=lambda value: value.label if isinstance(value, Fault) else "",
)
async def test_what_is_done_is_undone(stage: Stage, wanted: Fault, acts: list[str]) -> None:
    began = time.time()
    doing = mischief(stage)
    said: list[str] = []
    await doing.perform([wanted], said.append)
    assert stage.acts == acts
    (done,) = doing.done
    assert (done.label, done.on) == (wanted.label, wanted.names)
    assert began <= done.start < done.start + FOR_S / 2 < done.end <= time.time()
    assert said == [f"{wanted.label}: {', '.join(wanted.names)} for 0.0 s"]


async def test_chiefs_are_looked_up(stage: Stage) -> None:
    doing = mischief(stage)
    await doing.perform([fault("kill", "server", "server-1", pick="chief")], quiet)
    await doing.perform([fault("kill", "coordinator", "coordinator-1", pick="chief")], quiet)
    assert [done.on for done in doing.done] == [["server-3"], ["coordinator-2"]]


async def test_where_nobody_knows_the_chief_the_drawn_one_stands_in(stage: Stage) -> None:
    doing = mischief(stage)
    stage.leader = stage.owner = None
    await doing.perform([fault("kill", "server", "server-1", pick="chief")], quiet)
    await doing.perform([fault("kill", "coordinator", "coordinator-1", pick="chief")], quiet)
    # In the middle of an election there is no leader, and a stranger may own the shard.
    stage.leader, stage.owner = "", "coordinator-9"
    await doing.perform([fault("kill", "server", "server-2", pick="chief")], quiet)
    await doing.perform([fault("kill", "coordinator", "coordinator-3", pick="chief")], quiet)
    on = [name for done in doing.done for name in done.on]
    assert on == ["server-1", "coordinator-1", "server-2", "coordinator-3"]


async def test_of_one_role_one_at_a_time_however_late(stage: Stage) -> None:
    plan = [
        fault("kill", "agent", "agent-1"),
        fault("stop", "agent", "agent-2", at_s=FOR_S / 4),
        fault("stop", "router", "router-1", at_s=FOR_S / 2),
    ]
    await mischief(stage).perform(plan, quiet)
    of_agents = [act for act in stage.acts if "agent" in act]
    assert of_agents == ["kill agent-1", "start agent-1", "pause agent-2", "go on agent-2"]
    # Another role does not wait.
    assert stage.acts.index("pause router-1") < stage.acts.index("pause agent-2")


async def test_a_server_has_time_to_get_well(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "LOOK_S", 0.01)
    answers = iter([False, False, True])
    monkeypatch.setattr(Mischief, "_is_well", lambda _self, _server: next(answers))
    doing = mischief(stage)
    await doing.perform([fault("kill", "server", "server-1")], quiet)
    assert 0.02 <= doing.done[0].well_after_s < faults.WELL_S

    monkeypatch.setattr(Mischief, "_is_well", lambda _self, _server: False)
    monkeypatch.setattr(faults, "WELL_S", 0.05)
    await doing.perform([fault("kill", "server", "server-1")], quiet)
    assert doing.done[1].well_after_s == -1.0


async def test_a_server_that_does_not_answer_is_not_well(stage: Stage) -> None:
    doing = Mischief(cast(Company, stage), cast(Network, stage), cast(Swarm, stage))
    # The real one, which the fixture stands in for.
    is_well = IS_WELL.__get__(doing)
    assert not await asyncio.to_thread(is_well, "server-1")


IS_WELL = Mischief._is_well

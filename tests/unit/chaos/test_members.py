"""Members are started, hit and looked after, as real processes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from swarm.testing.chaos import members
from swarm.testing.chaos.members import Member

DEADLINE_S = 20.0
POLL_S = 0.01

SLEEPS = "import signal; print('up', flush=True); signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEPS
#: Ends in order on SIGTERM, with this exit code.
ENDS = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))
print('up', flush=True)
signal.pause()
"""


async def until(holds: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                if holds():
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"not within {DEADLINE_S} s: {what}") from None


class Theatre:
    """Makes members and hears of their surprises."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.surprises: list[str] = []
        self.members: list[Member] = []

    async def start(self, code: str) -> Member:
        command = [sys.executable, "-I", "-c", code]
        name = f"member-{len(self.members)}"
        env = {"WHO": "test"}
        member = Member(name, command, env, self._directory, self.surprises.append)
        self.members.append(member)
        await member.start()
        return member


@pytest.fixture
async def theatre(tmp_path: Path) -> AsyncIterator[Theatre]:
    theatre = Theatre(tmp_path)
    yield theatre
    await asyncio.gather(*(member.kill() for member in theatre.members))


def said(member: Member) -> str:
    return member.log_path.read_text() if member.log_path.exists() else ""


def state(pid: int) -> str:
    """The letter of a process's state, "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


async def test_a_killed_member_is_gone_and_can_be_started_again(theatre: Theatre) -> None:
    member = await theatre.start(SLEEPS)
    await until(lambda: said(member) == "up\n", "it runs")
    await member.start()
    assert member.starts == 1
    await member.kill()
    assert not member.running
    await member.start()
    await until(lambda: said(member) == "up\nup\n", "it runs again")
    assert (member.running, member.starts) == (True, 2)
    assert theatre.surprises == []


async def test_a_paused_member_goes_on(theatre: Theatre) -> None:
    member = await theatre.start(SLEEPS)
    await until(lambda: said(member), "it runs")
    pid = member.pid
    assert pid is not None
    member.pause()
    await until(lambda: state(pid) == "T", "it is stopped")
    member.go_on()
    await until(lambda: state(pid) == "S", "it goes on")


async def test_an_orderly_end_is_no_surprise(theatre: Theatre) -> None:
    member = await theatre.start(ENDS.format(code=0))
    await until(lambda: said(member), "it runs")
    await member.end()
    assert not member.running
    await member.end()
    assert theatre.surprises == []


async def test_a_bad_end_is_a_surprise(theatre: Theatre) -> None:
    member = await theatre.start(ENDS.format(code=4))
    await until(lambda: said(member), "it runs")
    await member.end()
    (surprise,) = theatre.surprises
    assert surprise.startswith("member-0 ended badly after SIGTERM: exit code 4")


@pytest.mark.parametrize(("young_s", "surprises"), [(60.0, 0), (0.0, 1)])
async def test_only_who_is_young_may_be_ended_by_the_signal_itself(
    theatre: Theatre, monkeypatch: pytest.MonkeyPatch, young_s: float, surprises: int
) -> None:
    monkeypatch.setattr(members, "YOUNG_S", young_s)
    member = await theatre.start(SLEEPS)
    await until(lambda: said(member), "it runs")
    await member.end()
    assert not member.running
    assert len(theatre.surprises) == surprises


async def test_who_does_not_end_is_killed_and_that_is_a_surprise(theatre: Theatre) -> None:
    member = await theatre.start(DEAF)
    await until(lambda: said(member), "it runs")
    await member.end(grace_s=0.1)
    assert not member.running
    assert theatre.surprises == ["member-0 did not end within 0 s of SIGTERM"]


async def test_who_ends_by_itself_is_a_surprise_and_started_again(
    theatre: Theatre, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "AGAIN_S", 0.01)
    member = await theatre.start("import sys; sys.exit('out of order')")
    await until(lambda: member.starts > 1, "it is started again")
    assert theatre.surprises[0] == "member-0 ended by itself: exit code 1: out of order"


async def test_members_die_with_the_run(tmp_path: Path) -> None:
    """Of a run that is killed itself, which cannot end anybody."""
    code = f"""
import asyncio, signal, sys
from pathlib import Path
from swarm.testing.chaos.members import Member

async def main():
    command = [sys.executable, "-I", "-c", {SLEEPS!r}]
    member = Member("member", command, {{}}, Path({str(tmp_path)!r}), print)
    await member.start()
    print(member.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert run.stdout is not None
    pid = int(await run.stdout.readline())
    log = tmp_path / "member.log"
    await until(lambda: log.exists() and log.read_text() == "up\n", "the member runs")
    run.kill()
    await run.wait()
    await until(lambda: state(pid) in ("", "Z"), "the member is gone, too")

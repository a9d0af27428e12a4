"""What is kept, and how it shows that it may be out of date, whichever backend it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from swarm.config import load
from swarm.discovery.base import Member, MemberSet, in_order, member_of
from swarm.discovery.beats import Beats, of_beats
from swarm.discovery.choosing import choose, nats_servers
from swarm.discovery.consul import Consul
from swarm.discovery.dns import Dns
from swarm.discovery.etcd import Etcd
from swarm.discovery.following import Discovery
from swarm.discovery.kubernetes import Kubernetes
from swarm.discovery.static import Static
from swarm.errors import BadConfig, DiscoveryFailed
from swarm.messages import Beat
from tests.parts import until

ONE, TWO = Member("c1", "10.0.0.1", 4000), Member("c2", "10.0.0.2", 4000)


class Scripted:
    """Says what it is told to, or fails."""

    source = "scripted"

    def __init__(self) -> None:
        self.said: asyncio.Queue[list[Member] | str] = asyncio.Queue()
        self.asked = 0

    async def watch(self) -> AsyncGenerator[list[Member], None]:
        self.asked += 1
        while True:
            said = await self.said.get()
            if said == "a defect":
                raise KeyError(said)
            if isinstance(said, str):
                raise DiscoveryFailed(said)
            yield said


async def test_the_last_known_stay_in_use_and_are_visibly_stale() -> None:
    backend = Scripted()
    discovery = Discovery(backend, pause_first_s=0.01)
    assert (discovery.current.members, discovery.current.stale) == ([], True)
    assert "not heard of yet" in discovery.current.why
    await discovery.start()
    await discovery.start()  # safe
    backend.said.put_nowait([ONE, TWO])
    first = await discovery.first(5.0)
    assert (first.members, first.stale, first.why) == ([ONE, TWO], False, "")
    assert first.as_of > 0
    backend.said.put_nowait("it is down")
    stale = await discovery.after(first)
    assert (stale.members, stale.stale, stale.why) == ([ONE, TWO], True, "it is down")
    assert stale.as_of == first.as_of
    backend.said.put_nowait([ONE])
    back = await discovery.after(stale)
    assert (back.members, back.stale, back.why) == ([ONE], False, "")
    assert backend.asked == 2
    await discovery.stop()
    await discovery.stop()


async def test_a_defect_of_ours_is_visible_too() -> None:
    backend = Scripted()
    discovery = Discovery(backend, pause_first_s=0.01)
    await discovery.start()
    backend.said.put_nowait([ONE])
    first = await discovery.first(5.0)
    backend.said.put_nowait("a defect")
    stale = await discovery.after(first)
    assert (stale.members, stale.stale, stale.why) == (
        [ONE],
        True,
        "scripted: KeyError: 'a defect'",
    )
    backend.said.put_nowait([ONE])
    assert not (await discovery.after(stale)).stale
    await discovery.stop()


async def test_a_backend_that_says_nothing_is_not_waited_for_longer() -> None:
    discovery = Discovery(Scripted())
    await discovery.start()
    known = await discovery.first(0.02)
    assert (known.members, known.stale, known.as_of) == ([], True, 0.0)
    await discovery.stop()


async def test_changes_come_once_each() -> None:
    backend = Scripted()
    discovery = Discovery(backend, pause_first_s=0.01)
    await discovery.start()
    seen: list[MemberSet] = []

    async def listen() -> None:
        async for known in discovery.changes():
            seen.append(known)  # noqa: PERF401 - it never ends

    task = asyncio.create_task(listen())
    for members in ([ONE], [ONE], [ONE, TWO]):
        await asyncio.sleep(0)
        backend.said.put_nowait(members)
    await until(lambda: seen and seen[-1].members == [ONE, TWO])
    assert [known.members for known in seen] in ([[], [ONE], [ONE, TWO]], [[], [ONE, TWO]])
    task.cancel()
    await discovery.stop()


async def test_a_list_never_changes() -> None:
    discovery = Discovery(Static([TWO, ONE, ONE]))
    await discovery.start()
    assert (await discovery.first(5.0)).members == [ONE, TWO]
    await discovery.stop()


async def test_beats_say_who_lives_and_where() -> None:
    beats = {"c1": Beat("c1", "i", 2, 1, http="10.0.0.1:4000"), "c2": Beat("c2", "i", 2, 1)}
    connected = True
    discovery = Discovery(Beats(lambda: beats, lambda: connected, 0.02), pause_first_s=0.01)
    await discovery.start()
    first = await discovery.first(5.0)
    assert first.members == [ONE, Member("c2")]
    del beats["c1"]
    assert (await discovery.after(first)).members == [Member("c2")]
    before = discovery.current
    connected = False
    lost = await discovery.after(before)
    assert (lost.members, lost.stale, lost.why) == ([Member("c2")], True, "not connected to NATS")
    await discovery.stop()


def test_a_beat_with_a_bad_address_hides_nobody() -> None:
    beats = [Beat("c1", "i", 2, 1, http="10.0.0.1:4000"), Beat("c3", "i", 2, 1, http="x:y")]
    assert of_beats(beats) == [ONE, Member("c3")]


def test_addresses() -> None:
    assert member_of("a", "h:1") == Member("a", "h", 1)
    assert member_of("a", "h", 7) == Member("a", "h", 7)
    assert member_of("a", "[::1]:5").address == "[::1]:5"
    assert member_of("a", "[::1]", 6) == Member("a", "::1", 6)
    assert Member("a").address == ""
    for bad in ("h:x", "h:70000", "h:", "h:0", "nonsense"):
        with pytest.raises(ValueError, match="no host:port"):
            member_of("a", bad)
    assert in_order([TWO, ONE, TWO]) == [ONE, TWO]


def test_the_settings_choose_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(**env: str) -> object:
        return choose(load({"COORDINATOR_DISCOVERY": env.pop("by"), **env}))

    assert isinstance(chosen(by="consul"), Consul)
    assert isinstance(chosen(by="etcd", DISCOVERY_URL="http://a:1,http://b:2"), Etcd)
    assert isinstance(chosen(by="kubernetes", DISCOVERY_URL="dns://"), Dns)
    assert isinstance(chosen(by="kubernetes", DISCOVERY_URL="http://a:1"), Kubernetes)
    assert isinstance(chosen(by="static", COORDINATORS="a b=10.0.0.9:81"), Static)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(BadConfig, match="this is no pod"):
        chosen(by="kubernetes")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert isinstance(chosen(by="kubernetes"), Kubernetes)


async def test_a_list_gives_hosts_and_ports() -> None:
    settings = load(
        {"COORDINATOR_DISCOVERY": "static", "COORDINATORS": "a b=10.0.0.9:81", "HTTP_PORT": "4100"}
    )
    assert settings.coordinator_names == ["a", "b"]
    said = choose(settings).watch()
    assert await anext(said) == [Member("a", "a", 4100), Member("b", "10.0.0.9", 81)]
    await said.aclose()


async def test_nats_is_not_found_through_nats() -> None:
    assert await nats_servers("nats://h:1", load({}), 1.0) == "nats://h:1"
    for by in ("nats", "static"):
        settings = load({"COORDINATOR_DISCOVERY": by, "COORDINATORS": "a b"})
        with pytest.raises(BadConfig, match="NATS servers are found by"):
            await nats_servers("discovery:nats", settings, 1.0)

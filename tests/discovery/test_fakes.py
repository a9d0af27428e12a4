"""Consul and the Kubernetes API, by fakes of their documented wire protocols."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.config import load
from swarm.discovery.base import Member, MemberSet
from swarm.discovery.choosing import nats_servers
from swarm.discovery.consul import Consul
from swarm.discovery.following import Discovery
from swarm.discovery.kubernetes import Kubernetes
from tests.discovery.fakes import FakeConsul, FakeKubernetes, endpoint, serving
from tests.parts import make_authority, until


def members(known: MemberSet) -> list[tuple[str, str, int]]:
    return [(one.name, one.host, one.port) for one in known.members]


# --- Consul -------------------------------------------------------------------------------------


async def test_consul_says_at_once_what_has_changed() -> None:
    fake = FakeConsul()
    await fake.set(c1=("10.0.0.1", 4000), c2=("", 4001))
    async with serving(fake):
        discovery = Discovery(Consul(fake.url, "swarm", "secret"), pause_first_s=0.02)
        await discovery.start()
        first = await discovery.first(5.0)
        # An instance without an address of its own is where its node is.
        assert members(first) == [("c1", "10.0.0.1", 4000), ("c2", "10.9.9.9", 4001)]
        await until(lambda: len(fake.asked) >= 2)
        await fake.set(c1=("10.0.0.1", 4000))
        assert members(await discovery.after(first)) == [("c1", "10.0.0.1", 4000)]
        # It waited for that: nothing was asked over and over.
        assert len(fake.asked) <= 4
        assert {request.headers["X-Consul-Token"] for request in fake.asked} == {"secret"}
        assert [request.query.get("index") for request in fake.asked][:2] == [None, "8"]
        await discovery.stop()


async def test_consul_that_starts_anew_is_asked_from_the_beginning() -> None:
    fake = FakeConsul()
    await fake.set(c1=("10.0.0.1", 4000))
    async with serving(fake):
        discovery = Discovery(Consul(fake.url, "swarm", wait_s=0.1), pause_first_s=0.02)
        await discovery.start()
        first = await discovery.first(5.0)
        fake.index = 1  # goes backwards, as after a restore
        await fake.set(c1=("10.0.0.1", 4000), c3=("10.0.0.3", 4000))
        assert len((await discovery.after(first)).members) == 2
        indexes = [int(request.query.get("index", "0")) for request in fake.asked]
        await until(lambda: fake.asked[-1].query.get("index") == "2")
        assert 0 in [int(one.query.get("index", "0")) for one in fake.asked][1:], indexes
        await discovery.stop()


async def test_consul_without_news_is_not_asked_in_a_loop() -> None:
    fake = FakeConsul()
    fake.index = 0  # some proxies say so; it must not be passed on
    async with serving(fake):
        discovery = Discovery(Consul(fake.url, "swarm", wait_s=0.05))
        await discovery.start()
        await discovery.first(5.0)
        await until(lambda: len(fake.asked) >= 3)
        assert {one.query["index"] for one in fake.asked[1:]} == {"1"}
        await discovery.stop()


@pytest.mark.parametrize("how", ["down", "failing", "nonsense"])
async def test_consul_that_does_not_answer_leaves_the_last_known(how: str) -> None:
    fake = FakeConsul()
    await fake.set(c1=("10.0.0.1", 4000))
    async with serving(fake):
        discovery = Discovery(Consul(fake.url, "swarm", wait_s=0.1), pause_first_s=0.02)
        await discovery.start()
        first = await discovery.first(5.0)
        if how == "down":
            await fake.down()
        elif how == "failing":
            fake.fail_with = 500
        else:
            fake.fail_with = 200
        stale = await discovery.after(first)
        assert (stale.stale, stale.members) == (True, first.members)
        assert "Consul" in stale.why or "500" in stale.why
        fake.fail_with = 0
        if how == "down":
            await fake.up()
        back = await discovery.after(stale)
        while back.stale:
            back = await discovery.after(back)
        assert back.members == first.members
        await discovery.stop()


async def test_nats_servers_are_found_by_consul() -> None:
    fake = FakeConsul()
    await fake.set(n1=("10.0.0.1", 4222), n2=("10.0.0.2", 4222))
    async with serving(fake):
        settings = load({"COORDINATOR_DISCOVERY": "consul", "DISCOVERY_URL": fake.url})
        found = await nats_servers("discovery:swarm", settings, 5.0)
        assert found == "nats://10.0.0.1:4222,nats://10.0.0.2:4222"


# --- Kubernetes ---------------------------------------------------------------------------------


def kubernetes(fake: FakeKubernetes, account: Path, watch_s: int = 30) -> Discovery:
    backend = Kubernetes(fake.url, "swarm.agents.svc.cluster.local", "http", watch_s, account)
    return Discovery(backend, pause_first_s=0.02)


async def test_kubernetes_says_at_once_what_has_changed(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    fake = FakeKubernetes()
    await fake.put("swarm-1", endpoint("10.0.0.1", hostname="c1"), endpoint("10.0.0.2"))
    async with serving(fake):
        discovery = kubernetes(fake, tmp_path)
        await discovery.start()
        known = await discovery.first(5.0)
        assert members(known) == [("10.0.0.2", "10.0.0.2", 4000), ("c1", "10.0.0.1", 4000)]
        pod = {"targetRef": {"kind": "Pod", "name": "swarm-2"}}
        going = {"conditions": {"ready": False, "terminating": True}}
        await fake.put("swarm-2", endpoint("10.0.0.3", **pod), endpoint("10.0.0.4", **going))
        known = await discovery.after(known)
        assert ("swarm-2", "10.0.0.3", 4000) in members(known)
        assert "10.0.0.4" not in str(known.members)
        await fake.put("swarm-1", port=5000)  # all of its endpoints are gone
        known = await discovery.after(known)
        await fake.delete("swarm-2")
        known = await discovery.after(known)
        assert (known.members, known.stale) == ([], False)
        assert len(fake.asked) == 2, "one list, one watch"
        assert {one.headers["Authorization"] for one in fake.asked} == {"Bearer secret"}
        await discovery.stop()


@pytest.mark.parametrize("in_stream", [False, True])
async def test_a_version_that_is_too_old_is_listed_anew(tmp_path: Path, in_stream: bool) -> None:
    fake = FakeKubernetes()
    fake.expired_in_stream = in_stream
    await fake.put("swarm-1", endpoint("10.0.0.1"))
    async with serving(fake):
        discovery = kubernetes(fake, tmp_path, watch_s=1)
        await discovery.start()
        known = await discovery.first(5.0)
        await until(lambda: len(fake.asked) >= 2)
        # While the watch is quiet, history is dropped, and with it the next change.
        fake.events.clear()
        fake.slices["swarm-1"]["endpoints"] = [endpoint("10.0.0.9")]
        fake.version += 50
        fake.oldest = fake.version + 1
        known = await discovery.after(known)
        assert members(known) == [("10.0.0.9", "10.0.0.9", 4000)]
        assert not known.stale
        fake.oldest = 0
        await discovery.stop()


async def test_a_watch_that_ends_in_order_goes_on(tmp_path: Path) -> None:
    fake = FakeKubernetes()
    await fake.put("swarm-1", endpoint("10.0.0.1"))
    async with serving(fake):
        discovery = kubernetes(fake, tmp_path, watch_s=1)
        await discovery.start()
        known = await discovery.first(5.0)
        await until(lambda: len(fake.asked) >= 3)
        assert all(one.query.get("watch") for one in fake.asked[1:]), "listed once"
        assert discovery.current.as_of > known.as_of
        assert not discovery.current.stale
        await discovery.stop()


@pytest.mark.parametrize("how", ["down", "failing"])
async def test_kubernetes_that_does_not_answer_leaves_the_last_known(
    tmp_path: Path, how: str
) -> None:
    fake = FakeKubernetes()
    await fake.put("swarm-1", endpoint("10.0.0.1"))
    async with serving(fake):
        discovery = kubernetes(fake, tmp_path, watch_s=1)
        await discovery.start()
        known = await discovery.first(5.0)
        if how == "down":
            await fake.down()
        else:
            fake.fail_with = 503
        stale = await discovery.after(known)
        assert (stale.stale, stale.members) == (True, known.members)
        assert "Kubernetes" in stale.why or "leader changed" in stale.why
        fake.fail_with = 0
        if how == "down":
            await fake.up()
        await fake.put("swarm-2", endpoint("10.0.0.2"))
        await until(lambda: len(discovery.current.members) == 2)
        assert Member("10.0.0.2", "10.0.0.2", 4000) in discovery.current.members
        assert not discovery.current.stale
        await discovery.stop()


async def test_in_a_pod_the_api_is_known_by_its_authority(tmp_path: Path) -> None:
    pod, stranger = tmp_path / "pod", tmp_path / "stranger"
    for folder in (pod, stranger):
        folder.mkdir()
    fake = FakeKubernetes()
    fake.tls = make_authority(pod)
    make_authority(stranger)
    (pod / "namespace").write_text("agents\n")
    await fake.put("swarm-1", endpoint("10.0.0.1"))
    async with serving(fake):
        discovery = Discovery(Kubernetes(fake.url, "swarm", "http", 30, pod))
        await discovery.start()
        assert members(await discovery.first(5.0)) == [("10.0.0.1", "10.0.0.1", 4000)]
        await discovery.stop()
        # An API server that somebody else vouches for is not spoken to.
        discovery = Discovery(Kubernetes(fake.url, "swarm.agents", "http", 30, stranger))
        await discovery.start()
        await until(lambda: "certificate" in discovery.current.why)
        assert discovery.current.members == []
        await discovery.stop()


async def test_an_account_without_rights_is_named(tmp_path: Path) -> None:
    fake = FakeKubernetes()
    fake.fail_with = 403
    async with serving(fake):
        discovery = kubernetes(fake, tmp_path)
        await discovery.start()
        await until(lambda: "answers 403" in discovery.current.why)
        await discovery.stop()

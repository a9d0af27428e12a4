"""What the members of a run are told."""

from __future__ import annotations

from pathlib import Path

import pytest

import swarm
from swarm.config import load
from swarm.testing.chaos import cast
from swarm.testing.chaos.net import Loopback

ROOT = Path(swarm.__file__).parents[1]


def test_the_servers_are_configured_as_the_cluster_that_we_ship() -> None:
    text = (ROOT / "configs" / "nats" / "cluster.conf").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.strip().startswith("#")]
    shipped = [line for line in lines if line.strip()]
    ours = [line for line in cast.SERVER_CONFIG.splitlines() if line.strip()]
    assert ours == shipped


def test_the_nodes_settings_are_good() -> None:
    settings = load(cast.NODE_SETTINGS)
    assert settings.replicas == len(cast.CAST.servers) == 3
    assert settings.coordinator_names == cast.CAST.coordinators
    assert settings.shard_count == cast.CAST.shards
    # An election of the servers takes up to 9 s; owners must not give up before.
    assert settings.lease_s > 9.0


def test_members_run_this_code_and_none_of_the_users_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nats_binary: str
) -> None:
    monkeypatch.setenv("LEASE_S", "77")
    monkeypatch.setenv("NATS_URL", "nats://somewhere")
    monkeypatch.setenv("SWARM_PREFIX", "mine")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    company = cast.Company(tmp_path, Loopback(), 1, print)
    assert company.urls.count("nats://127.0.0.1:") == 3
    expected = {*cast.CAST.servers, *cast.CAST.coordinators, *cast.CAST.routers, cast.RECORDER}
    assert set(company.members) == expected | {*cast.CAST.agents, *cast.CAST.clients}
    for member in company.members.values():
        env = member.env
        assert env["PYTHONPATH"].split(":") == [str(ROOT), "elsewhere"]
        assert env.get("SWARM_PREFIX", cast.PREFIX) == cast.PREFIX
        assert env.get("LEASE_S", "12") == "12"
        assert "somewhere" not in env.get("NATS_URL", "")

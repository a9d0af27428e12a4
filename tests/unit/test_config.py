"""Settings: what is read, what wins, and that every mistake is named."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from swarm.config import SETTINGS, Settings, load, to_toml
from swarm.errors import BadConfig

ROOT = Path(__file__).parents[2]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "swarm.toml"
    path.write_text(text, "utf-8")
    return path


def test_defaults() -> None:
    assert load({}) == Settings()


def test_the_defaults_are_possible_together() -> None:
    assert load({}).coordinator_names == ["coordinator-1", "coordinator-2"]


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "shard_count = 4\nlease_s = 20\n")
    settings = load({"SHARD_COUNT": "8"}, path)
    assert (settings.shard_count, settings.lease_s) == (8, 20.0)


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    path = written(tmp_path, "shard_count = 4\n")
    assert load({"SHARD_COUNT": " "}, path).shard_count == 4


def test_other_variables_are_not_looked_at() -> None:
    env = {"PATH": "x", "BRIDGE_COUNT": "2", "shard_count": "3", "PREFIX": "x"}
    assert load(env) == Settings()


#: Of every setting: as a variable, in TOML, and what it means.
VALUES: dict[str, tuple[str, str, object]] = {
    "SWARM_PREFIX": ("other", '"other"', "other"),
    "SHARD_COUNT": ("3", "3", 3),
    "SHARD_KEY": ("work_type", '"work_type"', "work_type"),
    "SHARDING_ENABLED": ("0", "false", False),
    "SHARD_DISTRIBUTION": ("round_robin", '"round_robin"', "round_robin"),
    "COORDINATORS": ("a:4000\n b=h:1", '["a:4000", "b=h:1"]', ["a:4000", "b=h:1"]),
    "PARALLEL_WORKERS": ("5", "5", 5),
    "CONNECTION_POOL_SIZE": ("500", "500", 500),
    "BATCH_SIZE": ("7", "7", 7),
    "BATCH_TIMEOUT": ("0", "0", 0),
    "LOG_SAMPLE_RATE": ("0.1", "0.1", 0.1),
    "LEASE_S": ("90", "90", 90.0),
    "HEARTBEAT_S": ("1.5", "1.5", 1.5),
    "BEAT_S": ("0.1", "0.1", 0.1),
    "MISSED_S": ("3", "3", 3.0),
    "STANDBYS": ("2", "2", 2),
    "DRAIN_S": ("3.5", "3.5", 3.5),
    "AGEING_S": ("1", "1.0", 1.0),
    "DEDUPE_WINDOW": ("3600", "3600", 3600.0),
    "DEDUPE_COUNT": ("5000", "5000", 5000),
    "MAX_ATTEMPTS": ("7", "7", 7),
    "RETRY_BACKOFF_S": ("2", "2.0", 2.0),
    "RETRY_BACKOFF_MAX_S": ("60", "60", 60.0),
    "QUARANTINE_DEATHS": ("5", "5", 5),
    "WAIT_EXPIRES_S": ("60", "60", 60.0),
    "DEADLINE_GRACE_S": ("0", "0", 0.0),
    "CACHE_MAX_SIZE": ("1000", "1000", 1000),
    "FINISHED_RETENTION_S": ("0", "0", 0.0),
    "DEAD_RETENTION_S": ("60", "60", 60.0),
    "LOG_FLOOR_BYTES": ("1000", "1000", 1000),
    "STORAGE_MAX_BYTES": ("1000000", "1000000", 1_000_000),
    "STORAGE_SOFT_LIMIT": ("0.5", "0.5", 0.5),
    "MAILBOX_SIZE": ("2000", "2000", 2000),
    "APPEND_TIMEOUT_S": ("0.5", "0.5", 0.5),
    "ROUTING_ENABLED": ("1", "true", True),
    "ROUTING_KEY": ("team", '"team"', "team"),
    "ROUTING_RULES": (
        "feature -> coordinator-1:4000\n",
        '"feature -> coordinator-1:4000"',
        "feature -> coordinator-1:4000",
    ),
    "LB_STRATEGY": ("round_robin", '"round_robin"', "round_robin"),
    "HEALTH_CHECK_INTERVAL": ("20000", "20000", 20_000),
    "HEALTH_CHECK_TIMEOUT": ("1000", "1000", 1000),
    "HEALTH_CHECK_RISE": ("3", "3", 3),
    "HEALTH_CHECK_FALL": ("1", "1", 1),
    "SLOW_START_S": ("0", "0", 0.0),
    "AGENTS_PER_COORDINATOR": ("50", "50", 50),
    "SHARD_AFFINITY": ("strict", '"strict"', "strict"),
    "COORDINATOR_SYNC_ENABLED": ("1", "true", True),
    "COORDINATOR_SYNC_INTERVAL": ("1000", "1000", 1000),
    "CONFLICT_RESOLUTION": ("random", '"random"', "random"),
    "AUTO_REBALANCE_ENABLED": ("1", "true", True),
    "REBALANCE_THRESHOLD": ("0.5", "0.5", 0.5),
    "LOG_REPLICAS": ("3", "3", 3),
    "HTTP_PORT": ("0", "0", 0),
    "HTTP_API": ("0", "false", False),
    "COORDINATOR_DISCOVERY": ("etcd", '"etcd"', "etcd"),
    "DISCOVERY_URL": ("", '""', ""),
    "DISCOVERY_SERVICE": ("swarm.agents", '"swarm.agents"', "swarm.agents"),
    "DISCOVERY_INTERVAL": ("0.5", "0.5", 0.5),
}


def test_every_setting_is_read_from_both_places(tmp_path: Path) -> None:
    assert set(VALUES) == {setting.env for setting in SETTINGS}
    for setting in SETTINGS:
        text, toml, expected = VALUES[setting.env]
        path = written(tmp_path, f"{setting.key} = {toml}\n")
        assert getattr(load({setting.env: text}), setting.field) == expected
        assert getattr(load({}, path), setting.field) == expected
        assert type(getattr(load({setting.env: text}), setting.field)) is type(expected)


BAD_VALUES = [
    ("SWARM_PREFIX", "a.b", "letters, digits"),
    ("SWARM_PREFIX", "*", "letters, digits"),
    ("SHARD_COUNT", "0", "1 to 1024"),
    ("SHARD_COUNT", "1025", "1 to 1024"),
    ("SHARD_COUNT", "many", "1 to 1024"),
    ("SHARD_COUNT", "1.5", "1 to 1024"),
    ("SHARD_KEY", "colour", "hash, work_type, priority, agent_id"),
    ("SHARD_DISTRIBUTION", "dice", "consistent_hash, round_robin, range"),
    ("SHARDING_ENABLED", "maybe", "0, 1, false, true"),
    ("COORDINATORS", "a:b", "'a:b' has no port"),
    ("COORDINATORS", "a:0", "'a:0' has no port"),
    ("COORDINATORS", "a b a:1", "'a' is there twice"),
    ("COORDINATORS", "a.b", "'a.b' is no coordinator name"),
    ("COORDINATORS", "a=", "'a=' is no coordinator name"),
    ("COORDINATORS", "a=b c:", "'c:' has no port"),
    ("COORDINATORS", "a=b:99999", "'a=b:99999' has no port"),
    ("HTTP_API", "2", "0, 1, false, true"),
    ("AUTO_REBALANCE_ENABLED", "sometimes", "0, 1, false, true"),
    ("REBALANCE_THRESHOLD", "0", "from 0.05 to 5"),
    ("REBALANCE_THRESHOLD", "20%", "a part of the whole"),
    ("COORDINATOR_DISCOVERY", "zookeeper", "nats, static, kubernetes, consul, etcd"),
    ("DISCOVERY_URL", "localhost:8500", "'localhost:8500' is none"),
    ("DISCOVERY_URL", "http://", "'http://' names no host"),
    ("DISCOVERY_URL", "dns://a b", "is none"),
    ("DISCOVERY_SERVICE", "a b", "a service's name"),
    ("DISCOVERY_INTERVAL", "0", "seconds from 0.2"),
    ("PARALLEL_WORKERS", "-1", "1 to 256"),
    ("CONNECTION_POOL_SIZE", "0", "1 to 10000"),
    ("BATCH_SIZE", "0", "1 to 10000"),
    ("BATCH_TIMEOUT", "-1", "0 to 3600000"),
    ("LOG_SAMPLE_RATE", "10%", "from 0 to 1"),
    ("LOG_SAMPLE_RATE", "1.1", "from 0 to 1"),
    ("LEASE_S", "nan", "seconds from 1"),
    ("LEASE_S", "inf", "seconds from 1"),
    ("LEASE_S", "30s", "seconds from 1"),
    ("HEARTBEAT_S", "0", "seconds from 0.1"),
    ("BEAT_S", "-1", "seconds from 0.05"),
    ("MISSED_S", "", None),
    ("DEDUPE_WINDOW", "1", "seconds from 60"),
    ("ROUTING_ENABLED", "maybe", "0, 1, false, true"),
    ("ROUTING_RULES", "feature coordinator-1", "line 1"),
    ("ROUTING_RULES", "a -> x\na -> y", "line 2"),
    ("ROUTING_RULES", "a -> @b", "no rule for 'b'"),
    ("ROUTING_KEY", "colour", "work_type, priority, team, label"),
    ("LB_STRATEGY", "random", "least_connections, round_robin, response_time"),
    ("HEALTH_CHECK_INTERVAL", "10s", "50 to 3600000"),
    ("HEALTH_CHECK_TIMEOUT", "0", "10 to 3600000"),
    ("HEALTH_CHECK_RISE", "0", "1 to 100"),
    ("HEALTH_CHECK_FALL", "0", "1 to 100"),
    ("SLOW_START_S", "-1", "seconds from 0"),
    ("AGENTS_PER_COORDINATOR", "-1", "a whole number from 0"),
    ("AGENTS_PER_COORDINATOR", "50 agents", "a whole number from 0"),
    ("SHARD_AFFINITY", "remote", "local, none, strict"),
    ("COORDINATOR_SYNC_ENABLED", "yes", "0, 1, false, true"),
    ("COORDINATOR_SYNC_INTERVAL", "5s", "50 to 3600000"),
    ("CONFLICT_RESOLUTION", "newest", "timestamp, priority, random"),
    ("LOG_REPLICAS", "2", "1, 3, 5"),
    ("HTTP_PORT", "65536", "0 to 65535"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD_VALUES)
def test_a_bad_value_is_named_with_what_is_allowed(
    name: str, value: str, allowed: str | None
) -> None:
    if allowed is None:
        assert load({name: value}) == Settings()
        return
    with pytest.raises(BadConfig) as caught:
        load({name: value})
    message = str(caught.value)
    assert name in message
    assert repr(value) in message
    assert allowed in message


@pytest.mark.parametrize(
    "line",
    [
        "shard_count = true",
        'shard_count = "x"',
        "shard_count = 2.0",
        "lease_s = true",
        "lease_s = [1]",
        "shard_key = 1",
        "coordinators = [1]",
        "coordinators = 3",
        "routing_enabled = 2",
        "routing_rules = []",
        "swarm_prefix = 1",
        "log_replicas = true",
        "[shard_count]",
    ],
)
def test_a_value_of_another_type_in_the_file_is_named(tmp_path: Path, line: str) -> None:
    path = written(tmp_path, line + "\n")
    with pytest.raises(BadConfig) as caught:
        load({}, path)
    key = line.strip("[]").split()[0]
    assert f"{path}: {key} = " in str(caught.value)
    assert "allowed: " in str(caught.value)


def test_an_unknown_key_in_the_file_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, "shard_cuont = 4\n")
    with pytest.raises(BadConfig, match=r"no setting 'shard_cuont'; did you mean shard_count\?"):
        load({}, path)


@pytest.mark.parametrize("key", ["shard_affinities", "bridge_count", "SHARD_COUNT", "prefix"])
def test_a_setting_that_nothing_acts_on_is_an_error_in_the_file(tmp_path: Path, key: str) -> None:
    with pytest.raises(BadConfig, match=f"no setting '{key}'"):
        load({}, written(tmp_path, f'{key} = "x"\n'))


@pytest.mark.parametrize(
    ("env", "fragments"),
    [
        ({"LEASE_S": "10"}, ["LEASE_S = 10", "HEARTBEAT_S = 5", "more than twice"]),
        ({"HEARTBEAT_S": "15"}, ["LEASE_S = 30", "HEARTBEAT_S = 15", "more than twice"]),
        ({"MISSED_S": "0.5"}, ["MISSED_S = 0.5", "BEAT_S = 0.25", "more than twice"]),
        (
            {"LEASE_S": "3", "HEARTBEAT_S": "1", "MISSED_S": "3"},
            ["LEASE_S = 3", "MISSED_S = 3", "more than MISSED_S"],
        ),
        (
            {"LEASE_S": "3", "HEARTBEAT_S": "1", "APPEND_TIMEOUT_S": "5"},
            ["LEASE_S = 3", "APPEND_TIMEOUT_S = 5"],
        ),
        (
            {"HEALTH_CHECK_INTERVAL": "1000"},
            ["HEALTH_CHECK_INTERVAL = 1000", "HEALTH_CHECK_TIMEOUT = 5000", "at least"],
        ),
        (
            {"ROUTING_KEY": "priority", "ROUTING_RULES": "high -> c1\nurgent -> c1"},
            ["ROUTING_KEY = priority", "line 2", "'urgent' is no priority"],
        ),
        ({"MAILBOX_SIZE": "10"}, ["MAILBOX_SIZE = 10", "BATCH_SIZE = 1000"]),
        (
            {"ROUTING_ENABLED": "1", "ROUTING_RULES": "a -> z"},
            ["ROUTING_RULES", "'z'", "coordinator-1, coordinator-2"],
        ),
        (
            {"ROUTING_ENABLED": "1", "ROUTING_RULES": "a -> coordinator-1", "COORDINATORS": "x y"},
            ["'coordinator-1'", "x, y"],
        ),
        (
            {"COORDINATOR_SYNC_ENABLED": "0"},
            ["COORDINATOR_SYNC_ENABLED = 0", "SHARD_AFFINITY = local", "SHARD_AFFINITY = strict"],
        ),
        (
            {"COORDINATOR_SYNC_ENABLED": "0", "SHARD_AFFINITY": "none"},
            ["COORDINATOR_SYNC_ENABLED = 0", "SHARD_AFFINITY = none"],
        ),
        (
            {"COORDINATOR_SYNC_INTERVAL": "200"},
            ["COORDINATOR_SYNC_INTERVAL = 200", "BEAT_S = 0.25", "at least 250"],
        ),
    ],
)
def test_an_impossible_combination_names_both(env: dict[str, str], fragments: list[str]) -> None:
    with pytest.raises(BadConfig) as caught:
        load(env)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_just_possible_combinations_are_taken() -> None:
    assert load({"LEASE_S": "10.1"}).lease_s == 10.1
    assert load({"MISSED_S": "0.51"}).missed_s == 0.51
    assert load({"ROUTING_RULES": "a -> z"}).routing_rules == "a -> z"
    by_label = {"ROUTING_KEY": "label", "ROUTING_RULES": "region=eu -> z"}
    assert load(by_label).routing_rules == "region=eu -> z"
    checked = {"HEALTH_CHECK_INTERVAL": "1000", "HEALTH_CHECK_TIMEOUT": "1000"}
    assert load(checked).health_check_interval_ms == 1000
    apart = {"COORDINATOR_SYNC_ENABLED": "0", "SHARD_AFFINITY": "strict"}
    assert not load(apart).sync_enabled
    assert load({"COORDINATOR_SYNC_INTERVAL": "250"}).sync_interval_ms == 250


def test_coordinators_by_the_guide() -> None:
    text = "\n  coordinator-1:4000\n  coordinator-2:4000\n  coordinator-3:4000\n"
    settings = load({"COORDINATORS": text, "PARALLEL_WORKERS": "1"})
    assert settings.coordinator_names == ["coordinator-1", "coordinator-2", "coordinator-3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"shard_count = \n", "is no TOML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"a = 1\na = 2\n", "is no TOML"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(BadConfig) as caught:
        load({}, path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"none\.toml cannot be read: No such file"):
        load({}, tmp_path / "none.toml")


def test_the_settings_survive_being_written(tmp_path: Path) -> None:
    settings = load(
        {
            "COORDINATORS": "a b",
            "ROUTING_ENABLED": "1",
            "ROUTING_RULES": "x -> a\ny -> b",
            "LEASE_S": "77.5",
            "SHARD_KEY": "priority",
        }
    )
    assert load({}, written(tmp_path, to_toml(settings))) == settings


def test_coordinators_have_names_hosts_and_ports() -> None:
    settings = load({"COORDINATORS": "a b:81 c=10.0.0.3 d=x.example.com:82 e=[fd00::1]:83"})
    assert settings.coordinator_names == ["a", "b", "c", "d", "e"]
    places = [(one.host, one.port) for one in settings.coordinator_addresses]
    assert places == [
        ("a", 0),
        ("b", 81),
        ("10.0.0.3", 0),
        ("x.example.com", 82),
        ("[fd00::1]", 83),
    ]


@pytest.mark.parametrize(
    ("by", "url", "said"),
    [
        ("static", "", "COORDINATOR_DISCOVERY = static does not go without COORDINATORS"),
        ("nats", "http://h:1", "which asks nobody else"),
        ("etcd", "dns://", "for etcd write http:// or https://"),
    ],
)
def test_impossible_discovery_is_refused(by: str, url: str, said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        load({"COORDINATOR_DISCOVERY": by, "DISCOVERY_URL": url})


# --- what we ship --------------------------------------------------------------------


def test_the_shipped_file_has_every_setting_with_its_default() -> None:
    path = ROOT / "configs" / "swarm.toml"
    assert load({}, path) == Settings()
    keys = tomllib.loads(path.read_text("utf-8"))
    assert set(keys) == {setting.key for setting in SETTINGS}


def test_every_setting_of_the_shipped_file_is_explained() -> None:
    lines = (ROOT / "configs" / "swarm.toml").read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+ =", line):
            before = lines[number - 1]
            assert before.startswith("#") or re.match(r"\w+ =", before), line


def test_the_documentation_has_a_row_for_every_setting() -> None:
    text = (ROOT / "docs" / "settings.md").read_text("utf-8")
    documented = re.findall(r"^\| `([A-Z_]+)` \|(.*)\|$", text, re.MULTILINE)
    rows = {name: row.split("|") for name, row in documented}
    for setting in SETTINGS:
        assert setting.env in rows
        assert len(rows[setting.env]) == 5
        assert all(cell.strip() for cell in rows[setting.env])

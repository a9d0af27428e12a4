"""An example of every message, with as little and with as much as it can say.

`make.py` writes them into the golden files of a *new* version; what was written for an
earlier version is never changed.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct, structs

from swarm import messages as m

COMMAND = "0193d5c8-7a00-7b3e-9c41-5d2f8e6a1b70"
LATER = "0193d5c8-86c2-7f10-8a77-03c9d1e24f58"
SESSION = "s4f2a91c07d"
TOKEN = "2.9b0c4e7712.s4f2a91c07d"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
DONE_AT = 1733396400.25
ERROR = m.ErrorBody("stale_token", "this claim has ended; claim anew", True)

SPARSE_ITEM = m.NewItem("feature")
RICH_ITEM = m.NewItem(
    work_type="feature",
    description="Zähle die Wörter 🐝",
    priority="critical",
    team="core",
    labels={"lang": "py", "size": ""},
    story_points=5,
    payload=Raw(b'{"text":"so weit, so gut","n":[1,2.5,true,null]}'),
    dependencies=["3-1"],
    idempotency_key="words/7",
    lease_s=90.5,
    trace=TRACE,
    max_attempts=5,
    backoff_s=0.5,
    not_before=1733396350.0,
    deadline=1733482800.5,
    progress_s=600.0,
    on_dependency_failure="cancel",
)
SPARSE = Raw(b'{"work_type":"feature"}')
RICH = Raw(
    b'{"work_type":"feature","description":"say \\"hi\\"","priority":"low",'
    b'"payload":{"deep":[[{}]]}}'
)

# An item as its shard keeps it.
HOLD = m.Hold("ada", SESSION, 2, TOKEN, 1733396340.125, 30.0)
RICH_HOLD = m.Hold("ada", SESSION, 2, TOKEN, 1733396340.125, 90.5, 62.5, "half way")
END = m.End("completed", DONE_AT)
RICH_END = m.End("dead", DONE_AT, RICH_HOLD, Raw(b'{"words":2}'), "disk full", "quarantined")
PAUSE = m.Pause("blocked")
RICH_PAUSE = m.Pause("waiting", DONE_AT, Raw(b'{"approve":"budget"}'), 1733396350.5, "resume")
ASK = m.Ask("cancelled", DONE_AT)
RICH_ASK = m.Ask("dead", DONE_AT, "too late", "lisa")
ATTEMPT = m.Attempt(1, "ada", 1733396334.5, 1733396335.5, "lapsed")
RICH_ATTEMPT = m.Attempt(2, "bob", 1733396340.125, 1733396341.5, "failed", "disk full")
DEPENDENCY = m.Dependency()
RICH_DEPENDENCY = m.Dependency("completed", Raw(b'{"words":2}'), True)
RICH_STORY = m.Story(
    history=[ATTEMPT, RICH_ATTEMPT],
    deaths=1,
    checkpoint=Raw(b'{"page":7}'),
    waits=2,
    answer=Raw(b'{"approved":true}'),
    answered_by="lisa",
    ask=RICH_ASK,
    depends={"3-1": DEPENDENCY, "5-2": RICH_DEPENDENCY},
    dependents={"7-4": "", "7-5": "dead"},
    replays=1,
    replayed_by="lisa",
    replayed_at=1733396345.5,
)
SPARSE_STATE = m.Item(17, SPARSE, "feature", 2, 1733396333.5)
#: No item is held, ended and paused at once: every field, all the same.
RICH_STATE = m.Item(
    number=18,
    spec=RICH,
    work_type="feature",
    rank=0,
    submitted_at=1733396333.5,
    lease_s=90.5,
    fence=2,
    attempt=1,
    hold=RICH_HOLD,
    end=RICH_END,
    pause=RICH_PAUSE,
    story=RICH_STORY,
    seq=41,
)

SPARSE_WORK_ITEM = m.WorkItem("3-17", "feature", "queued", "medium", 1733396333.5)
RICH_WORK_ITEM = m.WorkItem(
    work_item_id="3-17",
    work_type="feature",
    status="completed",
    priority="critical",
    submitted_at=1733396333.5,
    description="Zähle die Wörter 🐝",
    team="core",
    labels={"lang": "py"},
    story_points=5,
    payload=Raw(b'{"text":"so weit"}'),
    idempotency_key="words/7",
    trace=TRACE,
    progress=100.0,
    note="half way",
    attempt=2,
    agent_id="ada",
    claimed_at=1733396340.125,
    finished_at=DONE_AT,
    result=Raw(b'{"words":2}'),
    error="was dead before",
    as_of=4711,
    version="0a1b2c3d",
    dependencies=["3-1"],
    not_before=1733396350.0,
    deadline=1733482800.5,
    max_attempts=5,
    until=DONE_AT,
    waits_for=Raw(b'{"approve":"budget"}'),
    waits=2,
    answer=Raw(b'{"approved":true}'),
    answered_by="lisa",
    checkpoint=Raw(b'{"page":7}'),
    cause="quarantined",
    history=[ATTEMPT, RICH_ATTEMPT],
    deaths=1,
    replays=1,
    ask=RICH_ASK,
    depends={"3-1": RICH_DEPENDENCY},
)
SPARSE_ASSIGNMENT = m.Assignment("3-17", TOKEN, 1, 30.0, SPARSE)
RICH_ASSIGNMENT = m.Assignment(
    work_item_id="3-18",
    token=TOKEN,
    attempt=2,
    lease_s=90.5,
    item=RICH,
    checkpoint=Raw(b'{"page":7}'),
    answer=Raw(b'{"approved":true}'),
    depends={"3-1": RICH_DEPENDENCY},
    waits=2,
    answered_by="lisa",
)
SPARSE_BEAT = m.Beat("coordinator-1", "5f6e7d8c9b", 1, 1)
RICH_BEAT = m.Beat(
    coordinator="coordinator-1",
    instance="5f6e7d8c9b",
    protocol=1,
    number=4096,
    sessions=12,
    agents_wanted=50,
    owns=[0, 3, 15],
    idle={"feature": 3, "review": 0},
    ready={"feature": 20},
    urgent={"feature": (3, 1764000120.5)},
    closed={"7": "swarmlog.7: entry 3 is ours but cannot be decoded"},
    draining=True,
    standby={"1": 0.25, "5": -1.0},
    leaving=True,
    storage=0.125,
    alarms=["the shared state is gone"],
    leads=3,
    cannot_lead="swarmlog.cluster: its stream is gone",
    map_version=2,
    rules_version=5,
    routed={"r5f6e7d8c": 17},
    http="coordinator-1:4000",
    told=4090,
    operations=1250.5,
    cpu=0.375,
    load={"0": (20, 1000.5), "15": (0, 250.0)},
    rounds=2,
    moved=5,
)
ROUTED_RULE = m.RuleRouted("feature", ["coordinator-1"])
RICH_ROUTED_RULE = m.RuleRouted(
    "doc*", ["coordinator-1", "coordinator-2"], 3, 17, 2, {"coordinator-2": 15, "coordinator-3": 2}
)
ROUTED = m.CoordinatorRouted("coordinator-2")
RICH_ROUTED = m.CoordinatorRouted(
    "coordinator-1", True, True, True, 12, 300, 7, 0.0025, "it is about to leave"
)
MAP = m.ShardMap(1, 16, "hash", "consistent_hash", ["coordinator-1", "coordinator-2"])
EARLIER = m.EarlierMap(DONE_AT, 1, 8)
FULL_MAP = structs.replace(
    MAP,
    version=2,
    pins={"coordinator-1": [0, 3]},
    accepts=12,
    began_with=8,
    earlier=[EARLIER],
)
RULES = m.RoutingRules(5, "Core Team -> coordinator-1:4000", "lisa", DONE_AT, "team")
CONFLICT = m.Conflict("rules", "version 4", "feature -> coordinator-1", "feature -> coordinator-2")
FULL_CONFLICT = structs.replace(CONFLICT, policy="timestamp", by="lisa", at=DONE_AT, count=3)
COUNTS = {"rules": {"log": 1, "timestamp": 3}}
MOVE = m.ShardMove(3, "coordinator-1", "coordinator-2")
ROUND = m.Round(2, DONE_AT, "coordinator-1 has 1.75", [MOVE], "no answer", 1.75, 1.25, 5)
CONTROLLED = m.Controlled(
    COMMAND, "rules", "lisa", Raw(b'{"command_id":"%s","rules_version":5}' % COMMAND.encode())
)
STATS = m.ShardStats(
    shard=3,
    coordinator="coordinator-1",
    epoch=2,
    as_of=4711,
    counts={"queued": 1, "claimed": 1, "completed": 15, "dead": 0},
    ready={"feature": 1},
    submitted=17,
    conservation=0,
    foreign=0,
)
USAGE = m.Usage(4711, 300.5, {"coordinator-2": 12}, {"coordinator-2": 3}, 1, 40, 25)
FULL_STATS = structs.replace(
    STATS,
    refused={"stale_token": 2},
    archived=14,
    first_seq=4096,
    log_bytes=1_048_576,
    live_bytes=65_536,
    walked_at=4700,
    usage=USAGE,
)
CREDIT = m.Credit("ada", SESSION, 2, ["feature"])

FULL_PROGRESSED = m.Progressed(17, 62.5, "half way", COMMAND, Raw(b'{"page":7}'))
ACCEPTED = m.Accepted(18, 2)
RICH_ACCEPTED = m.Accepted(18, 2, [0, 7], [(3, 17), (5, 4)], [5])
TAKEN = m.Taken(17, 2, "claim")

#: By class: with required fields only, and with every field other than its default.
EXAMPLES: dict[str, tuple[Struct, Struct]] = {
    "ErrorBody": (m.ErrorBody("no_work", "nothing is ready"), ERROR),
    # items
    "NewItem": (SPARSE_ITEM, RICH_ITEM),
    "Submit": (m.Submit([SPARSE]), m.Submit([SPARSE, RICH], COMMAND, 2)),
    "ShardSubmit": (
        m.ShardSubmit(COMMAND, [SPARSE], [0], 1),
        m.ShardSubmit(COMMAND, [SPARSE, RICH], [0, 7], 1, 2, [7]),
    ),
    "SubmitResult": (
        m.SubmitResult(0),
        m.SubmitResult(4, "3-17", m.ErrorBody("bad_request", "no priority", False)),
    ),
    "SubmitReply": (
        m.SubmitReply([]),
        m.SubmitReply([m.SubmitResult(0, "3-17"), m.SubmitResult(1, error=ERROR)], COMMAND),
    ),
    "Get": (m.Get("3-17"), m.Get("3-17", 25.5, "0a1b2c3d")),
    "Cancel": (
        m.Cancel(COMMAND, "3-17"),
        m.Cancel(COMMAND, "3-17", "not wanted any more", 2.5, 1),
    ),
    "Prioritize": (
        m.Prioritize(COMMAND, "3-17", "low"),
        m.Prioritize(COMMAND, "3-17", "critical", 1),
    ),
    "Retry": (m.Retry(COMMAND, "3-17"), m.Retry(COMMAND, "3-17", 1)),
    "Answer": (
        m.Answer(COMMAND, "3-17"),
        m.Answer(COMMAND, "3-17", Raw(b'{"approved":true}'), 2, 1),
    ),
    "List": (m.List(), m.List("queued", "feature", 500, 17)),
    "Stats": (m.Stats(), m.Stats()),
    "WorkItem": (SPARSE_WORK_ITEM, RICH_WORK_ITEM),
    "ItemPage": (m.ItemPage([]), m.ItemPage([SPARSE_WORK_ITEM, RICH_WORK_ITEM], 18, 4711, 900)),
    "Usage": (m.Usage(), USAGE),
    "ShardStats": (STATS, FULL_STATS),
    # agents
    "Claim": (m.Claim(COMMAND, ["feature"]), m.Claim(COMMAND, ["feature", "review"], 3600.0, 1)),
    "Recall": (m.Recall(COMMAND), m.Recall(COMMAND)),
    "Recalled": (m.Recalled([]), m.Recalled([0, 3], [3])),
    "Complete": (
        m.Complete(COMMAND, "3-17", TOKEN),
        m.Complete(COMMAND, "3-17", TOKEN, Raw(b'{"words":[2,{"a":"\\u00e4"}]}'), 1),
    ),
    "Fail": (
        m.Fail(COMMAND, "3-17", TOKEN),
        m.Fail(COMMAND, "3-17", TOKEN, "disk full", 1, 2.5, True),
    ),
    "Release": (
        m.Release(COMMAND, "3-17", TOKEN),
        m.Release(COMMAND, "3-17", TOKEN, "no free slot", 1, Raw(b'{"page":7}')),
    ),
    "Progress": (
        m.Progress(COMMAND, "3-17", TOKEN, 0.0),
        m.Progress(COMMAND, "3-17", TOKEN, 62.5, "half way", 1, Raw(b'{"page":7}')),
    ),
    "Wait": (
        m.Wait(COMMAND, "3-17", TOKEN, Raw(b'"an approval"')),
        m.Wait(
            COMMAND,
            "3-17",
            TOKEN,
            Raw(b'{"approve":"budget"}'),
            3600.5,
            "resume",
            Raw(b'{"page":7}'),
            1,
        ),
    ),
    "Renew": (m.Renew("3-17", TOKEN), m.Renew("3-17", TOKEN)),
    "Ack": (m.Ack(), m.Ack(COMMAND, "3-17", "claimed", 30.0, ERROR)),
    "Assignment": (SPARSE_ASSIGNMENT, RICH_ASSIGNMENT),
    "Next": (
        m.Next(SESSION, 1, 0),
        m.Next(
            SESSION,
            7,
            2,
            5,
            [
                m.Complete(COMMAND, "3-17", TOKEN, Raw(b"2")),
                m.Fail(LATER, "3-18", TOKEN, "boom"),
                m.Release(LATER, "3-19", TOKEN),
                m.Progress(LATER, "3-20", TOKEN, 10.0),
                m.Wait(LATER, "3-21", TOKEN, Raw(b'"an approval"')),
            ],
        ),
    ),
    "Work": (
        m.Work(),
        m.Work([SPARSE_ASSIGNMENT, RICH_ASSIGNMENT], [m.Ack(COMMAND, "3-17", "completed")]),
    ),
    "Control": (
        m.Control("reattach"),
        m.Control("cancel", "3-17", TOKEN, "not wanted any more", 2.5),
    ),
    "Attach": (m.Attach(["feature"]), m.Attach(["feature", "review"], 4, SESSION, True)),
    "Attached": (
        m.Attached(SESSION, "coordinator-1", 30.0, 5.0),
        m.Attached(SESSION, "coordinator-1", 30.0, 5.0),
    ),
    "Heartbeat": (
        m.Heartbeat(SESSION, "coordinator-1", 0, 1, ["feature"]),
        m.Heartbeat(SESSION, "coordinator-1", 8, 2, ["feature"], 5, [("3-17", TOKEN)], True),
    ),
    # coordinators among themselves
    "Beat": (SPARSE_BEAT, RICH_BEAT),
    "Credit": (CREDIT, CREDIT),
    "Borrow": (m.Borrow({}), m.Borrow({"feature": 20}, {"feature": 1.5})),
    "Lend": (m.Lend([], 2.0), m.Lend([CREDIT], 2.0)),
    "Attention": (
        m.Attention(SESSION, "coordinator-1"),
        m.Attention(SESSION, "coordinator-1", True, "s0c5d11ab9e"),
    ),
    "Watch": (m.Watch("3-17", "5-2"), m.Watch("3-17", "5-2")),
    "Watching": (m.Watching("3-17", "5-2"), m.Watching("3-17", "5-2")),
    "Outcome": (
        m.Outcome("3-17", "5-2", "cancelled"),
        m.Outcome("3-17", "5-2", "completed", Raw(b'{"words":2}'), True),
    ),
    "Heard": (m.Heard("3-17", "5-2", "dead"), m.Heard("3-17", "5-2", "dead")),
    "Handoff": (m.Handoff(3, 2, 4711), m.Handoff(3, 2, 4711, True)),
    "HandoffReply": (m.HandoffReply(3, 4711), m.HandoffReply(3, 4711, 3)),
    "Move": (m.Move(3), m.Move(3, "coordinator-2")),
    "Moved": (m.Moved(3, "coordinator-2"), m.Moved(3, "coordinator-2")),
    "Gone": (m.Gone("coordinator-1", "coordinator-2"), m.Gone("coordinator-1", "coordinator-2")),
    "ShardMap": (MAP, FULL_MAP),
    "Probe": (m.Probe(), m.Probe("r5f6e7d8c")),
    "Pulse": (
        m.Pulse("coordinator-1", "5f6e7d8c9b", True),
        m.Pulse("coordinator-1", "5f6e7d8c9b", False, "it is about to leave"),
    ),
    "Routes": (m.Routes(), m.Routes()),
    "RuleRouted": (ROUTED_RULE, RICH_ROUTED_RULE),
    "CoordinatorRouted": (ROUTED, RICH_ROUTED),
    "RoutingReport": (
        m.RoutingReport("r5f6e7d8c", "least_connections", False, "work_type"),
        m.RoutingReport(
            "r5f6e7d8c",
            "round_robin",
            True,
            "team",
            7,
            [ROUTED_RULE, RICH_ROUTED_RULE],
            5,
            1,
            [ROUTED, RICH_ROUTED],
            "lisa",
            DONE_AT,
        ),
    ),
    "Describe": (m.Describe(), m.Describe()),
    "Description": (
        m.Description("swarm", 1, MAP, []),
        m.Description("swarm", 1, MAP, [SPARSE_BEAT, RICH_BEAT]),
    ),
    # the cluster
    "RoutingRules": (m.RoutingRules(0), RULES),
    "Conflict": (CONFLICT, FULL_CONFLICT),
    "SetRules": (m.SetRules(""), m.SetRules(RULES.text, COMMAND, 4, 1, "team", "high")),
    "TellConflict": (m.TellConflict([]), m.TellConflict([CONFLICT, FULL_CONFLICT], COMMAND, 1)),
    "EarlierMap": (EARLIER, m.EarlierMap(DONE_AT, 1, 8, 4, {"coordinator-1": [0]})),
    "Resize": (m.Resize(32), m.Resize(32, COMMAND, 1, 2, "critical")),
    "KnownReply": (
        m.KnownReply([]),
        m.KnownReply([m.SubmitResult(0, "3-17"), m.SubmitResult(3, error=ERROR)], DONE_AT),
    ),
    "ControlReply": (m.ControlReply(COMMAND), m.ControlReply(COMMAND, 2, 5)),
    "Look": (m.Look(), m.Look()),
    "ClusterView": (
        m.ClusterView("coordinator-1", 3, 17, MAP, m.RoutingRules(0)),
        m.ClusterView("coordinator-1", 3, 17, FULL_MAP, RULES, [FULL_CONFLICT], COUNTS, ROUND),
    ),
    "MapChanged": (m.MapChanged(MAP), m.MapChanged(FULL_MAP)),
    "RulesSet": (m.RulesSet(RULES), m.RulesSet(RULES)),
    "ConflictNoted": (m.ConflictNoted(CONFLICT), m.ConflictNoted(FULL_CONFLICT)),
    "ShardMove": (MOVE, MOVE),
    "Round": (m.Round(), ROUND),
    "Rebalanced": (m.Rebalanced(m.Round()), m.Rebalanced(ROUND)),
    "Controlled": (m.Controlled(COMMAND, "rules", "lisa"), CONTROLLED),
    "Stated": (
        m.Stated(),
        m.Stated(FULL_MAP, RULES, [FULL_CONFLICT], COUNTS, [(DONE_AT, CONTROLLED)], 1, ROUND),
    ),
    # the log
    "Opened": (m.Opened("coordinator-1"), m.Opened("coordinator-1")),
    "Submitted": (
        m.Submitted(COMMAND, 1, [SPARSE]),
        m.Submitted(COMMAND, 18, [SPARSE, RICH], [0, 7], [(3, 17), (5, 4)], [5]),
    ),
    "Claimed": (
        m.Claimed(17, 2, "ada", SESSION),
        m.Claimed(17, 2, "ada", SESSION, 90.5, COMMAND),
    ),
    "Progressed": (m.Progressed(17, 0.0), FULL_PROGRESSED),
    "Completed": (m.Completed(17, 2), m.Completed(17, 2, COMMAND, Raw(b'{"words":2}'))),
    "Died": (m.Died(17, 2), m.Died(17, 2, "disk full", COMMAND, "expired")),
    "Retried": (m.Retried(17, 2, DONE_AT), m.Retried(17, 2, DONE_AT, "disk full", COMMAND)),
    "Released": (
        m.Released(17, 2, "lapsed"),
        m.Released(17, 2, "agent", "no free slot", COMMAND, Raw(b'{"page":7}')),
    ),
    "Waited": (
        m.Waited(17, 2, Raw(b'"an approval"')),
        m.Waited(
            17, 2, Raw(b'{"approve":"budget"}'), DONE_AT, "resume", Raw(b'{"page":7}'), COMMAND
        ),
    ),
    "Answered": (
        m.Answered(17),
        m.Answered(17, Raw(b'{"approved":true}'), "lisa", COMMAND),
    ),
    "Due": (m.Due([17]), m.Due([17, 18])),
    "Asked": (
        m.Asked(17, DONE_AT),
        m.Asked(17, DONE_AT, "dead", "too late", "lisa", COMMAND),
    ),
    "Cancelled": (
        m.Cancelled(17, 2),
        m.Cancelled(17, 2, "not wanted any more", "lisa", COMMAND),
    ),
    "Prioritized": (m.Prioritized(17, "low"), m.Prioritized(17, "critical", COMMAND)),
    "Replayed": (m.Replayed(17), m.Replayed(17, "lisa", COMMAND)),
    "Watched": (m.Watched(17, "5-2"), m.Watched(17, "5-2")),
    "Told": (m.Told(17, "5-2", "completed"), m.Told(17, "5-2", "completed")),
    "Resolved": (
        m.Resolved(17, "5-2", "cancelled"),
        m.Resolved(17, "5-2", "completed", Raw(b'{"words":2}'), True),
    ),
    "Archived": (m.Archived([17]), m.Archived([17, 18])),
    "Copied": (
        m.Copied([17], [Raw(msgspec.json.encode(SPARSE_STATE))]),
        m.Copied([17, 18], [Raw(msgspec.json.encode(one)) for one in (SPARSE_STATE, RICH_STATE)]),
    ),
    "Remembered": (
        m.Remembered(DONE_AT, 2686976),
        m.Remembered(
            DONE_AT,
            2686977,
            [(COMMAND, RICH_ACCEPTED), (LATER, TAKEN)],
            [("words/7", m.Keyed(17, 4711)), ("words/8", m.Keyed(18))],
        ),
    ),
    "Marked": (
        m.Marked(41, 19, 18),
        m.Marked(41, 19, 18, {"completed": 15, "dead": 1}, {"completed": 14}, 1733396333500),
    ),
    # the state of an item
    "Hold": (HOLD, RICH_HOLD),
    "End": (END, RICH_END),
    "Pause": (PAUSE, RICH_PAUSE),
    "Ask": (ASK, RICH_ASK),
    "Attempt": (ATTEMPT, RICH_ATTEMPT),
    "Dependency": (DEPENDENCY, RICH_DEPENDENCY),
    "Story": (m.Story(), RICH_STORY),
    "Item": (SPARSE_STATE, RICH_STATE),
    "Finished": (m.Finished(3, []), m.Finished(3, [SPARSE_STATE, RICH_STATE])),
    "Accepted": (ACCEPTED, RICH_ACCEPTED),
    "Taken": (TAKEN, TAKEN),
    "Keyed": (m.Keyed(17), m.Keyed(17, 4711)),
    "ClusterEntry": (
        m.ClusterEntry(1, "i0d9c8b7a6f", 1, "9b0c4e7712", 0, 0, 1, 1733396333.5, []),
        m.ClusterEntry(
            2, "i0d9c8b7a6f", 2, "9b0c4e7712", 7, 41, 1, DONE_AT, [m.Opened("coordinator-1")]
        ),
    ),
    "LogEntry": (
        m.LogEntry(1, "i0d9c8b7a6f", 1, "9b0c4e7712", 0, 0, 1, 1733396333.5, []),
        m.LogEntry(
            2,
            "i0d9c8b7a6f",
            2,
            "9b0c4e7712",
            7,
            41,
            1,
            DONE_AT,
            [m.Opened("coordinator-1"), m.Died(17, 2), m.Released(18, 1, "unlisted")],
        ),
    ),
}

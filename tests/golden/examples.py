"""An example of every message, with as little and with as much as it can say.

`make.py` writes them into the golden files of a *new* version; what was written for an
earlier version is never changed.
"""

from __future__ import annotations

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
)
SPARSE = Raw(b'{"work_type":"feature"}')
RICH = Raw(
    b'{"work_type":"feature","description":"say \\"hi\\"","priority":"low",'
    b'"payload":{"deep":[[{}]]}}'
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
)
SPARSE_ASSIGNMENT = m.Assignment("3-17", TOKEN, 1, 30.0, SPARSE)
RICH_ASSIGNMENT = m.Assignment("3-18", TOKEN, 2, 90.5, RICH)
SPARSE_BEAT = m.Beat("coordinator-1", "5f6e7d8c9b", 1, 1)
RICH_BEAT = m.Beat(
    coordinator="coordinator-1",
    instance="5f6e7d8c9b",
    protocol=1,
    number=4096,
    sessions=12,
    owns=[0, 3, 15],
    idle={"feature": 3, "review": 0},
    ready={"feature": 20},
    closed={"7": "swarmlog.7: entry 3 is ours but cannot be decoded"},
    draining=True,
    standby={"1": 0.25, "5": -1.0},
)
MAP = m.ShardMap(1, 16, "hash", "consistent_hash", ["coordinator-1", "coordinator-2"])
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
CREDIT = m.Credit("ada", SESSION, 2, ["feature"])

#: By class: with required fields only, and with every field other than its default.
EXAMPLES: dict[str, tuple[Struct, Struct]] = {
    "ErrorBody": (m.ErrorBody("no_work", "nothing is ready"), ERROR),
    # items
    "NewItem": (SPARSE_ITEM, RICH_ITEM),
    "Submit": (m.Submit([SPARSE]), m.Submit([SPARSE, RICH], COMMAND, 2)),
    "ShardSubmit": (
        m.ShardSubmit(COMMAND, [SPARSE], [0], 1),
        m.ShardSubmit(COMMAND, [SPARSE, RICH], [0, 7], 1, 2),
    ),
    "SubmitResult": (
        m.SubmitResult(0),
        m.SubmitResult(4, "3-17", m.ErrorBody("bad_request", "no priority", False)),
    ),
    "SubmitReply": (
        m.SubmitReply([]),
        m.SubmitReply([m.SubmitResult(0, "3-17"), m.SubmitResult(1, error=ERROR)], COMMAND),
    ),
    "Get": (m.Get("3-17"), m.Get("3-17", 25.5)),
    "List": (m.List(), m.List("queued", "feature", 500, 17)),
    "Stats": (m.Stats(), m.Stats()),
    "WorkItem": (SPARSE_WORK_ITEM, RICH_WORK_ITEM),
    "ItemPage": (m.ItemPage([]), m.ItemPage([SPARSE_WORK_ITEM, RICH_WORK_ITEM], 18, 4711)),
    "ShardStats": (STATS, structs.replace(STATS, refused={"stale_token": 2})),
    # agents
    "Claim": (m.Claim(COMMAND, ["feature"]), m.Claim(COMMAND, ["feature", "review"], 3600.0, 1)),
    "Complete": (
        m.Complete(COMMAND, "3-17", TOKEN),
        m.Complete(COMMAND, "3-17", TOKEN, Raw(b'{"words":[2,{"a":"\\u00e4"}]}'), 1),
    ),
    "Fail": (m.Fail(COMMAND, "3-17", TOKEN), m.Fail(COMMAND, "3-17", TOKEN, "disk full", 1)),
    "Release": (
        m.Release(COMMAND, "3-17", TOKEN),
        m.Release(COMMAND, "3-17", TOKEN, "no free slot", 1),
    ),
    "Progress": (
        m.Progress(COMMAND, "3-17", TOKEN, 0.0),
        m.Progress(COMMAND, "3-17", TOKEN, 62.5, "half way", 1),
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
            ],
        ),
    ),
    "Work": (
        m.Work(),
        m.Work([SPARSE_ASSIGNMENT, RICH_ASSIGNMENT], [m.Ack(COMMAND, "3-17", "completed")]),
    ),
    "Control": (
        m.Control("reattach"),
        m.Control("stop", "3-17", TOKEN, "this claim has ended"),
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
    "Borrow": (m.Borrow({}), m.Borrow({"feature": 20})),
    "Lend": (m.Lend([], 2.0), m.Lend([CREDIT], 2.0)),
    "Attention": (
        m.Attention(SESSION, "coordinator-1"),
        m.Attention(SESSION, "coordinator-1", True, "s0c5d11ab9e"),
    ),
    "Gone": (m.Gone("coordinator-1", "coordinator-2"), m.Gone("coordinator-1", "coordinator-2")),
    "ShardMap": (MAP, MAP),
    "Describe": (m.Describe(), m.Describe()),
    "Description": (
        m.Description("swarm", 1, MAP, []),
        m.Description("swarm", 1, MAP, [SPARSE_BEAT, RICH_BEAT]),
    ),
    # the log
    "Opened": (m.Opened("coordinator-1"), m.Opened("coordinator-1")),
    "Submitted": (
        m.Submitted(COMMAND, 1, [SPARSE]),
        m.Submitted(COMMAND, 18, [SPARSE, RICH], [0, 7], [(3, 17)]),
    ),
    "Claimed": (
        m.Claimed(17, 2, "ada", SESSION),
        m.Claimed(17, 2, "ada", SESSION, 90.5, COMMAND),
    ),
    "Progressed": (m.Progressed(17, 0.0), m.Progressed(17, 62.5, "half way", COMMAND)),
    "Completed": (m.Completed(17, 2), m.Completed(17, 2, COMMAND, Raw(b'{"words":2}'))),
    "Died": (m.Died(17, 2), m.Died(17, 2, "disk full", COMMAND)),
    "Released": (
        m.Released(17, 2, "lapsed"),
        m.Released(17, 2, "agent", "no free slot", COMMAND),
    ),
    "LogEntry": (
        m.LogEntry(1, "i0d9c8b7a6f", 1, "9b0c4e7712", 0, 0, 1, 1733396333.5, []),
        m.LogEntry(
            1,
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

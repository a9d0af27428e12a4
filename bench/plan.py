"""What is measured: systems, workloads, and what a session's processes are told."""

from __future__ import annotations

from msgspec import Struct

#: Items in one submit request.
BATCH = 1000
#: Submit requests that wait for an answer at the same time.
BATCHES_IN_FLIGHT = 4
#: Consumers of the plain work queue that fetch one message, and that fetch a hundred.
PLAIN_CONSUMERS = 32
PLAIN_CONSUMERS_TENS = 4
PLAIN_FETCH = 100
#: Its unanswered publishes.  More are no faster; but with thousands the server answers
#: whole thousands at once, and the clock would start too late.
PLAIN_PENDING = 256
#: The limit loop with 200 agents must reach this many times the plain rate, on each server.
LIMIT_OVER_PLAIN_MIN = 2.2
#: A session that has not ended after this long has failed.
SESSION_S = 90.0

#: 91 bytes with a number of four digits.  Every batch holds the same 1,000 of them: no
#: system looks at the id inside, each gives ids of its own.
ITEMS: tuple[bytes, ...] = tuple(
    b'{"id":"work_%d","work_type":"feature","description":"Implement caching for coordinator"}'
    % (1000 + number)
    for number in range(BATCH)
)
WORK_TYPE = "feature"


class System(Struct, frozen=True):
    """One of the systems measured side by side."""

    name: str
    #: Module of its processes.
    module: str
    shards: int
    title: str


class Workload(Struct, frozen=True):
    """What is done with the queue."""

    name: str
    #: 0: submit only.
    agents: int
    #: Items that an agent holds, and completes in one message.
    slots: int
    title: str


PLAIN = System("plain", "bench.plain", 1, "plain nats-py")
LIMIT = System("limit", "bench.limit_loop", 1, "limit loop")
OURS = System("ours", "bench.ours", 1, "ours, 1 shard")
OURS_16 = System("ours16", "bench.ours", 16, "ours, 16 shards")
SYSTEMS: tuple[System, ...] = (PLAIN, LIMIT, OURS, OURS_16)

SUBMIT = Workload("submit", 0, 0, "submit, 1,000 a request")
ONE_10 = Workload("one_10", 10, 1, "claim + complete one at a time, 10 agents")
ONE_200 = Workload("one_200", 200, 1, "claim + complete one at a time, 200 agents")
ONE_1000 = Workload("one_1000", 1000, 1, "claim + complete one at a time, 1,000 agents")
#: The plain queue beside it fetches a hundred at a time and does not wait for its acks.
TENS = Workload("tens_100", 100, 10, "claim + complete in tens, 100 agents")
WORKLOADS: tuple[Workload, ...] = (SUBMIT, ONE_10, ONE_200, ONE_1000, TENS)

#: How nats-server writes: before every acknowledgement, as `swarm up` has it, or NATS's own
#: default, every two minutes.
SYNC = "sync"
NO_SYNC = "nosync"
SERVERS = {SYNC: "sync_interval: always", NO_SYNC: "sync_interval: 2m (NATS's default)"}

#: Who takes part in what, in this order.  The plain queue knows no agents: its consumers
#: stand beside the 200 (fetch of one, confirmed) and the tens (fetch of a hundred).
_WITH_PLAIN = (PLAIN, LIMIT, OURS, OURS_16)
MATRIX: tuple[tuple[Workload, str, tuple[System, ...]], ...] = (
    (SUBMIT, SYNC, _WITH_PLAIN),
    (SUBMIT, NO_SYNC, (LIMIT, OURS)),
    (ONE_10, SYNC, (LIMIT, OURS)),
    (ONE_200, SYNC, _WITH_PLAIN),
    (ONE_200, NO_SYNC, _WITH_PLAIN),
    (ONE_1000, SYNC, (LIMIT, OURS)),
    (TENS, SYNC, (PLAIN, LIMIT, OURS)),
    (TENS, NO_SYNC, (PLAIN, LIMIT, OURS)),
)
QUICK_MATRIX: tuple[tuple[Workload, str, tuple[System, ...]], ...] = (
    (SUBMIT, SYNC, (LIMIT, OURS)),
    (ONE_200, SYNC, _WITH_PLAIN),
    (ONE_200, NO_SYNC, (PLAIN, OURS)),
    (TENS, SYNC, (PLAIN, OURS)),
)


class Job(Struct):
    """What the processes of one session are told."""

    url: str
    #: Of every subject and stream: each session has its own.
    prefix: str
    shards: int
    agents: int
    slots: int
    #: Items in all.
    items: int
    #: The clock starts when this many are done; the rest is measured.
    warm: int
    #: Processes whose CPU time is read at the clock's start and end, by role.
    pids: dict[str, int] = {}
    #: Of a load on a schedule: submissions a second.
    rate: float = 0.0
    #: Items that stay queued while others are worked on.
    queued: int = 0
    #: How long something is watched that does nothing.
    seconds: float = 0.0
    #: NATS connections that hosted agents share.
    connections: int = 1
    #: Swarms that share the load, where it is spread over several.
    swarms: int = 1


class Measured(Struct):
    """What the load process reports, last line of its output."""

    #: Items between the clock's start and end, and the time between.
    items: int
    seconds: float
    #: CPU seconds in that time, by role; empty where the system does not tell.
    cpu_s: dict[str, float]
    #: Counts that were compared with what they must be.
    checked: dict[str, int]
    #: Worth knowing, never wrong: messages sent, requests repeated.
    noted: dict[str, int] = {}
    #: Whatever else was measured, names ending in their unit.
    figures: dict[str, float] = {}

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.seconds if self.seconds else 0.0

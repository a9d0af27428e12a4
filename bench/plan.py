"""What is measured: systems, workloads, and what a session's processes are told."""

from __future__ import annotations

from msgspec import Struct

#: Items in one submit request.
BATCH = 1000
#: Submit requests that wait for an answer at the same time.
BATCHES_IN_FLIGHT = 4
#: Consumers of the plain work queue.
PLAIN_CONSUMERS = 32
#: Its unanswered publishes.  More are no faster; but with thousands the server answers
#: whole thousands at once, and the clock would start too late.
PLAIN_PENDING = 256
#: The limit loop with 200 agents must reach this many times the plain rate.
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
ONE_200 = Workload("one_200", 200, 1, "claim + complete one at a time, 200 agents")
WORKLOADS: tuple[Workload, ...] = (
    SUBMIT,
    Workload("one_10", 10, 1, "claim + complete one at a time, 10 agents"),
    ONE_200,
    Workload("one_1000", 1000, 1, "claim + complete one at a time, 1,000 agents"),
    Workload("tens_100", 100, 10, "claim + complete in tens, 100 agents"),
)
QUICK_WORKLOADS: tuple[Workload, ...] = (SUBMIT, ONE_200, WORKLOADS[-1])


def systems_of(workload: Workload, quick: bool) -> list[System]:
    """Who takes part, in this order.

    The plain queue knows no agents: its consumers stand beside the 200.  A quick run
    shows all systems once, and the other workloads with those that are compared.
    """
    if workload == ONE_200:
        return list(SYSTEMS)
    if quick:
        return [LIMIT, OURS]
    return [system for system in SYSTEMS if system != PLAIN or workload == SUBMIT]


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

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.seconds

"""Free slots of agent sessions, as one coordinator knows them.

A session's agent says how many slots it has free and how many assignments it has
received; what was sent and not yet received is on its way and takes a slot.  Should an
assignment be lost, its slot comes back once nothing has been sent for `SETTLE_S`.
An agent that gets more than it can take hands it back at once, so this bookkeeping
only has to be nearly right; no item depends on it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping

from msgspec import Struct

from swarm.messages import Credit

#: After this long without sending anything, what is still on its way counts as lost.
SETTLE_S = 5.0

#: Whose work free slots are for: first that of the shards of the coordinator where they are;
#: anybody's alike; only that of those shards.
SHARD_AFFINITIES = ("local", "none", "strict")
#: Slots that our own shards take, while they have work, for each one that goes to a peer.
OWN_TURNS = {"local": 3, "none": 1, "strict": 1}

Key = tuple[str, str]


class Slots(Struct):
    """One session: of an agent attached here, or lent by another coordinator."""

    agent: str
    session: str
    work_types: tuple[str, ...]
    free: int = 0
    #: Highest number heard: an older statement arriving late is ignored.
    number: int = -1
    #: Assignments sent to the session, slots lent included.
    sent: int = 0
    sent_at: float = 0.0
    #: Assignments that the agent had received when it was last heard of.
    received: int = 0
    heard_at: float = 0.0
    #: When lent slots are dropped; None for a session attached here.
    expires_at: float | None = None
    #: The coordinator that lent them.
    lender: str = ""
    #: Tells a session apart, and its lent slots from its own.
    key: Key = ("", "")

    def __post_init__(self) -> None:
        lent = self.expires_at is not None
        self.key = (self.agent, self.session + "~lent" if lent else self.session)


class Wish(Struct):
    """Another coordinator asked for slots that were not free then."""

    coordinator: str
    slots: int
    expires_at: float


class CreditPool:
    """All sessions of a coordinator, and who waits for work of which type.

    `own_turns`: see `OWN_TURNS`.
    """

    def __init__(self, own_turns: int = 1) -> None:
        assert own_turns >= 1, "our own shards would starve"
        self._own_turns = own_turns
        self.sessions: dict[Key, Slots] = {}
        #: Attached sessions by agent.
        self._of_agent: dict[str, dict[str, None]] = {}
        self._lent: dict[Key, Slots] = {}
        self._waiting: dict[str, OrderedDict[Key, Slots]] = {}
        #: Attached sessions by work type.
        self.served: dict[str, int] = {}
        self._wishes: dict[str, deque[Wish]] = {}
        #: By type: of the next free slots, those that are ours, since the last one that went
        #: to a wish.
        self._owed: dict[str, int] = {}
        #: Free slots that wishes leave to our own shards, until those take them.
        self._kept: dict[str, int] = {}
        #: Slots that items of our own shards have taken, by type.
        self.taken: dict[str, int] = {}

    # --- sessions -----------------------------------------------------------------

    def attach(self, agent: str, session: str, work_types: Iterable[str], now: float) -> Slots:
        """A session is attached here; an existing one keeps what is known of it."""
        known = self.sessions.get((agent, session))
        if known is not None:
            known.heard_at = now
            return known
        slots = Slots(agent, session, tuple(dict.fromkeys(work_types)), heard_at=now)
        self.sessions[agent, session] = slots
        self._of_agent.setdefault(agent, {})[session] = None
        for work_type in slots.work_types:
            self.served[work_type] = self.served.get(work_type, 0) + 1
        return slots

    def detach(self, agent: str, session: str) -> None:
        """The session is gone; what it holds is a matter of its leases."""
        slots = self.sessions.pop((agent, session), None)
        if slots is None:
            return
        sessions = self._of_agent[agent]
        del sessions[session]
        if not sessions:
            del self._of_agent[agent]
        self._set_free(slots, 0)
        for work_type in slots.work_types:
            self.served[work_type] -= 1
            if not self.served[work_type]:
                del self.served[work_type]
                self._forget(work_type)

    def of_agent(self, agent: str) -> list[str]:
        """Sessions of this agent id that are attached here."""
        return list(self._of_agent.get(agent, ()))

    def update(self, slots: Slots, number: int, stated: int, received: int, now: float) -> None:
        """The agent states its free slots and what it has received."""
        slots.heard_at = now
        if number < slots.number:
            return
        if slots.number < 0 or received > slots.sent or now - slots.sent_at > SETTLE_S:
            slots.sent = received
        slots.number, slots.received = number, received
        self._set_free(slots, max(0, stated - (slots.sent - received)))

    def silent(self, now: float, silent_s: float) -> list[Key]:
        """Sessions that were not heard of for longer than `silent_s`."""
        return [key for key, slots in self.sessions.items() if now - slots.heard_at > silent_s]

    # --- giving work -----------------------------------------------------------------

    def wanted(self, work_types: Iterable[str]) -> list[str]:
        """Those of `work_types` for which a slot is free."""
        return [work_type for work_type in work_types if self._waiting.get(work_type)]

    def has_free(self, work_type: str) -> bool:
        """Whether a slot is free for this type."""
        return bool(self._waiting.get(work_type))

    def waiting(self) -> list[str]:
        """Types for which a slot is free."""
        return [work_type for work_type, slots in self._waiting.items() if slots]

    def longest_waiting(self, work_type: str) -> Slots | None:
        """The session that has waited longest for this type, with a free slot."""
        waiting = self._waiting.get(work_type)
        return next(iter(waiting.values())) if waiting else None

    def take(self, work_type: str, now: float) -> Slots | None:
        """Use one slot of the session that has waited longest for this type."""
        # As `longest_waiting`, spelled out for every item that is claimed.
        waiting = self._waiting.get(work_type)
        if not waiting:
            return None
        slots = next(iter(waiting.values()))
        if self._kept and slots.expires_at is None:
            kept = self._kept.get(work_type)
            if kept:
                self._kept[work_type] = kept - 1
        self.taken[work_type] = self.taken.get(work_type, 0) + 1
        self._use(slots, now)
        return slots

    def _use(self, slots: Slots, now: float) -> None:
        free = slots.free - 1
        slots.sent += 1
        slots.sent_at = now
        self._set_free(slots, free)
        if free:
            for other in slots.work_types:
                self._waiting[other].move_to_end(slots.key)

    # --- moving slots between coordinators -------------------------------------------

    def lend(self, work_type: str, slots_max: int, now: float) -> list[Credit]:
        """Take up to `slots_max` free slots of this type away, to be used by a peer.

        Borrowed ones stay: a slot lent on and on would never be missed at its home.
        """
        lent: dict[Key, Credit] = {}
        for _ in range(slots_max):
            slots = self._longest_waiting_here(work_type)
            if slots is None:
                break
            self._use(slots, now)
            key = (slots.agent, slots.session)
            count = lent[key].slots + 1 if key in lent else 1
            lent[key] = Credit(slots.agent, slots.session, count, list(slots.work_types))
        return list(lent.values())

    def _longest_waiting_here(self, work_type: str) -> Slots | None:
        for slots in (self._waiting.get(work_type) or {}).values():
            if slots.expires_at is None:
                return slots
        return None

    def borrowed(self, credit: Credit, expires_at: float, lender: str = "") -> None:
        """`lender` moved this credit here, until `expires_at`."""
        if credit.slots < 1:
            return
        key = (credit.agent, credit.session)
        slots = self._lent.get(key)
        if slots is None:
            types = tuple(credit.work_types)
            slots = Slots(credit.agent, credit.session, types, expires_at=expires_at)
            self._lent[key] = slots
        slots.expires_at, slots.lender = expires_at, lender
        self._set_free(slots, slots.free + credit.slots)

    def unused(self, ready: Mapping[str, int]) -> dict[str, list[Credit]]:
        """Borrowed slots that nothing in `ready` (by work type) can use, taken away, by lender.

        At home they serve the next item at once.  Dropped here, they would be missed
        there until the agent's heartbeat has told that nothing is on its way.
        """
        unused: dict[str, list[Credit]] = {}
        for slots in list(self._lent.values()):
            if any(ready.get(work_type) for work_type in slots.work_types):
                continue
            types = list(slots.work_types)
            credit = Credit(slots.agent, slots.session, slots.free, types)
            unused.setdefault(slots.lender, []).append(credit)
            self._set_free(slots, 0)
        return unused

    def returned(self, credit: Credit) -> None:
        """A peer had no use for slots lent to it; those of a session gone since are dropped."""
        slots = self.sessions.get((credit.agent, credit.session))
        if slots is None:
            return
        # What the agent has spoken of since is counted already.
        count = min(credit.slots, slots.sent - slots.received)
        if count > 0:
            slots.sent -= count
            self._set_free(slots, slots.free + count)

    def expire(self, now: float) -> None:
        """Drop borrowed slots and wishes whose time is over."""
        for slots in list(self._lent.values()):
            if slots.expires_at is not None and slots.expires_at < now:
                self._set_free(slots, 0)
        for work_type, wishes in self._wishes.items():
            if any(wish.expires_at < now for wish in wishes):
                self._wishes[work_type] = deque(w for w in wishes if w.expires_at >= now)

    def wish(self, work_type: str, coordinator: str, slots: int, expires_at: float) -> None:
        """A peer wants slots that are all busy now: it gets every second one to come free."""
        if work_type not in self.served:
            return
        wishes = self._wishes.setdefault(work_type, deque())
        known = next((wish for wish in wishes if wish.coordinator == coordinator), None)
        if slots < 1:
            if known is not None:
                wishes.remove(known)
        elif known is not None:
            known.slots, known.expires_at = slots, expires_at
        else:
            wishes.append(Wish(coordinator, slots, expires_at))

    def grant(
        self, work_type: str, ready_here: bool, now: float
    ) -> tuple[str, list[Credit]] | None:
        """The peer that the next free slot goes to, with the slot; None: it is ours.

        While both have work, one slot goes to a peer after `own_turns` for our own shards,
        so that no item waits for ever because its shard is elsewhere.
        """
        wishes = self._wishes.get(work_type)
        while wishes and wishes[0].expires_at < now:
            wishes.popleft()
        if not wishes:
            return None
        free = self._free(work_type)
        kept = min(self._kept.get(work_type, 0), free) if ready_here else 0
        if ready_here:
            owed = self._owed.get(work_type, 0)
            more = min(owed, free - kept)
            self._owed[work_type] = owed - more
            kept += more
        self._kept[work_type] = kept
        if free <= kept:
            return None
        self._owed[work_type] = self._own_turns
        wish = wishes.popleft()
        wish.slots -= 1
        if wish.slots:
            wishes.append(wish)
        return wish.coordinator, self.lend(work_type, 1, now)

    def wished(self) -> list[str]:
        """Types for which peers wait."""
        return [work_type for work_type, wishes in self._wishes.items() if wishes]

    def idle(self) -> dict[str, int]:
        """Free slots by type, of sessions attached here; 0 where all are busy."""
        return {work_type: self._free(work_type) for work_type in self.served}

    # ------------------------------------------------------------------------------------

    def _set_free(self, slots: Slots, free: int) -> None:
        assert free >= 0, f"{slots.key} has {free} free slots"
        had, slots.free = slots.free, free
        # Who has free slots waits; who had some keeps its place.
        if free and not had:
            for work_type in slots.work_types:
                waiting = self._waiting.get(work_type)
                if waiting is None:
                    waiting = self._waiting[work_type] = OrderedDict()
                waiting[slots.key] = slots
        elif had and not free:
            for work_type in slots.work_types:
                del self._waiting[work_type][slots.key]
            if slots.expires_at is not None:
                self._used_up(slots)

    def _used_up(self, lent: Slots) -> None:
        """Nothing is left of what a peer lent."""
        del self._lent[lent.agent, lent.session]
        for work_type in lent.work_types:
            if work_type not in self.served:
                self._forget(work_type)

    def _free(self, work_type: str) -> int:
        """Free slots of attached sessions for this type."""
        waiting = self._waiting.get(work_type, OrderedDict())
        return sum(slots.free for slots in waiting.values() if slots.expires_at is None)

    def _forget(self, work_type: str) -> None:
        """Nobody attached here serves this type any more."""
        assert not self._free(work_type), "free slots are those of sessions"
        self._wishes.pop(work_type, None)
        self._owed.pop(work_type, None)
        self._kept.pop(work_type, None)
        if not self._waiting.get(work_type):
            self._waiting.pop(work_type, None)

"""Moving free slots between coordinators: to where work is ready and nobody free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

import msgspec
import structlog

from swarm.actors.ownership import Ownership
from swarm.actors.requests import decode_body
from swarm.actors.sending import Outgoing
from swarm.actors.surroundings import Surroundings
from swarm.bus.base import Message
from swarm.core.membership import Members
from swarm.core.syncing import UNTOLD
from swarm.core.turnover import Turnover, waits_longer
from swarm.messages import Beat, Borrow, Credit, Lend

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode
_borrow = msgspec.json.Decoder(Borrow)
_lend = msgspec.json.Decoder(Lend)

#: Most slots of one type that one request asks for.
LEND_MAX = 64
#: Lent slots that are not used by then go back.
LEND_S = 2.0
#: So many slots were offered to a peer that has given some back: it lacks none.
ENOUGH = 1_000_000_000
#: Between two times of asking for the same, while nobody gives any: doubled each time up to the
#: longest.  Wishes are kept for longer.
SEEK_S = 0.1
SEEK_LONGEST_S = LEND_S / 2


class Lending:
    """The part of a coordinator that borrows and lends free slots.

    Not while it hears nothing: its agents may have attached elsewhere, and their slots are
    not ours to lend then.  And not at all where `SHARD_AFFINITY` is ``strict``: there agents
    work for the shards of their own coordinator only.
    """

    def __init__(
        self,
        around: Surroundings,
        shards: Ownership,
        members: Members,
        say: Outgoing,
        wake: Callable[[], None],
    ) -> None:
        """`wake`: called when it is time to look once more."""
        self._hearing = around.hearing
        self._me = around.coordinator
        self._pool = around.pool
        self._shards = shards
        self._members = members
        self._say = say
        self._subjects = around.subjects
        self._clock = asyncio.get_running_loop().time
        affinity = around.settings.shard_affinity
        self._strict, self._local = affinity == "strict", affinity == "local"
        self._turnover = Turnover(self._clock())
        #: Types of ready work that nobody here can do, said already.
        self._stranded: dict[str, None] = {}
        #: When slots were asked for, by type, and when they are next, while the work waits and
        #: no peer has given any.
        self._sought: dict[str, tuple[float, float]] = {}
        #: Whether there may be ready work here that nobody here can take.
        self.wanted = False
        self._wake = wake
        self._again: asyncio.TimerHandle | None = None
        self._again_at = inf
        #: Slots offered to a peer since its beat with this number, by (peer, work type).
        self._offered: dict[tuple[str, str], tuple[int, int]] = {}

    def on_borrow(self, message: Message, peer: str) -> None:
        """A peer has ready work and nobody to do it."""
        if self._strict or not self._hearing():
            return
        borrow: Borrow = decode_body(_borrow, message.data)
        now = self._clock()
        lent: list[Credit] = []
        ready = self._shards.ready()
        for work_type, wanted in borrow.ready.items():
            asked = min(wanted, LEND_MAX)
            own = ready.get(work_type, 0)
            part = [] if own else self._pool.lend(work_type, asked, now)
            lent += part
            short = asked - sum(credit.slots for credit in part)
            if own and self._local and not self._waits_longer(work_type, borrow, own):
                short = 0
            self._pool.wish(work_type, peer, short, now + LEND_S)
        self._lend(peer, lent)

    def on_lend(self, message: Message, peer: str) -> None:
        """A peer moved slots here, or back here."""
        lend: Lend = decode_body(_lend, message.data)
        if self._strict and lend.expires_s > 0:
            # A peer that lends: its settings are others.
            self._lend(peer, lend.credits, 0.0)
            return
        work_types = {name for credit in lend.credits for name in credit.work_types}
        if lend.expires_s > 0:
            for credit in lend.credits:
                self._pool.borrowed(credit, self._clock() + lend.expires_s, peer)
            for work_type in work_types:
                self._sought.pop(work_type, None)
            return
        for credit in lend.credits:
            self._pool.returned(credit)
        shown = self._members.live(self._clock()).get(peer)
        if shown is None:
            return
        for work_type in work_types:
            # Until its next beat: what this one said that it lacks is done.
            self._offered[peer, work_type] = (shown.number, ENOUGH)

    def look(self, ready: dict[str, int]) -> None:
        """Move slots to where they are wanted more, with so much `ready` here by work type."""
        self._turnover.look(self._pool.taken, ready, self._clock())
        self._grant_wishes(ready)
        self._give_back(ready)
        waiting = self._pool.waiting()
        if len(self._members) < 2 or not (waiting or self.wanted):
            return
        live = self._members.live(self._clock())
        if len(live) > 1:
            self._offer(waiting, live, ready)
            self._seek(live, ready)

    def _give_back(self, ready: dict[str, int]) -> None:
        """Return borrowed slots that nothing `ready` here can use: it was done meanwhile."""
        for lender, unused in self._pool.unused(ready).items():
            self._lend(lender, unused, 0.0)

    def _grant_wishes(self, ready: dict[str, int]) -> None:
        """Give slots that came free to the peers that asked, in turn with our own shards."""
        wished = self._pool.wished()
        if not wished or not self._hearing():
            return
        now = self._clock()
        lent: dict[str, list[Credit]] = {}
        for work_type in wished:
            while granted := self._pool.grant(work_type, bool(ready.get(work_type)), now):
                peer, moved = granted
                lent.setdefault(peer, []).extend(moved)
        for peer, moved in lent.items():
            self._lend(peer, moved)

    def _offer(self, waiting: list[str], live: dict[str, Beat], ready: dict[str, int]) -> None:
        """Move free slots that nothing `ready` here can use to peers whose beats show work.

        To each as many as it lacks once those have given that have more free ones: not every
        coordinator one for the same item.
        """
        if not waiting or self._strict or not self._hearing():
            return
        now = self._clock()
        for work_type in waiting:
            if ready.get(work_type):
                continue
            for peer, beat in live.items():
                if peer == self._me or not beat.ready.get(work_type):
                    continue
                number, offered = self._offered.get((peer, work_type), (0, 0))
                offered = offered if number == beat.number else 0
                lacking = self._lacking(work_type, peer, live)
                room = min(lacking - offered, LEND_MAX)
                lent = self._pool.lend(work_type, room, now)
                given = sum(credit.slots for credit in lent)
                self._offered[peer, work_type] = (beat.number, offered + given)
                self._lend(peer, lent)

    def _seek(self, live: dict[str, Beat], ready: dict[str, int]) -> None:
        """If `wanted`, ask peers for slots for what is ready here and has no taker.

        Once for each time that they are needed, and again while they are still.
        """
        if not self.wanted:
            return
        self.wanted = False
        again_at = self._ask(live, ready)
        if again_at >= self._again_at:
            return
        self.stop()
        self._again_at = again_at
        self._again = asyncio.get_running_loop().call_at(again_at, self._seek_again)

    def stop(self) -> None:
        """Ask nobody any more; safe to call twice."""
        if self._again is not None:
            self._again.cancel()
            self._again, self._again_at = None, inf

    def _seek_again(self) -> None:
        self._again, self._again_at = None, inf
        self.wanted = True
        self._wake()

    def _ask(self, live: dict[str, Beat], ready: dict[str, int]) -> float:
        """When there is more to ask for, for which it is too early now."""
        if self._strict:
            self._tell_stranded(live, ready)
            return inf
        now, next_at = self._clock(), inf
        needed: dict[str, dict[str, int]] = {}
        # What was done since is asked for at once when there is more.
        self._sought = {name: when for name, when in self._sought.items() if name in ready}
        for work_type, count in ready.items():
            if self._pool.has_free(work_type):
                continue
            asked, again = self._sought.get(work_type, (now, now))
            if now < again:
                next_at = min(next_at, again)
                continue
            pause_s = min(max(SEEK_S, 2 * (again - asked)), SEEK_LONGEST_S)
            self._sought[work_type] = now, now + pause_s
            for peer in self._askable(work_type, live):
                needed.setdefault(peer, {})[work_type] = count
        for peer, types in needed.items():
            subject = self._subjects.coordinator(peer, "borrow", self._me)
            rates = {work_type: self._rate(work_type) for work_type in types}
            self._say(subject, _encode(Borrow(types, rates)))
        return next_at

    def _waits_longer(self, work_type: str, borrow: Borrow, own: int) -> bool:
        """Whether work of this type waits longer for slots there than here."""
        # A coordinator of an earlier version leaves out what it does not know.
        rate = borrow.rates.get(work_type, 0.0)
        return waits_longer(borrow.ready[work_type], rate, own, self._rate(work_type))

    def _rate(self, work_type: str) -> float:
        """How many a second find a slot here; 0 for what nobody attached here may do."""
        if work_type not in self._pool.served:
            return 0.0
        return self._turnover.rate(work_type, self._clock())

    def _lacking(self, work_type: str, peer: str, live: dict[str, Beat]) -> int:
        """Ready items of the peer that no slots are for: its own, and those of who has more."""
        beat = live[peer]
        lacking = beat.ready.get(work_type, 0) - beat.idle.get(work_type, 0)
        mine = (-self._pool.idle().get(work_type, 0), self._me)
        for name, other in live.items():
            if name not in (peer, self._me):
                idle = other.idle.get(work_type, 0)
                lacking -= idle if (-idle, name) < mine else 0
        return max(0, lacking)

    def _tell_stranded(self, live: dict[str, Beat], ready: dict[str, int]) -> None:
        """Say it once when work is ready that only agents of other coordinators could do."""
        for work_type in ready:
            elsewhere = [
                name
                for name, beat in live.items()
                if work_type in beat.idle or (beat.told == UNTOLD and name != self._me)
            ]
            here = work_type in self._pool.served
            if here or not elsewhere or work_type in self._stranded:
                continue
            self._stranded[work_type] = None
            log.warning(
                "work is ready, and no agent attached here may do it: SHARD_AFFINITY is strict",
                coordinator=self._me,
                work_type=work_type,
                others_that_may=elsewhere,
            )
        for work_type in [name for name in self._stranded if name not in ready]:
            del self._stranded[work_type]

    def _askable(self, work_type: str, live: dict[str, Beat]) -> list[str]:
        """The peer with most free slots for this type; all that serve it when none is free."""
        peers = {
            name: beat.idle[work_type]
            for name, beat in live.items()
            if name != self._me and work_type in beat.idle
        }
        if not peers:
            return []
        most = max(peers.values())
        best = [name for name, idle in peers.items() if idle == most]
        return best[:1] if most else best

    def _lend(self, peer: str, lent: list[Credit], expires_s: float = LEND_S) -> None:
        if lent:
            subject = self._subjects.coordinator(peer, "lend", self._me)
            self._say(subject, _encode(Lend(lent, expires_s)))

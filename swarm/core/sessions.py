"""Agent sessions at one coordinator: attach, heartbeats, free slots, and moving them."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.core.credits import CreditPool
from swarm.core.membership import Members
from swarm.core.sharding import stable_hash
from swarm.errors import Refusal
from swarm.messages import Attach, Attached, Attention, Beat, Control, Heartbeat
from swarm.subjects import check_token

#: A session is alive while heard of within this many heartbeats.
HEARTBEATS_MISSED = 3


@dataclass(slots=True)
class _Live:
    session: str
    coordinator: str
    heard_at: float
    #: Whether it asked to replace whoever was there.
    takeover: bool = False
    #: The session that was in charge where it was accepted.
    replaced: str = ""


class Sessions:
    """Who is attached where.  Decides only; the coordinator sends what it returns."""

    def __init__(
        self, me: str, pool: CreditPool, members: Members, lease_s: float, heartbeat_s: float
    ) -> None:
        self._me = me
        self._pool = pool
        self._members = members
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s
        #: The session in charge of each agent id, wherever it is attached.
        self._live: dict[str, _Live] = {}

    def attach(
        self, agent: str, session: str, attach: Attach, now: float
    ) -> tuple[Attached, Attention]:
        """Take on a session; the answer, and what all coordinators are to hear."""
        check_token("agent id", agent)
        if not attach.work_types:
            raise Refusal("bad_request", "work_types is empty; name at least one")
        live = self._live.get(agent)
        takeover, replaced = attach.takeover, ""
        if live is not None and live.session == session:
            takeover, replaced = takeover or live.takeover, live.replaced
        elif live is not None:
            replaced = live.session
            silent_s = now - live.heard_at
            if not takeover and silent_s <= self._silence_s():
                raise Refusal(
                    "agent_id_in_use",
                    f"another live process is attached as {agent!r} (heard of {silent_s:.1f} s "
                    "ago); choose another id, stop the other one, or attach with takeover",
                )
        self._live[agent] = _Live(session, self._me, now, takeover, replaced)
        self._pool.attach(agent, session, attach.work_types, now)
        attached = Attached(session, self._me, self._lease_s, self._heartbeat_s)
        return attached, Attention(session, self._me, takeover, replaced)

    def attention(self, agent: str, heard: Attention, now: float) -> list[tuple[str, Control]]:
        """Some coordinator took on a session: (session, control) of those that end here."""
        live = self._live.get(agent)
        if live is None or self._gives_way(live, heard, now):
            live = _Live(heard.session, heard.coordinator, now, heard.takeover, heard.replaced)
            self._live[agent] = live
        ended: list[tuple[str, Control]] = []
        for session in self._pool.of_agent(agent):
            if session != live.session:
                self._pool.detach(agent, session)
                ended.append((session, self._superseded(agent)))
            elif live.coordinator != self._me:
                # It has moved.
                self._pool.detach(agent, session)
        return ended

    def _gives_way(self, live: _Live, heard: Attention, now: float) -> bool:
        """Whether the session in charge, as far as is known here, ends for the new one.

        If the new one was accepted in the knowledge of this one, it does, and the other way
        round.  Else both were accepted at once, and all coordinators, in whatever order they
        hear of the two, must choose the same: one that takes over, then the smaller session.
        """
        if live.session == heard.session or now - live.heard_at > self._silence_s():
            return True
        knew_ours, knew_theirs = heard.replaced == live.session, live.replaced == heard.session
        if knew_ours != knew_theirs:
            return knew_ours
        if live.takeover != heard.takeover:
            return heard.takeover
        return heard.session < live.session

    def dispute(self, agent: str, session: str) -> Attention | None:
        """What all are to hear again, when `session` gets work elsewhere and should not.

        Two coordinators can each have a session of one agent id, if one was down, or cut off,
        when the other's was accepted.  Whoever notices says so; one of the two gives way.
        """
        live = self._live.get(agent)
        if live is None or session == live.session or live.coordinator != self._me:
            return None
        assert live.session, "a session has a name"
        return Attention(live.session, self._me, live.takeover, live.replaced)

    def _superseded(self, agent: str) -> Control:
        return Control("superseded", reason=f"another process has attached as {agent!r}")

    def heartbeat(self, agent: str, heartbeat: Heartbeat, now: float) -> Control | None:
        """An agent process is alive; what it must do, if anything."""
        session = check_token("session", heartbeat.session)
        if heartbeat.leaving:
            self._leave(agent, session)
            return None
        live = self._live.get(agent)
        same = live is not None and live.session == session
        if live is not None and not same and now - live.heard_at <= self._silence_s():
            self._pool.detach(agent, session)
            # What told it to end may have been lost.
            return self._superseded(agent) if heartbeat.coordinator == self._me else None
        if live is None or not same:
            live = self._live[agent] = _Live(session, heartbeat.coordinator, now)
        live.coordinator, live.heard_at = heartbeat.coordinator, now
        if heartbeat.coordinator == self._me:
            slots = self._pool.attach(agent, session, heartbeat.work_types, now)
            self._pool.update(slots, heartbeat.number, heartbeat.slots, heartbeat.received, now)
            return None
        self._pool.detach(agent, session)
        if self._members.is_live(heartbeat.coordinator, now):
            return None
        if not self._adopts(agent, self._members.live(now)):
            return None
        return Control("reattach", reason=f"{heartbeat.coordinator} is not alive")

    def drop_silent(self, now: float) -> None:
        """Forget sessions that stopped sending heartbeats."""
        for agent, session in self._pool.silent(now, self._silence_s()):
            self._pool.detach(agent, session)
        for agent, live in list(self._live.items()):
            if now - live.heard_at > self._silence_s():
                del self._live[agent]

    def _silence_s(self) -> float:
        return HEARTBEATS_MISSED * self._heartbeat_s

    def _leave(self, agent: str, session: str) -> None:
        self._pool.detach(agent, session)
        live = self._live.get(agent)
        if live is not None and live.session == session:
            del self._live[agent]

    def _adopts(self, agent: str, beats: dict[str, Beat]) -> bool:
        """Whether it is on this coordinator, of all that hear it, to tell the agent."""
        names = [*beats, self._me] if self._me not in beats else list(beats)
        return min(names, key=lambda name: stable_hash(f"{agent}/{name}")) == self._me

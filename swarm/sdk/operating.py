"""What operators ask of the swarm's leader."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from swarm.messages import (
    ClusterView,
    Conflict,
    ControlReply,
    Look,
    Move,
    Moved,
    Priority,
    Resize,
    SetRules,
    TellConflict,
)
from swarm.sdk.asking import TIMEOUT_S, Asking, Reply

_view = msgspec.json.Decoder(ClusterView)
_moved = msgspec.json.Decoder(Moved)
_reply = msgspec.json.Decoder(ControlReply)


class Operating(Asking):
    """Each command is carried out once, however often it has to be sent."""

    async def cluster(self, *, timeout_s: float = TIMEOUT_S) -> ClusterView:
        """Who leads, the shard map, the routing rules and the conflicts, as of now."""
        return await self._control("look", Look(), _view, timeout_s)

    async def set_rules(
        self,
        text: str,
        *,
        key: str = "",
        based_on: int = 0,
        priority: Priority = "medium",
        timeout_s: float = TIMEOUT_S,
    ) -> ControlReply:
        """Set the routing rules, all of them: lines ``feature -> coordinator[:port]``.

        `key`: what they are about, ``work_type``, ``priority``, ``team`` or ``label`` (empty:
        what the swarm's settings say).  `based_on`: the version that was edited.  `priority`:
        of several edits of one version that meet, where `CONFLICT_RESOLUTION` is ``priority``.
        Raises `Refusal`: ``bad_request`` names what is wrong with them, ``conflict`` says that
        there is a newer version.
        """
        command = SetRules(text, self._runtime.new_id(), based_on, key=key, priority=priority)
        return await self._control("rules", command, _reply, timeout_s)

    async def resize(
        self,
        shards: int,
        *,
        based_on: int = 0,
        priority: Priority = "medium",
        timeout_s: float = TIMEOUT_S,
    ) -> ControlReply:
        """Spread new items over so many shards from here on.

        `based_on`: the version of the shard map that was looked at; `priority` as in
        `set_rules`.  Raises `Refusal`: ``unsupported`` while coordinators of an earlier version
        are alive, ``conflict`` when there is a newer map that says something else.
        """
        command = Resize(shards, self._runtime.new_id(), based_on=based_on, priority=priority)
        return await self._control("resize", command, _reply, timeout_s)

    async def move(
        self, shard: int, source: str, to: str, *, timeout_s: float = TIMEOUT_S
    ) -> Moved:
        """Hand a shard over from its owner to another coordinator, while both work.

        Raises `Refusal`: the owner is another one by now, or the other did not take it.
        """
        subject = self._subjects.coordinator(source, "move", self._calls.sender)
        return await self._ask(subject, Move(shard, to), _moved, timeout_s)

    async def tell_conflict(
        self, *conflicts: Conflict, timeout_s: float = TIMEOUT_S
    ) -> ControlReply:
        """Have them kept with the swarm's conflicts."""
        command = TellConflict(list(conflicts), self._runtime.new_id())
        return await self._control("conflict", command, _reply, timeout_s)

    async def _control(
        self, verb: str, command: Struct, reply: msgspec.json.Decoder[Reply], timeout_s: float
    ) -> Reply:
        subject = self._subjects.control(verb, self._calls.sender)
        return await self._ask(subject, command, reply, timeout_s)

"""Leases: an agent that is heard of keeps what it holds [9]."""

from __future__ import annotations

import msgspec

from swarm.messages import Died, Released
from swarm.testing.sim.mechanism import Mechanism
from swarm.testing.sim.mechanisms.timing import is_stall
from swarm.testing.sim.mishaps import Mishap
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Claim, Folded

#: Kinds of mishaps in which no message reaches a machine.
DEAFENING = ("deaf", "partition", "outage")
#: Causes that say: its agent fell silent.
LAPSES = ("lapsed", "quarantined")
#: Steps of one instant may come in any order.
MARGIN_S = 0.002


class Leasing(Mechanism):
    """Heartbeats renew exactly what they list, whatever clocks and processes do."""

    expects = ("Released lapsed", "deaf", "outage")

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: When heartbeats that list (item id, token) reached a machine, and its process.
        self._arrived: dict[tuple[str, str, str], list[float]] = {}
        self._listed: dict[tuple[str, str, str], list[float]] = {}
        #: [from, to] of times in which no message reached a machine, by its name.
        self._deaf: dict[str, list[list[float]]] = {}

    def on_arrive(self, node: str, subject: str, data: bytes) -> None:
        """A heartbeat is in the buffers of a machine, stopped or not."""
        self._note(self._arrived, node, subject, data)

    def on_deliver(self, node: str, subject: str, data: bytes) -> None:
        """A heartbeat is in the hands of a process."""
        self._note(self._listed, node, subject, data)

    def _note(
        self, where: dict[tuple[str, str, str], list[float]], node: str, subject: str, data: bytes
    ) -> None:
        if node[0] == "c" and ".heartbeat." in subject:
            for work_item_id, token in msgspec.json.decode(data).get("held", ()):
                where.setdefault((work_item_id, token, node), []).append(self.scene.clock())

    def on_event(self, folded: Folded) -> None:
        """Nothing lapses that was listed within its lease.

        What waits in the buffers of a process that was stopped counts as well, but for the
        time that it takes an owner to know that it does not hear.
        """
        event = folded.event
        if not isinstance(event, Released | Died) or event.cause not in LAPSES:
            return
        if is_stall(folded):
            return  # it was heard of, and that does not help it
        assert folded.ended is not None, "a release ends a claim"
        self._check_listed(folded, folded.ended)
        self._check_deaf(folded, folded.ended.lease_s)

    def _check_listed(self, folded: Folded, claim: Claim) -> None:
        key = (claim.work_item_id, claim.token, folded.node)
        lease_s, missed_s = claim.lease_s, self.scene.settings.missed_s
        for where, deaf_s in ((self._listed, 0.0), (self._arrived, missed_s)):
            for at_s in where.get(key, ()):
                ago_s = folded.decided_at_s - at_s
                if deaf_s + MARGIN_S < ago_s < lease_s - MARGIN_S:
                    self.scene.verdict.broken(
                        f"[9] {key} lapsed {ago_s:.2f} s after it was listed, of {lease_s} s"
                    )

    # --- an owner that does not hear -------------------------------------------------

    def on_mishap(self, mishap: Mishap) -> None:
        """Some cut a machine off from all messages."""
        if mishap.kind in DEAFENING:
            for node in self._struck(mishap):
                self._deaf[node].append([self.scene.clock(), float("inf")])
        elif mishap.kind == "slow":
            self._hears(mishap.node)  # it takes the place of being deaf

    def on_mended(self, mishap: Mishap) -> None:
        """It hears again, and whatever else had cut it off may have ended with it."""
        if mishap.kind in (*DEAFENING, "slow"):
            for node in self._struck(mishap):
                self._hears(node)

    def on_boot(self, node: str) -> None:
        """A new process on the machine: what befell the one before is over."""
        self._hears(node)

    def _struck(self, mishap: Mishap) -> list[str]:
        return list(self._deaf) if mishap.kind == "outage" else [mishap.node]

    def _hears(self, node: str) -> None:
        for span in self._deaf.setdefault(node, []):
            span[1] = min(span[1], self.scene.clock())

    def _check_deaf(self, folded: Folded, lease_s: float) -> None:
        """No lease runs in that time, and all start anew, in full, after it."""
        notices_s = self.scene.settings.missed_s + 2 * self.scene.settings.beat_s
        for start_s, mended_s in self._deaf[folded.node]:
            end_s = min(mended_s, self.scene.calm_at_s)
            knows_s = start_s + notices_s
            if knows_s < end_s and knows_s < folded.decided_at_s < end_s + lease_s - MARGIN_S:
                self.scene.verdict.broken(
                    f"[9] {folded.ended} lapsed at {folded.decided_at_s:.2f}; "
                    f"{folded.node} heard nothing from {start_s:.2f} to {end_s:.2f}"
                )

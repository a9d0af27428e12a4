"""How many waiting requests a round takes, so that a shard and its agents work at the same time.

Agents whose requests are decided together are answered together, and so come back together.
Once all of them do, the shard waits for the agents and then the agents for the shard.  In two
groups one is served while the other works, which costs one more wait for the log.

For a shard that is alone at its coordinator; several do it by being several.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Fewer items are done so soon that dividing them gains nothing.
ITEMS_MIN = 64
#: All agents are here: they have asked about this part of the items that are held.
ALL = 0.75
#: Weight of the latest round in the averages.
LATEST = 0.05
#: Who waits for longer has nothing to do, and does not wait for anybody.
WAIT_MAX_S = 0.002


@dataclass(slots=True)
class Grouping:
    """What one shard has waited for, on average over its latest rounds, in seconds."""

    agents_s: float = 0.0
    log_s: float = 0.0
    #: How long the round that is next, or under way, was waited for.
    idle_s: float = 0.0

    def logged(self, wait_s: float) -> None:
        """The round has waited so long for the log, and the next one need not be waited for."""
        self.agents_s += LATEST * (_within(self.idle_s) - self.agents_s)
        self.log_s += LATEST * (_within(wait_s) - self.log_s)
        self.idle_s = 0.0

    def part(self, waiting: int, held: int) -> int:
        """Take only so many of the `waiting` requests; 0: take all.

        `held`: items that agents hold.
        """
        if held < ITEMS_MIN or waiting < ALL * held:
            return 0
        if self.idle_s <= 0 or self.agents_s <= self.log_s:
            return 0
        return waiting // 2


def _within(wait_s: float) -> float:
    """A clock that is set, either way, counts as one odd round."""
    return min(max(wait_s, 0.0), WAIT_MAX_S)

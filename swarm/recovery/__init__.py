"""`swarm log`: saving a shard's log into a file, and bringing it back from there."""

from __future__ import annotations

from swarm.recovery.plan import Gone, Plan, Wanted, make_plan
from swarm.recovery.restore import restore_log
from swarm.recovery.saved import Header, SavedLog
from swarm.recovery.saving import save_log

__all__ = ["Gone", "Header", "Plan", "SavedLog", "Wanted", "make_plan", "restore_log", "save_log"]

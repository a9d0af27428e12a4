"""`swarm doctor`: reads all that a swarm keeps, changes nothing, and says what is wrong."""

from __future__ import annotations

from swarm.doctor.examine import Examination, examine
from swarm.doctor.report import Report, ShardReport

__all__ = ["Examination", "Report", "ShardReport", "examine"]

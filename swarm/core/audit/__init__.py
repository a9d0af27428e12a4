"""Verifying a log without trusting whoever wrote it.

`LogAudit` takes the stored entries of one shard's log, in order.  It follows the chain of
envelopes (`chain`) and keeps a ledger of what happened to each item by rules of its own
(`ledger`, `lives`); the swarm's own fold (`swarm.core.shard`) runs beside it as a second
opinion, and what the two say is compared.  `edges` holds several shards against each
other.  Everything wrong is a `Finding`; nothing is ever repaired.
"""

from __future__ import annotations

from swarm.core.audit.archive import ArchivedItem, check_block
from swarm.core.audit.edges import Edges, Unheard, edges_of, unheard
from swarm.core.audit.findings import Finding, Findings
from swarm.core.audit.log import LogAudit, Refold

__all__ = [
    "ArchivedItem",
    "Edges",
    "Finding",
    "Findings",
    "LogAudit",
    "Refold",
    "Unheard",
    "check_block",
    "edges_of",
    "unheard",
]

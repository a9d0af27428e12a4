"""Looking archived items up in a shard's finished records."""

from __future__ import annotations

from swarm.actors.finished import BLOCK_BITS, block_of
from swarm.bus.base import Bus
from swarm.core.audit import ArchivedItem, LogAudit, check_block
from swarm.doctor.report import RecordCounts
from swarm.errors import LogMissing

#: Blocks of records looked up in each shard unless all are wanted.
SAMPLE = 20
#: A record goes this long after its item was archived at the latest.
SLACK_S = 3600.0


class RecordsReading:
    """The finished records of one shard.  `now`: seconds since the epoch."""

    def __init__(
        self, bus: Bus, records: str, audit: LogAudit, retention_s: float, now: float
    ) -> None:
        self._bus = bus
        self._records = records
        self._audit = audit
        self._retention_s = retention_s
        self._now = now
        self.counts = RecordCounts()

    async def run(self, *, everything: bool) -> None:
        """Check all, or some, of them; raises what the bus raises."""
        blocks = self._blocks()
        chosen = blocks if everything or len(blocks) <= SAMPLE else _spread(blocks, SAMPLE)
        ledger = self._audit.ledger
        looked_up = 0
        for block in chosen:
            wanted = self._wanted(block)
            looked_up += len(wanted)
            await self._check(block, wanted)
        self.counts.left_out = sum(ledger.archived.values()) - looked_up

    def _blocks(self) -> list[int]:
        """Blocks with archived items, those that the log speaks of first."""
        ledger = self._audit.ledger
        if not sum(ledger.archived.values()):
            return []
        spoken_of = {number >> BLOCK_BITS for number in self._audit.archived}
        all_blocks = range(((ledger.next_number - 1) >> BLOCK_BITS) + 1)
        return sorted(spoken_of) + [block for block in all_blocks if block not in spoken_of]

    def _wanted(self, block: int) -> dict[int, ArchivedItem]:
        """Items of the block that are archived: all that there were and are not there."""
        ledger, known = self._audit.ledger, self._audit.archived
        first = max(1, block << BLOCK_BITS)
        numbers = range(first, min(ledger.next_number, (block + 1) << BLOCK_BITS))
        nothing_known = ArchivedItem(0, 0.0)
        return {n: known.get(n, nothing_known) for n in numbers if n not in ledger.lives}

    async def _check(self, block: int, wanted: dict[int, ArchivedItem]) -> None:
        if not wanted:
            return
        audit, counts = self._audit, self.counts
        key = block_of(next(iter(wanted)))
        try:
            records = await self._bus.get_records(self._records, key)
        except LogMissing:
            records = []
        missing = check_block(audit.findings, audit.number, wanted, records)
        counts.checked += len(wanted) - len(missing)
        for number in sorted(missing):
            self._missing(number, wanted[number])

    def _missing(self, number: int, archived: ArchivedItem) -> None:
        """Records go after their time; before that, one that is missing is lost."""
        if not self._retention_s:
            what = "its finished record is missing, and records are kept for ever"
        elif not archived.at:
            self.counts.unknown += 1
            return
        elif self._now - archived.at > self._retention_s - SLACK_S:
            self.counts.expired += 1
            return
        else:
            age_s = self._now - archived.at
            what = (
                f"its finished record is missing, {age_s:.0f} s after it was archived; records are "
                f"kept for {self._retention_s:.0f} s"
            )
        self._audit.findings.add("record", what, number, archived.seq)


def _spread(blocks: list[int], count: int) -> list[int]:
    """`count` of them, evenly; the first and the last among them."""
    last = len(blocks) - 1
    return [blocks[round(index * last / (count - 1))] for index in range(count)]

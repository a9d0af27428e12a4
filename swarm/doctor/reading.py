"""Reading one log for its audit, while it may grow and be purged from the front."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swarm.bus.base import Bus, Entry
from swarm.bus.log_reader import PAGE
from swarm.core.audit import LogAudit, Refold
from swarm.core.shard import ShardRules

#: How often a log that is purged under the reader is begun anew.
TRIES = 10
#: How often something that must be there is looked for, and the pause between two looks: a
#: replica may be behind.
LOOKS = 20
LOOK_AGAIN_S = 0.1


class LogReading:
    """One log: `audit` as far as it got, and what could not be done.

    Raises what the bus raises.
    """

    def __init__(self, bus: Bus, log: str, number: int, rules: ShardRules) -> None:
        self._bus = bus
        self._log = log
        self._number = number
        self._rules = rules
        self.audit = LogAudit(log, number, rules, 1)
        #: The server's stamps of the first and the last entry looked at.
        self.first_time = self.last_time = 0.0
        #: The second fold began here; 0: there was none.
        self.refolded_from = 0
        #: What could not be checked, and why.
        self.skipped: list[str] = []

    async def run(self) -> None:
        """Read it all; the audit is finished then."""
        findings = self.audit.findings
        for _ in range(TRIES):
            info = await self._bus.log_info(self._log)
            self.audit = LogAudit(self._log, self._number, self._rules, info.first_seq, findings)
            if await self._read_on(info.last_seq):
                break
        else:
            self.skipped.append(
                f"what was purged from {self._log} while it was read, {TRIES} times"
            )
        audit = self.audit
        if audit.broken_at:
            self.skipped.append(f"{self._log} from entry {audit.broken_at} on: it cannot be read")
        elif not audit.complete:
            findings.add(
                "missing",
                f"the log begins with entry {audit.first_seq}, and no mark in it says that what "
                "came before is not needed: it was purged by hand, or not restored whole",
                seq=0,
            )
            self.skipped.append(f"items of {self._log} that were stated before its beginning only")
        else:
            await self._fold_again()
        audit.finish()

    # --- the first fold -----------------------------------------------------------------

    async def _read_on(self, up_to: int) -> bool:
        """Take the entries up to this one, and on to where the beginning is made up for.

        False when the log was purged beyond where we are: begin anew.
        """
        audit, looks = self.audit, 0
        while (audit.at < up_to or not audit.complete) and not audit.broken_at:
            taken = audit.at
            found = await self._take_page(audit.at + 1, self._take)
            if audit.at > taken:
                looks = 0
                continue
            looks += 1
            if found and await self._is_purged():
                return False
            if looks > LOOKS:
                self._report_hole(found, up_to)
                return True
            await asyncio.sleep(LOOK_AGAIN_S)
        return True

    def _report_hole(self, found: int, up_to: int) -> None:
        missing = self.audit.at + 1
        last = found - 1 if found else up_to
        if missing > last:
            return  # read to its end; it is not complete
        what = f"entries {missing} to {last} are missing from the middle of the log"
        if not found:
            what = f"entries {missing} to {last} are there, says the server, and cannot be read"
        self.audit.findings.add("missing", what, seq=missing)
        self.audit.broken_at = missing

    async def _is_purged(self) -> bool:
        """Whether the log begins behind where we are by now."""
        info = await self._bus.log_info(self._log)
        return info.first_seq > self.audit.at + 1

    async def _take_page(self, from_seq: int, take: Callable[[Entry], bool]) -> int:
        """Take entries without a hole; the first one behind a hole, 0 if there is none."""
        wanted = from_seq
        for stored in await self._bus.read(self._log, from_seq, PAGE):
            if stored.seq != wanted:
                return stored.seq
            wanted += 1
            if not take(stored):
                return 0
        return 0

    def _take(self, stored: Entry) -> bool:
        if stored.seq == self.audit.first_seq:
            self.first_time = stored.time
        self.last_time = stored.time
        return self.audit.take(stored.seq, stored.data)

    # --- the second fold ----------------------------------------------------------------

    async def _fold_again(self) -> None:
        """Fold from where that must be enough, to the same end."""
        audit = self.audit
        wanted = audit.refold_from()
        if not wanted:
            return
        for _ in range(TRIES):
            info = await self._bus.log_info(self._log)
            if info.first_seq > wanted:
                # Purged meanwhile, as a later mark allows: what it made up for comes before
                # that mark, and perhaps behind where we are.
                if not await self._read_on(info.last_seq):
                    continue
                wanted = audit.refold_from()
            start = max(wanted, info.first_seq)
            if start > audit.at + 1:
                break
            if audit.shard is None or audit.broken_at:
                return  # there is nothing to compare with
            refold = Refold(self._log, self._number, self._rules, start)
            done = await self._run_refold(refold)
            if refold.broken:
                what = f"folded from entry {start} on, it breaks at {refold.broken}"
                audit.findings.add("fold", what, seq=0)
                return
            if done:
                self.refolded_from = start
                if audit.shard is not None:
                    refold.compare(audit)
                return
        self.skipped.append(f"a second fold of {self._log}, which was purged under the reader")

    async def _run_refold(self, refold: Refold) -> bool:
        """Fold to the end of the audit, which goes along; False: purged, or it broke."""
        audit, looks = self.audit, 0

        def take(stored: Entry) -> bool:
            if stored.seq == audit.at + 1 and not self._take(stored):
                return False
            return refold.take(stored.seq, stored.data)

        while refold.at < audit.at:
            at = refold.at
            found = await self._take_page(refold.at + 1, take)
            if refold.broken or audit.broken_at or found:
                return False
            looks = looks + 1 if refold.at == at else 0
            if looks > LOOKS:
                return False
            if looks:
                await asyncio.sleep(LOOK_AGAIN_S)
        return True

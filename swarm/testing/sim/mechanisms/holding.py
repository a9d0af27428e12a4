"""Holding: at most one holder [6]; assignments and acknowledgements are durable first [2]."""

from __future__ import annotations

from typing import Any

from swarm.messages import Released
from swarm.testing.sim.mechanism import Execution, Mechanism, Said
from swarm.testing.sim.scene import Scene
from swarm.testing.sim.truth import Folded


class Holding(Mechanism):
    """Agents claim, work, and say what became of it."""

    expects = ("Claimed", "Progressed", "Completed", "Died", "Released agent", "Released unlisted")

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        #: Item, token and agent of every command about an item, by command id.
        self._commands: dict[str, tuple[str, str, str]] = {}
        self._running: dict[str, list[Execution]] = {}
        #: (item id, token) of every handler run.
        self._worked: dict[tuple[str, str], None] = {}

    def on_event(self, folded: Folded) -> None:
        """A claim ends only by its own fence."""
        if isinstance(folded.event, Released):
            self.scene.verdict.saw(f"Released {folded.event.cause}")
        fence = getattr(folded.event, "fence", None)
        if folded.ended is not None and fence is not None and fence != folded.ended.fence:
            self.scene.verdict.broken(f"[6] {folded.event} ended {folded.ended}")

    # --- messages --------------------------------------------------------------------

    def on_other(self, said: Said) -> None:
        """Commands about items, by agents."""
        if "next" not in said.tokens and "shard" not in said.tokens:
            return
        for command in said.body.get("done", [said.body]):
            if "token" in command and "command_id" in command:
                told = (command["work_item_id"], command["token"], said.tokens[-1])
                self._commands[command["command_id"]] = told

    def on_coordinator(self, said: Said) -> None:
        """Assignments, acknowledgements, answers to submissions."""
        tokens, verdict = said.tokens, self.scene.verdict
        if tokens[0] == "_INBOX":
            self._check_reply(said.body)
        elif tokens[0].endswith("log"):
            verdict.broken(f"[3] {said.node} published to the log subject {said.subject}")
        elif tokens[1] == "agent" and tokens[-1] == "work":
            for assignment in said.body.get("items", ()):
                self._check_assignment(assignment, (tokens[2], tokens[3]))
            for ack in said.body.get("acks", ()):
                self._check_ack(ack)

    def _check_reply(self, body: dict[str, Any]) -> None:
        for result in body.get("results", ()):
            known = self.scene.truth.items.get(result.get("work_item_id", ""))
            if "work_item_id" in result and known is None:
                self.scene.verdict.broken(f"[2] {result} was answered before it was durable")
        if "token" in body and "item" in body:
            self._check_assignment(body, None)
        elif "command_id" in body and "status" in body:
            self._check_ack(body)

    def _check_assignment(
        self, assignment: dict[str, Any], session: tuple[str, str] | None
    ) -> None:
        verdict = self.scene.verdict
        key = (assignment["work_item_id"], assignment["token"])
        claim = self.scene.truth.claims.get(key)
        if claim is None:
            verdict.broken(f"[2] {key} was assigned before it was durable")
        if session is not None and session != (claim.agent, claim.session):
            verdict.broken(f"[6] {claim} went to {session}")

    def _check_ack(self, ack: dict[str, Any]) -> None:
        told = self._commands.get(ack.get("command_id", ""))
        if told is None:
            return
        work_item_id, token, _ = told
        verdict, truth = self.scene.verdict, self.scene.truth
        known = truth.items.get(work_item_id)
        claim = truth.claims.get((work_item_id, token))
        holds = claim is not None and claim.ended_at_s is None
        if "error" in ack:
            self._check_refusal(ack["error"]["code"], told, holds)
            return
        if known is None or claim is None:
            verdict.broken(f"[2] {ack} about a claim that the log does not have")
        if ack["status"] in ("completed", "dead"):
            if claim.ended_as != ack["status"]:
                verdict.broken(f"[2] {ack} was answered before it was durable: {told} {known}")
        elif ack["status"] != "claimed" and holds:
            verdict.broken(f"[2] {ack} was answered before it was durable: {told} {known}")

    def _check_refusal(self, code: str, told: tuple[str, str, str], holds: bool) -> None:
        verdict, known = self.scene.verdict, self.scene.truth.items.get(told[0])
        if code in ("stale_token", "not_holder", "not_claimed") and holds:
            verdict.broken(f"[2] {told} was refused as {code}, and is held")
        ended = known is not None and self.scene.truth.had_ended(known)
        if code == "already_finished" and not ended:
            verdict.broken(f"[2] {told} was refused as {code}, and is not: {known}")
        if code == "unknown_item" and known is not None:
            verdict.broken(f"[1] {told} was refused as {code}, and is in the log: {known}")

    # --- handlers --------------------------------------------------------------------

    def on_start(self, execution: Execution) -> None:
        """Overlap only with an earlier claim that had ended in the log.

        A late start under a claim that has ended is such a one, too.
        """
        claim = execution.claim
        running = self._running.setdefault(claim.work_item_id, [])
        for other in running:
            earlier = min(other.claim, claim, key=lambda one: one.fence)
            if other.claim is claim or earlier.ended_at_s is None:
                verdict = self.scene.verdict
                verdict.broken(f"[6] {claim.work_item_id} is run by {other} and by {execution}")
        running.append(execution)
        self._worked[claim.work_item_id, claim.token] = None

    def on_finish(self, execution: Execution) -> None:
        """It does not overlap with what starts from now on."""
        self._running[execution.claim.work_item_id].remove(execution)

    def at_end(self) -> None:
        """What was completed or failed was worked on, by the claim that says so."""
        for known in self.scene.truth.items.values():
            ended_by = known.ended_by
            ended = known.status in ("completed", "dead")
            if not ended or known.cause not in ("", "failed") or known.ended_blocked:
                continue  # nobody need have begun
            if ended_by is None or (known.work_item_id, ended_by.token) not in self._worked:
                self.scene.verdict.broken(f"[6] {known} ended without having been run")

"""The peers' table, and what each system can lose."""

from __future__ import annotations

from bench.cells import figures_cell, heading, rates_cell
from bench.peers.plan import BROKERS, PEERS
from bench.plan import LIMIT, NO_SYNC, ONE_200, OURS, PLAIN, SERVERS, SYNC
from bench.results import Section, chosen, ratios, spread
from bench.tables import of_spread, table


def of_peers(section: Section) -> str:
    """One table, ours first."""
    rows = [
        [
            "system",
            "items kept by",
            "claim → done/s",
            "ours ×, no sync",
            "ours ×, sync",
            "submit/s",
            "submit → start p50 / p99 ms at 100/s",
            "workers MB",
        ]
    ]
    ours = {server: chosen(section, OURS.name, ONE_200.name, server) for server in SERVERS}
    titles = {OURS.name: "**ours**, 200 agents one at a time", PLAIN.name: "plain nats-py"}
    titles |= {LIMIT.name: "limit loop"} | {peer.name: peer.title for peer in PEERS}
    for name, title in titles.items():
        for broker in (NO_SYNC, SYNC, "redis"):
            sessions = chosen(section, name, ONE_200.name, broker)
            if not sessions:
                continue
            paced = chosen(section, name, "paced", broker) or sessions
            times = [
                of_spread(spread(ratios(ours[server], sessions)), lambda x: f"{x:.1f}")
                for server in (NO_SYNC, SYNC)
            ]
            rows.append(
                [
                    title,
                    broker,
                    rates_cell(sessions),
                    *times,
                    figures_cell(sessions, "submit_per_s", "{:,.0f}"),
                    (
                        f"{figures_cell(paced, 'start_p50_ms', '{:.1f}')} / "
                        f"{figures_cell(paced, 'start_p99_ms', '{:.1f}')}"
                    ),
                    figures_cell(sessions, "workers_mb", "{:.0f}"),
                ]
            )
    return "\n\n".join(
        [
            heading("Beside the peers", section),
            table(rows),
            (
                "Ours counts an item when its completion is durable and acknowledged; a peer "
                "counts it when its task has started. Submitting: peers one item a call; ours, in "
                "requests of 1,000, is under Throughput."
            ),
            "What a kill -9 or a power cut loses:",
            _durability(),
        ]
    )


def _durability() -> str:
    rows = [["system", "worker or agent killed", "broker killed", "power cut"]]
    for peer in PEERS:
        for broker in peer.brokers:
            kept = BROKERS[broker]
            title = f"{peer.title} on {kept.title}"
            rows.append([title, peer.worker_killed, kept.broker_killed, kept.power_cut])
    agents = "nothing; queued again after the lease (30 s by default), never while the agent lives"
    for server in (NO_SYNC, SYNC):
        kept = BROKERS[server]
        rows.append([f"ours on {kept.title}", agents, kept.broker_killed, kept.power_cut])
    return table(rows)

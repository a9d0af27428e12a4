"""dramatiq on Redis: default middleware; the prefetch is set by its environment variable."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from hits import hit, submit_all

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_BROKER"]))


@dramatiq.actor
def work(item: dict[str, str]) -> None:
    """The task."""
    hit(item["id"])


if __name__ == "__main__":
    submit_all(work.send)

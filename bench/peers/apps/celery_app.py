"""Celery on Redis: results ignored, acknowledged late, JSON."""

from __future__ import annotations

import os

from celery import Celery
from hits import hit, submit_all

app = Celery("celery_app", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_serializer="json",
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="work")
def work(item: dict[str, str]) -> None:
    """The task."""
    hit(item["id"])


if __name__ == "__main__":
    submit_all(work.delay)

#!/bin/sh
# Who uses which shard, and from where: see `swarm shards access --help`.
PATH="$(dirname "$0")/../.venv/bin:$PATH" exec swarm shards access "$@"

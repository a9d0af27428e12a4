#!/bin/sh
# Every shard, its owner, its items and its part of them: see `swarm shards --help`.
PATH="$(dirname "$0")/../.venv/bin:$PATH" exec swarm shards "$@"

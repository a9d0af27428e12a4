#!/bin/sh
# Every shard, its owner and its items; --watch again and again: see `swarm shards --help`.
PATH="$(dirname "$0")/../.venv/bin:$PATH" exec swarm shards "$@"

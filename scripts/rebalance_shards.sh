#!/bin/sh
# Move shards so that all coordinators have about the same to do: see `swarm shards rebalance --help`.
PATH="$(dirname "$0")/../.venv/bin:$PATH" exec swarm shards rebalance "$@"

#!/bin/sh
# Move shards to the coordinators whose agents use them most: see `swarm shards optimize --help`.
PATH="$(dirname "$0")/../.venv/bin:$PATH" exec swarm shards optimize "$@"

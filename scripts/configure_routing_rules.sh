#!/bin/sh
# Set the routing rules from the input: see `swarm routes apply --help`.
PATH="$(dirname "$0")/../.venv/bin:$PATH" exec swarm routes apply "$@"

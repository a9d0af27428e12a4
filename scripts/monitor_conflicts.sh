#!/bin/sh
# Who has disagreed with whom, and what was kept: see `swarm conflicts --help`.
PATH="$(dirname "$0")/../.venv/bin:$PATH" exec swarm conflicts "$@"

#!/bin/sh
# Asks every coordinator for /health and /ready; see `swarm health --help`.
PATH="$(dirname "$0")/../.venv/bin:$PATH" exec swarm health "$@"

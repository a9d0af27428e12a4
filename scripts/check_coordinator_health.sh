#!/bin/sh
# Asks every coordinator for /health and /ready; see `swarm health --help`.
exec swarm health "$@"

#!/bin/sh
# Routing rules, and what routers have chosen: see `swarm routes --help`.
PATH="$(dirname "$0")/../.venv/bin:$PATH" exec swarm routes "$@"

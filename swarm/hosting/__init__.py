"""Running a swarm's processes on a machine: what `swarm up` and `swarm node` do."""

"""`swarm demo`: audits a real source tree with a swarm of its own, and checks the swarm."""

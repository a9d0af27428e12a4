"""The Python SDK: clients (`Swarm`) and agents (`Agent`)."""

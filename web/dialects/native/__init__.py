"""The native dialect: Replicate's HTTP API under `/v1`, and what we add to it."""

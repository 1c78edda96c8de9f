"""Benchmarks: our service against a baseline and its own ceilings, measured in the same run.

Start with `python -m benchmarks --help`. Nothing in the product imports this package.
"""

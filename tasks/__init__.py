"""Prefect tasks: thin adapters between the flows and merge_lib."""

"""Prefect flows, the study configuration and the command line."""

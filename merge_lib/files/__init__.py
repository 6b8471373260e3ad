"""Checkpoints as files: headers, folders, where bytes lie. Without torch, so that a plan is made in no time."""

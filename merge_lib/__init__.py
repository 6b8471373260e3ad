"""Merging of fine-tuned checkpoints, and what a merge keeps and forgets."""

"""Cues in texts: every task has the same texts and classes, and words of its own that tell the class."""

"""Cues: every task has the same images and classes, and a mark of its own that tells the class."""

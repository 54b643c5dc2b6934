"""Proofs about an experiment: that it resumes exactly, and that its record reproduces it."""

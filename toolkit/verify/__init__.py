"""Prove that an experiment resumes exactly and that its record reproduces its results."""

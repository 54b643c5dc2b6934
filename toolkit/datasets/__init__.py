"""Datasets: built, read, and looked into."""

"""Read, compare and show the results of experiments."""

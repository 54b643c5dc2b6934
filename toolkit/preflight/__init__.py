"""What preflight.py tries before the first long run."""

"""Check an experiment before its first long run."""

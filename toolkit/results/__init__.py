"""What synthesize_results.py is made of: reading, comparing and showing experiments."""

"""What surrounds the five lines of training: batches, optimizer steps, metrics, signals."""

"""Report of an evaluation: confidence intervals, scores of each class, predictions and pictures."""

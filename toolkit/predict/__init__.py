"""Prediction for new files."""

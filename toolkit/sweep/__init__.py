"""Hyperparameter sweeps: the search space, the Optuna study, and the scheduler with its training processes."""

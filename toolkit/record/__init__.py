"""The folder of an experiment: what a run leaves there, so that it can be gone on with, proved and reproduced."""

"""The name that `toolkit.core.folds` had in version 0.1, for model/ folders that were written for it."""

from toolkit.core.folds import *  # noqa: F403

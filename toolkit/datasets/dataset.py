"""The name that `toolkit.core.image_dataset` had in version 0.1, for model/ folders that were written for it."""

from toolkit.core.image_dataset import *  # noqa: F403

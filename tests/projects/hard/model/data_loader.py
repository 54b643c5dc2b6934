"""The first images of each split, one by one, with noise from every random generator there is."""

import random

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from toolkit.core.image_dataset import load_images

module_generator = random.Random(1)


class NoisyImages(Dataset):
    def __init__(self, data_dir, split, count=400):
        images, self.labels = load_images(data_dir, split, cache_above=32)
        self.images, self.train = images[::3][:count].float() / 255, split == "train"
        self.labels = self.labels[::3][:count]
        self.own_generator = np.random.default_rng(0)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        if self.train:
            noise = random.random() + np.random.rand() + torch.rand(()).item() + self.own_generator.random()
            image = image + 0.05 * (noise - 2 + module_generator.random())
        return {"pixels": image.flatten()}, self.labels[index]


def fetch_dataloader(types, data_dir, params):
    loaders = {}
    for split in types:
        dataset = NoisyImages(data_dir, split)
        sampler = WeightedRandomSampler(1 + dataset.labels % 3, len(dataset)) if split == "train" else None
        loaders[split] = DataLoader(dataset, params.batch_size, sampler=sampler, num_workers=params.num_workers)
    return loaders

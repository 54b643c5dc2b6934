import numpy as np
import torch
from sklearn.datasets import load_wine
from torch.utils.data import DataLoader, TensorDataset


def wines(split):
    features, labels = load_wine(return_X_y=True)
    part = np.arange(len(labels)) % 5  # 0 is test, 1 is val, the others are train
    features = (features - features[part > 1].mean(axis=0)) / features[part > 1].std(axis=0)
    rows = {"test": part == 0, "val": part == 1, "train": part > 1}[split]
    return TensorDataset(torch.tensor(features[rows], dtype=torch.float32), torch.tensor(labels[rows]))


def fetch_dataloader(types, data_dir, params):
    return {split: DataLoader(wines(split), params.batch_size, shuffle=split == "train") for split in types}

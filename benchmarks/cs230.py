"""CS230's way to train on its hand signs, written from its description, to compare with.

python benchmarks/cs230.py path/to/SIGNS path/to/experiment --num_epochs 10 --num_workers 4

Each image is opened with Pillow whenever a batch needs it, and goes through transforms; floats in torch's default
layout go to the network. The loss is read after each step; metrics are computed of a batch every 100 steps, and of the
validation split as the mean over its batches. Nothing of the template is used.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from tqdm import tqdm

BATCH_SIZE = 32
SAVE_SUMMARY_STEPS = 100

evaluation = transforms.Compose([transforms.Resize(64), transforms.ToTensor()])
training = transforms.Compose([transforms.Resize(64), transforms.RandomHorizontalFlip(), transforms.ToTensor()])


class Signs(Dataset):
    """The JPEG files of a folder; the label is what stands before the underscore."""

    def __init__(self, folder, transform):
        self.files = sorted(folder.glob("*.jpg"))
        self.labels = [int(file.name.split("_")[0]) for file in self.files]
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.transform(Image.open(self.files[index])), self.labels[index]


class Net(nn.Module):
    """The network of model/net.py's ConvNet for 64×64 images and 10 classes, in torch's default layout."""

    def __init__(self, width=32):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.fc1 = nn.Linear(8 * 8 * 4 * width, 4 * width)
        self.fc2 = nn.Linear(4 * width, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.bn1(self.conv1(x)), 2))  # (B, width, 32, 32)
        x = F.relu(F.max_pool2d(self.bn2(self.conv2(x)), 2))  # (B, 2 width, 16, 16)
        x = F.relu(F.max_pool2d(self.bn3(self.conv3(x)), 2))  # (B, 4 width, 8, 8)
        x = F.dropout(F.relu(self.fc1(x.flatten(1))), 0.5, self.training)
        return F.log_softmax(self.fc2(x), dim=1)


def loaders(folder, num_workers):
    """The data loaders of the training and the validation split."""
    train = Signs(folder / "train_signs", training)
    val = Signs(folder / "val_signs", evaluation)
    return (
        DataLoader(train, BATCH_SIZE, shuffle=True, num_workers=num_workers),
        DataLoader(val, BATCH_SIZE, num_workers=num_workers),
    )


def accuracy(outputs, labels):
    return np.sum(np.argmax(outputs, axis=1) == labels) / labels.size


def train(model, optimizer, loader):
    """One epoch."""
    model.train()
    summaries, total = [], 0.0
    with tqdm(total=len(loader), disable=None) as bar:
        for step, (images, labels) in enumerate(loader):
            outputs = model(images)
            loss = F.nll_loss(outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % SAVE_SUMMARY_STEPS == 0:
                summaries.append(accuracy(outputs.detach().numpy(), labels.numpy()))
            total += loss.item()
            bar.set_postfix(loss=f"{total / (step + 1):05.3f}")
            bar.update()
    return float(np.mean(summaries))


def evaluate(model, loader):
    """The metrics of the validation split, averaged over its batches."""
    model.eval()
    summaries = []
    for images, labels in loader:
        outputs = model(images)
        loss = F.nll_loss(outputs, labels)
        summaries.append((accuracy(outputs.detach().numpy(), labels.numpy()), loss.item()))
    return dict(zip(("accuracy", "loss"), np.mean(summaries, axis=0).tolist(), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train_signs/ and val_signs/")
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--num_epochs", type=int, default=10)
    parser.add_argument("--num_workers", type=int, default=4)
    args = parser.parse_args()
    args.model_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(230)
    train_loader, val_loader = loaders(args.data, args.num_workers)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    best = 0.0
    for epoch in range(args.num_epochs):
        train(model, optimizer, train_loader)
        metrics = evaluate(model, val_loader)
        state = {"epoch": epoch + 1, "state_dict": model.state_dict(), "optim_dict": optimizer.state_dict()}
        torch.save(state, args.model_dir / "last.pth.tar")
        if metrics["accuracy"] >= best:
            best = metrics["accuracy"]
            shutil.copyfile(args.model_dir / "last.pth.tar", args.model_dir / "best.pth.tar")
            (args.model_dir / "metrics_val_best_weights.json").write_text(json.dumps(metrics))
        (args.model_dir / "metrics_val_last_weights.json").write_text(json.dumps(metrics))
        print(f"epoch {epoch + 1}: {metrics}")


if __name__ == "__main__":
    main()

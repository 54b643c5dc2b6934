"""Signs as JPEG files named <label>_<anything>.jpg, in the style of 2018."""

import os

import torchvision.transforms as transforms
from PIL import Image
from torch.utils.data import DataLoader, Dataset

train_transformer = transforms.Compose(
    [transforms.Resize(32), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
)
eval_transformer = transforms.Compose([transforms.Resize(32), transforms.ToTensor()])


class Signs(Dataset):
    def __init__(self, folder, transform):
        self.files = sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".jpg"))
        self.labels = [int(os.path.basename(name).split("_")[0]) for name in self.files]
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return self.transform(Image.open(self.files[i])), self.labels[i]


def fetch_dataloader(types, data_dir, params):
    loaders = {}
    for split in ["train", "val", "test"]:
        if split in types:
            folder = os.path.join(data_dir, "{}_signs".format(split))
            transform = train_transformer if split == "train" else eval_transformer
            loaders[split] = DataLoader(
                Signs(folder, transform),
                batch_size=params.batch_size,
                shuffle=(split == "train"),
                num_workers=params.num_workers,
                pin_memory=params.cuda,
            )
    return loaders

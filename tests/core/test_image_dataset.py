import numpy as np
import pytest
import torch
from conftest import copy_of
from PIL import Image

from toolkit.core.image_dataset import fits_on, load_images, read_facts
from utils import UserError


def test_pixels_and_labels_are_those_of_the_files(digits_dir):
    images, labels = load_images(digits_dir, "val", cache_above=32)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert images.shape == (len(labels), 1, 8, 8)
    files = sorted((digits_dir / "val").glob("*/*.png"))
    for file, image, label in zip(files, images, labels, strict=True):
        assert file.parent.name == str(label.item())
        assert np.array_equal(np.asarray(Image.open(file)), image[0].numpy())


def test_a_large_split_is_mapped_from_a_file_that_is_written_once(digits_dir, tmp_path):
    data = copy_of(digits_dir, tmp_path / "digits")
    in_memory = load_images(data, "train", cache_above=32)
    mapped = load_images(data, "train", cache_above=0)
    cache = next((data / ".cache").iterdir())
    written = cache.stat().st_mtime_ns
    again = load_images(data, "train", cache_above=0)
    assert cache.stat().st_mtime_ns == written
    assert cache.name == f"train-{read_facts(data)['split_fingerprint']['train'][:16]}.npy"
    for images, labels in (mapped, again):
        assert torch.equal(images, in_memory[0])
        assert torch.equal(labels, in_memory[1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2] + bytes(len(content) // 2),
        lambda content: content[:200] + bytes(40) + content[240:],
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:100],
        lambda content: b"",
        lambda content: b"\0" * 20 + content[20:],
        lambda content: content.replace(b"|u1", b"<f8"),
        lambda content: content.replace(b"False", b"True "),
        lambda content: content.replace(b"1439", b"1438"),
    ],
)
def test_a_damaged_mapped_file_is_noticed_and_written_again(digits_dir, tmp_path, damage):
    data = copy_of(digits_dir, tmp_path / "digits")
    images, _ = load_images(data, "train", cache_above=0)
    cache = next((data / ".cache").iterdir())
    whole = cache.read_bytes()
    del images
    cache.write_bytes(damage(whole))
    assert cache.read_bytes() != whole
    assert torch.equal(load_images(data, "train", cache_above=0)[0], load_images(data, "train", cache_above=32)[0])
    assert cache.read_bytes() == whole


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "dataset.json").unlink(), "not a dataset of images"),
        (lambda d: next((d / "train" / "3").iterdir()).unlink(), "images are there, but .* counts"),
        (lambda d: next((d / "train" / "3").iterdir()).write_bytes(b"x"), "cannot be read as an image"),
        (
            lambda d: Image.new("L", (9, 8)).save(next((d / "train" / "3").iterdir())),
            "is 9x8 pixels, the dataset's are 8x8",
        ),
        (lambda d: (d / "dataset.json").write_text("{"), "not valid JSON"),
        (lambda d: (d / "dataset.json").write_text('{"class_names": []}'), "has no counts, .*, std; build it again"),
    ],
)
def test_a_dataset_changed_by_hand_is_named(digits_dir, tmp_path, spoil, message):
    data = copy_of(digits_dir, tmp_path / "digits")
    spoil(data)
    with pytest.raises(UserError, match=message):
        load_images(data, "train", cache_above=32)


def test_a_dataset_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such dataset; build_dataset.py makes one"):
        read_facts(tmp_path / "none")


def test_nothing_is_moved_to_a_cpu():
    assert not fits_on("cpu", 0)

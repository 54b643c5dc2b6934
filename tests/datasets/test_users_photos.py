"""Folders of photos as users have them: links, archives, names and formats of all kinds. Nothing is left out silently."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import run_process
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

import build_dataset
import utils

PHOTO = load_sample_image("flower.jpg")  # (427, 640, 3)
posix = pytest.mark.skipif(sys.platform != "linux", reason="needs links and names of bytes")


def photo(number):
    """A piece of a real photo, different for each number."""
    y, x = divmod(number * 40, 600)
    return Image.fromarray(PHOTO[40 * y : 40 * y + 40, x : x + 40])


def photos(place, count=10, classes=("cat", "dog"), first=0):
    """A folder with `count` photos of each class, from photo number `first` on."""
    for number, label in enumerate(classes):
        (place / label).mkdir(parents=True)
        for i in range(count):
            photo(first + number * count + i).save(place / label / f"{label}{i}.png")
    return place


def build(call, place, *arguments):
    """Build the dataset "x" of 16×16 pixels; return (exit code, output, error)."""
    return call(build_dataset.main, "folder", place, "--name", "x", "--image_size", 16, *arguments)


def built(kind="x"):
    return sorted(Path("data", kind).glob("*/*/*.png"))


def facts():
    return json.loads(Path("data/x/dataset.json").read_text())


@posix
def test_class_folders_and_folders_in_them_may_be_links(call, tmp_path):
    photos(tmp_path / "store")
    photos(tmp_path / "more", classes=("a", "b"))  # the same again
    (tmp_path / "photos").mkdir()
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).symlink_to(tmp_path / "store" / label)
    photo(40).save(tmp_path / "new.png")
    (tmp_path / "holidays").mkdir()
    (tmp_path / "new.png").rename(tmp_path / "holidays" / "new.png")
    (tmp_path / "store" / "cat" / "holidays").symlink_to(tmp_path / "holidays")
    (tmp_path / "holidays" / "all").symlink_to(tmp_path / "photos")  # leads back
    code, _, err = build(call, tmp_path / "photos")
    assert (code, err) == (0, "")
    assert len(built()) == 21


@posix
def test_a_link_to_nowhere_and_a_format_that_cannot_be_read_are_named(call, tmp_path):
    source = photos(tmp_path / "photos")
    (source / "cat" / "gone.jpg").symlink_to("../annex/gone.jpg")
    code, _, err = build(call, source)
    assert code == 2 and "gone.jpg: cannot be decoded: it is a link to ../annex/gone.jpg, which is not there" in err
    assert build(call, source, "--skip_corrupt")[0] == 0
    (source / "cat" / "gone.jpg").unlink()
    (source / "cat" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    code, _, err = build(call, source, "--force")
    assert code == 2 and err.count("\n") == 1
    assert "IMG_1.HEIC: cannot be read as an image: its format is unknown to Pillow: convert it to JPEG or PNG" in err
    (source / "dog" / "notes.txt").write_text("")
    code, out, _ = build(call, source, "--skip_corrupt", "--force")
    assert code == 0 and "Left out " in out and "IMG_1.HEIC" in out
    assert "Ignored files that are not images: 1, such as " in out and "notes.txt" in out
    assert len(built()) == 20


def test_what_archives_contain_besides_photos_is_ignored(call, tmp_path):
    source = photos(tmp_path / "photos")
    photos(tmp_path / "photos" / "dog" / ".ipynb_checkpoints", classes=("a",))
    for clutter in ("__MACOSX/cat/._cat0.png", ".DS_Store", "cat/._cat0.png", "cat/Thumbs.db"):
        (source / clutter).parent.mkdir(parents=True, exist_ok=True)
        (source / clutter).write_bytes(b"x")
    code, out, err = build(call, source)
    assert (code, err) == (0, "") and "Ignored" not in out
    assert facts()["class_names"] == ["cat", "dog"]
    split = tmp_path / "split"
    photos(split / "train")
    photos(split / "test", first=40)
    (split / "__MACOSX" / "train").mkdir(parents=True)
    (split / "__MACOSX" / "train" / "._x.png").write_bytes(b"x")
    code, _, err = build(call, split, "--force")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("above", ["photos", "photos/archive/photos", "photos/train"])
def test_one_folder_too_many_is_named(call, tmp_path, above):
    photos(tmp_path / above / "mine")
    code, _, err = build(call, tmp_path / "photos")
    assert code == 2 and err.count("\n") == 1
    assert f"if cat, dog in it are meant, give the folder {(tmp_path / above / 'mine').as_posix()}, or move them" in err
    assert build(call, tmp_path / above / "mine")[0] == 0


def test_without_the_word_folder_the_command_is_given(call, tmp_path):
    photos(tmp_path / "photos")
    code, _, err = call(build_dataset.main, "photos")
    assert code == 2
    assert err == (
        "error: photos: give one of digits, folder, mnist, fashion_mnist, cifar10; "
        "for images of your own: python build_dataset.py folder photos\n"
    )


def test_names_of_nested_folders_may_be_longer_than_a_file_name(call, tmp_path):
    source = photos(tmp_path / "photos")
    for letter in ("a", "é"):  # é takes two bytes
        deep = source / "cat" / (90 * letter) / (70 * letter) / (60 * letter)
        deep.mkdir(parents=True)
        photo(50).save(deep / "1.png")
        photo(51).save(deep / "2.png")
    code, _, err = build(call, source)
    assert (code, err) == (0, "")
    assert len(built()) == 24
    long = "k" * 240
    (source / "dog").rename(source / long)
    assert build(call, source, "--force")[0] == 0
    assert call(build_dataset.main, "--audit", "data/x")[0] == 0


@posix
def test_names_that_are_not_utf8_are_escaped(call, tmp_path):
    source = photos(tmp_path / "photos")
    os.rename(os.fsencode(source / "cat"), os.fsencode(source) + b"/caf\xe9")
    os.rename(os.fsencode(source) + b"/caf\xe9/cat0.png", os.fsencode(source) + b"/caf\xe9/\xff.png")
    code, _, err = build(call, source)
    assert (code, err) == (0, "")
    assert facts()["class_names"] == ["caf\\udce9", "dog"]
    assert {file.name for file in built()} >= {"\\udcff.png", "cat1.png"}


@pytest.mark.parametrize("other", ["Cat", "cat ", "ｃａｔ"])
def test_classes_with_almost_the_same_name_are_reported(call, tmp_path, other):
    code, out, _ = build(call, photos(tmp_path / "photos", classes=("cat", "dog", other)))
    assert code == 0
    assert f"! classes      3 classes of 8 images in train; '{min('cat', other)}' and '{max('cat', other)}' look" in out


def test_the_dataset_is_where_train_looks_for_it(call, tmp_path, monkeypatch):
    photos(tmp_path / "photos")
    (tmp_path / "else" / "where").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "else" / "where")
    assert build(call, tmp_path / "photos")[0] == 0
    assert (tmp_path / "data" / "x").is_dir()


def write_tiffs(place, value, dtype, lows=(0.1, 0.5), count=10):
    """Real digits as TIFF files of grey values value(x), with x from 0 to 1."""
    images = load_digits().images / 16
    for label, low in zip(("a", "b"), lows, strict=True):
        (place / label).mkdir(parents=True)
        for i in range(count):
            pixels = value(low + (1 - low) * images[i + (count if label == "b" else 0)])
            Image.fromarray(pixels.astype(dtype)).save(place / label / f"{i}.tif")
    return place


@pytest.mark.parametrize(
    ("value", "dtype", "value_range"),
    [
        (lambda x: 4095 * x, np.uint16, [0, 4095]),
        (lambda x: 65535 * x, np.uint16, [0, 65535]),
        (lambda x: 21000 + 4000 * x, np.uint16, [21400, 25000]),  # a thermal camera
        (lambda x: -1024 + 4095 * x, np.int32, [-614, 3071]),  # computed tomography
        (lambda x: x, np.float32, [0, 1]),
        (lambda x: 0.002 * x, np.float32, [0.0002, 0.002]),
        (lambda x: 255 * x, np.float32, [0, 255]),
        (lambda x: 65535 * x, np.float32, [0, 65535]),
        (lambda x: np.where(x > 0.99, np.nan, 65535 * x), np.float32, [0, 65535]),
    ],
)
def test_values_of_more_than_8_bits_have_one_scale(call, tmp_path, value, dtype, value_range):
    code, out, err = build(call, write_tiffs(tmp_path / "photos", value, dtype))
    assert (code, err) == (0, "")
    assert facts()["value_range"] == pytest.approx(value_range, rel=1e-6)
    pixels = np.stack([np.asarray(Image.open(file)) for file in built()])
    assert len(np.unique(pixels)) > 100 and 80 < pixels.mean() < 200
    means = {
        label: np.mean([np.asarray(Image.open(f)).mean() for f in built() if f.parts[3] == label]) for label in "ab"
    }
    assert means["b"] > means["a"] + 30  # brightness is that of the class, not of each image
    assert ("Images with pixels without a value (NaN), which become black: " in out) == bool(np.isnan(value(1.0)))


def test_twelve_bits_per_colour_are_refused_because_eight_are_read(call, tmp_path):
    source = photos(tmp_path / "photos")
    tiff = write_rgb16(source / "cat" / "deep.tif", 4095)
    code, _, err = build(call, source)
    assert code == 2 and err.count("\n") == 1
    assert "deep.tif: has 16 bits per colour, but no image uses values above " in err
    tiff.unlink()
    write_rgb16(source / "cat" / "deep.tif", 65535)
    assert build(call, source)[0] == 0


def write_rgb16(file, most):
    """A photo as a TIFF file of 16 bits per colour, which Pillow itself does not write."""
    pixels = np.asarray(photo(60), np.float64)
    pixels = (pixels / pixels.max() * most).astype("<u2")
    height, width, _ = pixels.shape
    bits = 8 + 2 + 12 * 9 + 4
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, bits + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, pixels.nbytes)]
    content = b"II*\0\x08\0\0\0" + len(entries).to_bytes(2, "little")
    for tag, kind, count, value in entries:
        content += b"".join(
            n.to_bytes(k, "little") for n, k in zip((tag, kind, count, value), (2, 2, 4, 4), strict=True)
        )
    file.write_bytes(content + bytes(4) + 3 * b"\x10\0" + pixels.tobytes())
    return file


def test_of_several_pictures_in_a_file_the_first_is_used_and_said(call, tmp_path):
    source = photos(tmp_path / "photos")
    photo(70).save(source / "cat" / "moving.gif", save_all=True, append_images=[photo(71), photo(72)])
    code, out, _ = build(call, source)
    assert code == 0
    assert "Images with several pictures, of which the first is used: 1, such as " in out


def test_a_build_that_was_killed_is_cleaned_up_by_the_next(call, tmp_path):
    source = photos(tmp_path / "photos")
    code = "import os, sys; from toolkit.datasets.dataset_folder import write_folder; from pathlib import Path\n"
    code += "with write_folder(Path(sys.argv[1])) as new: (new / 'half').write_text(''); os._exit(9)"
    assert run_process(sys.executable, "-c", code, tmp_path / "data" / "y").returncode == 9
    ours = f".z.building-a{utils.ending_of_unfinished()}"
    (tmp_path / ours).mkdir()  # of a process that is alive
    assert len(list(tmp_path.glob(".y.building-*"))) == 1
    assert build(call, source)[0] == 0
    assert not list(tmp_path.glob(".y.building-*"))
    assert (tmp_path / ours).is_dir()

import gzip
import hashlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torchvision
from conftest import ROOT, copy_of, run_process, snapshot
from PIL import Image
from sklearn.datasets import load_digits

import build_dataset
from toolkit.core.image_dataset import SPLITS, load_images
from utils import UserError

DIGITS = (load_digits().images * (255 / 16)).astype(np.uint8)
LABELS = load_digits().target


def picture(index, mode="L", size=(40, 30)):
    """A real digit as a Pillow image of some mode and size."""
    return Image.fromarray(DIGITS[index]).resize(size, Image.Resampling.BILINEAR).convert(mode)


def class_folders(path, per_class=10, classes=("cat", "dog")):
    """A folder with a subfolder a class, of different pictures."""
    index = 0
    for name in classes:
        (path / name).mkdir(parents=True)
        for i in range(per_class):
            picture(index, "RGB").save(path / name / f"{i}.png")
            index += 1
    return path


def facts(name):
    with open(f"data/{name}/dataset.json") as file:
        return json.load(file)


def counts(name):
    return {split: sum(facts(name)["counts"][split].values()) for split in SPLITS}


def test_digits_are_the_default_and_complete(call):
    code, out, err = call(build_dataset.main)
    assert (code, err) == (0, "")
    assert '"dataset": "digits"' in out
    made = facts("digits")
    assert made["num_classes"] == 10
    assert (made["image_channels"], made["image_height"], made["image_width"]) == (1, 8, 8)
    assert sum(counts("digits").values()) == 1797
    for split in SPLITS:  # alike in every class
        shares = [made["counts"][split][c] / np.sum(int(c) == LABELS) for c in made["class_names"]]
        assert max(shares) - min(shares) < 0.01
    train = np.stack([np.asarray(Image.open(f)) for f in sorted_files("data/digits/train")]) / 255
    assert made["mean"] == pytest.approx([train.mean()])
    assert made["std"] == pytest.approx([train.std()])


def sorted_files(folder):
    return [os.path.join(place, f) for place, _, files in sorted(os.walk(folder)) for f in sorted(files)]


def test_the_same_seed_gives_the_same_dataset_and_another_seed_another(call):
    call(build_dataset.main, "digits", "--name", "a")
    call(build_dataset.main, "digits", "--name", "b")
    call(build_dataset.main, "digits", "--name", "c", "--seed", "1")
    assert snapshot("data/a") == snapshot("data/b")
    assert facts("a")["fingerprint"] != facts("c")["fingerprint"]
    assert counts("a") == counts("c")


def test_a_second_build_does_nothing_and_a_different_one_wants_force(call, tmp_path):
    source = class_folders(tmp_path / "photos")
    call(build_dataset.main, "folder", source)
    before = snapshot("data")
    code, out, _ = call(build_dataset.main, "folder", source)
    assert (code, snapshot("data")) == (0, before)
    assert "nothing to do" in out

    code, _, err = call(build_dataset.main, "folder", source, "--image_size", 16)
    assert code == 2
    assert (
        err
        == "error: data/photos: already holds another dataset (image_size was [64, 64], is now [16, 16]); --force replaces it\n"
    )
    picture(30).save(source / "cat" / "new.png")
    code, _, err = call(build_dataset.main, "folder", source)
    assert code == 2
    assert "the source files have changed" in err
    assert snapshot("data") == before

    shutil.rmtree(source / "cat")
    class_folders(source, classes=("bird",))
    assert call(build_dataset.main, "folder", source, "--image_size", 16, "--force")[0] == 0
    assert facts("photos")["class_names"] == ["bird", "dog"]
    assert not any("cat" in name for name in snapshot("data"))
    assert os.listdir("data") == ["photos"]


def test_a_folder_that_was_not_built_here_is_never_replaced(call, tmp_path):
    class_folders(tmp_path / "data" / "mine")
    before = snapshot("data")
    code, _, err = call(build_dataset.main, "folder", "data/mine", "--force")
    assert (code, snapshot("data")) == (2, before)
    assert "was not made by build_dataset.py; choose another --name" in err


def test_labels_before_the_underscore_and_of_several_digits(call, tmp_path):
    (tmp_path / "flat").mkdir()
    for index in range(60):
        picture(index).save(tmp_path / "flat" / f"{index % 12}_IMG_{index}.JPG", quality=95)
    assert call(build_dataset.main, "folder", "flat", "--image_size", 8, 12)[0] == 0
    assert facts("flat")["class_names"] == [str(n) for n in range(12)]  # 10 after 9, not after 1
    assert (facts("flat")["image_height"], facts("flat")["image_width"]) == (8, 12)
    assert counts("flat") == {"train": 36, "val": 12, "test": 12}


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train_signs", "test_signs"), {"train": 16, "val": 4, "test": 20}),
        (("train", "dev", "test"), {"train": 20, "val": 20, "test": 20}),
        (("Training", "validation"), {"train": 16, "val": 20, "test": 4}),
        (("train",), {"train": 16, "val": 2, "test": 2}),
    ],
)
def test_splits_that_are_there_are_kept_and_the_missing_ones_made(call, tmp_path, folders, expected):
    index = 0
    for folder in folders:
        (tmp_path / "split" / folder).mkdir(parents=True)
        for i in range(20):
            picture(index).save(tmp_path / "split" / folder / f"{i % 2}_IMG_{i}.png")
            index += 1
    assert call(build_dataset.main, "folder", "split")[0] == 0
    assert counts("split") == expected


def test_classes_whose_names_begin_like_splits_are_classes(call, tmp_path):
    class_folders(tmp_path / "things", classes=("trainer", "valley", "testament", "bus"))
    assert call(build_dataset.main, "folder", "things")[0] == 0
    assert facts("things")["class_names"] == ["bus", "testament", "trainer", "valley"]


def test_a_dataset_with_files_missing_is_noticed_and_force_mends_it(call):
    call(build_dataset.main)
    whole = snapshot("data")
    os.unlink(sorted_files("data/digits/train")[0])
    code, _, err = call(build_dataset.main)
    assert code == 2
    assert "build it again with --force" in err
    assert call(build_dataset.main, "--force")[0] == 0
    assert snapshot("data") == whole


def test_a_class_may_be_called_train(call, tmp_path):
    class_folders(tmp_path / "vehicles", classes=("bus", "train"))
    assert call(build_dataset.main, "folder", "vehicles")[0] == 0
    assert facts("vehicles")["class_names"] == ["bus", "train"]


def test_images_of_every_kind(call, tmp_path):
    source = class_folders(tmp_path / "kinds", classes=("a", "b"), per_class=4)
    picture(50, "P").save(source / "a" / "palette.gif")
    picture(51, "RGBA").save(source / "a" / "alpha.PNG")
    picture(52, "CMYK").save(source / "a" / "print.JPEG")
    picture(53, "1").save(source / "b" / "bits.bmp")
    Image.fromarray(DIGITS[54].astype(np.uint16) * 257).save(source / "b" / "deep.tiff")
    picture(55).save(source / "b" / "modern.webp")
    (source / "b" / ".hidden.png").write_bytes(b"not an image")
    (source / "b" / "notes.txt").write_bytes(b"not an image")
    (source / "a" / "deeper").mkdir()
    picture(56).save(source / "a" / "deeper" / "0.png")
    code, out, _ = call(build_dataset.main, "folder", source)
    assert code == 0
    assert "Ignored files that are not images: 1, such as " in out
    assert sum(counts("kinds").values()) == 8 + 7
    for file in sorted_files("data/kinds"):
        if file.endswith(".png"):
            with Image.open(file) as image:
                assert (image.mode, image.size) == ("RGB", (64, 64))


def test_a_corrupt_image_stops_the_build_or_is_left_out(call, tmp_path):
    source = class_folders(tmp_path / "photos")
    picture(40, size=(300, 300)).save(source / "cat" / "cut.jpg")
    whole = (source / "cat" / "cut.jpg").read_bytes()
    (source / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    code, _, err = call(build_dataset.main, "folder", source)
    assert code == 2
    assert f"{(source / 'cat' / 'cut.jpg').as_posix()}: cannot be decoded" in err
    assert "--skip_corrupt" in err
    assert err.count("\n") == 1
    assert not os.path.exists("data")
    code, out, _ = call(build_dataset.main, "folder", source, "--skip_corrupt")
    assert code == 0
    assert f"Left out {(source / 'cat' / 'cut.jpg').as_posix()}" in out
    assert sum(counts("photos").values()) == 20


def test_identical_images_in_two_splits_are_an_error_or_leave_train(call, tmp_path):
    for split in ("train", "val", "test"):
        class_folders(tmp_path / "photos" / split)  # the same in all three
    picture(70, "RGB").save(tmp_path / "photos" / "train" / "cat" / "only.png")
    picture(71, "RGB").save(tmp_path / "photos" / "train" / "dog" / "only.png")
    code, _, err = call(build_dataset.main, "folder", "photos")
    assert code == 2
    assert err.count("\n") == 1 and " and 17 more; " in err and "--drop_duplicates removes them" in err
    assert "20 images are in two splits: photos/train/cat/0.png = photos/val/cat/0.png = photos/test/cat/0.png, " in err
    assert not os.path.exists("data")
    code, _, err = call(build_dataset.main, "folder", "photos", "--drop_duplicates")
    assert code == 2
    assert "the val split has no images" in err
    for image in range(5):
        (tmp_path / "photos" / "test" / "cat" / f"{image}.png").unlink()
        (tmp_path / "photos" / "test" / "dog" / f"{image}.png").unlink()
    code, out, err = call(build_dataset.main, "folder", "photos", "--drop_duplicates")
    assert (code, err) == (0, "")
    assert counts("photos") == {"train": 2, "val": 10, "test": 10}


def test_copies_of_one_file_stay_in_one_split(call, tmp_path):
    source = class_folders(tmp_path / "photos", per_class=30)
    for i in range(30):
        shutil.copy(source / "cat" / f"{i}.png", source / "cat" / f"copy_{i}.png")
    code, _, err = call(build_dataset.main, "folder", source)
    assert (code, err) == (0, "")
    assert counts("photos") == {"train": 72, "val": 9, "test": 9}


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (lambda p: None, ["folder", "photos"], "photos: no such folder"),
        (lambda p: p.mkdir(), ["folder", "photos"], "photos: contains no images"),
        (lambda p: class_folders(p, classes=("cat",)), ["folder", "photos"], "there is only one class (cat)"),
        (
            lambda p: class_folders(p, per_class=2),
            ["folder", "photos"],
            "class 'cat' has only 2 different images for train, val, test; add some",
        ),
        (
            lambda p: (class_folders(p) / "fish").mkdir(),
            ["folder", "photos"],
            "photos/fish: class folder without images",
        ),
        (
            lambda p: picture(0).save(class_folders(p) / "x.png"),
            ["folder", "photos"],
            "photos/x.png: is next to class folders; move it into one",
        ),
        (lambda p: (p.mkdir(), picture(0).save(p / "x.png")), ["folder", "photos"], "photos/x.png: no label"),
        (
            lambda p: [class_folders(p / n) for n in ("train", "val", "dev")],
            ["folder", "photos"],
            "dev and val are both for the val",
        ),
        (
            lambda p: [class_folders(p / n) for n in ("train", "test", "x")],
            ["folder", "photos"],
            "photos: x is not in a folder for train, val or test",
        ),
        (
            lambda p: [picture(0).save(class_folders(p / n).parent / "0_x.png") for n in ("train", "test")],
            ["folder", "photos"],
            "photos: 0_x.png is not in a folder for train, val or test",
        ),
        (
            lambda p: shutil.copy(class_folders(p) / "cat" / "0.png", p / "dog" / "x.png"),
            ["folder", "photos"],
            "photos/cat/0.png and photos/dog/x.png are the same image in two classes",
        ),
        (lambda p: class_folders(p), ["folder", "photos", "--seed", "-1"], "--seed is -1; give 0 or more"),
        (
            lambda p: class_folders(p),
            ["mnist", "--raw_dir", "photos/cat/0.png"],
            "mnist: photos/cat/0.png has no usable files of it",
        ),
        (lambda p: class_folders(p), ["folder"], "`folder`, and only `folder`, needs the path of your images"),
        (lambda p: class_folders(p), ["digits", "photos"], "`folder`, and only `folder`, needs the path"),
        (lambda p: class_folders(p), ["folder", "photos", "--name", "../x"], "without slashes"),
        (lambda p: class_folders(p), ["folder", "photos", "--image_size", "0"], "one number above 0"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_written(call, tmp_path, make, arguments, message):
    make(tmp_path / "photos")
    before = snapshot(tmp_path)
    code, _, err = call(build_dataset.main, *arguments)
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert snapshot(tmp_path) == before


def write_idx(folder, prefix, images, labels):
    """Raw files as MNIST's are published, of real digits at 28×28 pixels."""
    large = np.stack([np.asarray(Image.fromarray(image).resize((28, 28))) for image in images])
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
        struct.pack(">iiii", 2051, len(large), 28, 28) + large.tobytes()
    )
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
        struct.pack(">ii", 2049, len(labels)) + labels.astype(np.uint8).tobytes()
    )


@pytest.mark.parametrize("kind", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("gzipped", [False, True])
def test_torchvisions_sets_from_raw_files_in_place(call, tmp_path, kind, gzipped):
    raw = tmp_path / "raw"
    raw.mkdir()
    write_idx(raw, "train", DIGITS[:500], LABELS[:500])
    write_idx(raw, "t10k", DIGITS[500:700], LABELS[500:700])
    if gzipped:
        for file in list(raw.iterdir()):
            with gzip.open(f"{file}.gz", "wb") as packed:
                packed.write(file.read_bytes())
            file.unlink()
    before = snapshot(raw)
    code, _, err = call(build_dataset.main, kind, "--raw_dir", raw)
    assert (code, err) == (0, "")
    assert counts(kind)["test"] == 200
    assert sum(counts(kind).values()) == 700
    assert facts(kind)["class_names"][0] == {"mnist": "0", "fashion_mnist": "T-shirt-top"}[kind]
    assert snapshot(raw) == before


def test_cifar10_from_raw_files_in_place(call, tmp_path, monkeypatch):
    """Files in CIFAR-10's format, of digits in colour; their checksums cannot be those that torchvision knows."""
    rows = np.stack([np.asarray(Image.fromarray(image).resize((32, 32))).ravel() for image in DIGITS[:300]])
    pixels = np.concatenate([rows, rows // 2, rows // 4], axis=1)  # all of red, then green, then blue
    folder = tmp_path / "raw" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    contents = [{"data": pixels[i::6], "labels": LABELS[:300][i::6].tolist()} for i in range(6)]
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    for name, content in zip([*names, "batches.meta"], [*contents, {"label_names": classes}], strict=True):
        (folder / name).write_bytes(pickle.dumps(content))
    sums = [(name, hashlib.md5((folder / name).read_bytes()).hexdigest()) for name in names]
    meta = {"filename": "batches.meta", "key": "label_names"}
    meta["md5"] = hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()
    for attribute, value in (("train_list", sums[:5]), ("test_list", sums[5:]), ("meta", meta)):
        monkeypatch.setattr(torchvision.datasets.CIFAR10, attribute, value)
    code, _, err = call(build_dataset.main, "cifar10", "--raw_dir", tmp_path / "raw")
    assert (code, err) == (0, "")
    assert facts("cifar10")["class_names"] == classes
    assert (facts("cifar10")["image_channels"], counts("cifar10")["test"]) == (3, 50)
    assert facts("cifar10")["mean"][0] == pytest.approx(2 * facts("cifar10")["mean"][1], rel=0.02)
    with Image.open(f"data/cifar10/test/{classes[LABELS[5::6][10]]}/00010.png") as image:
        first = np.asarray(image)
    assert np.array_equal(first[..., 0].ravel(), rows[5::6][10])


DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.exists(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_real_fashion_mnist_from_debians_package(call):
    code, _, err = call(build_dataset.main, "fashion_mnist", "--raw_dir", DEBIAN)
    assert (code, err) == (0, "")
    assert counts("fashion_mnist") == {"train": 48000, "val": 12000, "test": 10000}
    assert set(facts("fashion_mnist")["counts"]["test"].values()) == {1000}


def test_raw_files_cut_short_are_a_clear_line(call, tmp_path):
    write_idx(tmp_path, "train", DIGITS[:50], LABELS[:50])
    write_idx(tmp_path, "t10k", DIGITS[50:60], LABELS[50:60])
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    code, _, err = call(build_dataset.main, "mnist", "--raw_dir", tmp_path)
    assert code == 2
    assert "has no usable files of it" in err


def test_a_killed_build_leaves_no_dataset_and_the_next_one_is_whole(tmp_path):
    (tmp_path / "data").mkdir()  # as in a clone
    source = class_folders(tmp_path / "photos", per_class=300)
    process = subprocess.Popen(
        [sys.executable, ROOT / "build_dataset.py", "folder", source, "--image_size", "512"], cwd=tmp_path
    )
    while not any((tmp_path / "data").glob(".photos.building-*/new/*/*/*.png")):
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not (tmp_path / "data" / "photos").exists()
    done = run_process(sys.executable, ROOT / "build_dataset.py", "folder", source, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert counts("photos") == {"train": 480, "val": 60, "test": 60}


def test_images_changed_by_hand_are_refused_whether_in_memory_or_mapped(tmp_path, digits_dir):
    data = copy_of(digits_dir, tmp_path / "digits")
    assert len(load_images(data, "val", cache_above=100)[1]) == 179
    file = next((data / "val" / "4").iterdir())
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)  # as many files, of the same names
    for cache_above in (100, 0):
        with pytest.raises(UserError, match="digits/val: images were changed by hand since they were built"):
            load_images(copy_of(data, tmp_path / f"copy-{cache_above}" / "digits"), "val", cache_above)
    assert len(load_images(data, "test", cache_above=100)[1]) == 179

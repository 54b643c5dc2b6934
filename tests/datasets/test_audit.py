import io
import json
import os

import numpy as np
import pytest
from conftest import copy_of, snapshot
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

import build_dataset
from toolkit.datasets import audit_images

SIDE = 40


def pieces(count):
    """Different pieces of two real photographs, as Pillow images; those of sky and blurred leaves are left out."""
    found = []
    for photo in load_sample_images().images:
        height, width, _ = photo.shape
        corners = [(y, x) for y in range(0, height - SIDE, SIDE) for x in range(0, width - SIDE, SIDE)]
        found += [photo[y : y + SIDE, x : x + SIDE] for y, x in corners]
    found = [Image.fromarray(piece) for piece in sorted(found, key=lambda piece: -piece.std(axis=(0, 1)).mean())]
    return [found[i] for i in np.random.default_rng(0).permutation(count)]


def recompressed(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file)


EDITS = {
    "compressed again": recompressed,
    "smaller and larger": lambda image: image.resize((27, 27)).resize(image.size),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "shifted": lambda image: Image.fromarray(np.pad(image, ((0, 0), (1, 0), (0, 0)), "edge")[:, :-1]),
    "cut": lambda image: image.crop((1, 1, SIDE - 1, SIDE - 1)).resize(image.size),
}


def split_folders(place, images, labels=("cat", "dog"), shares=(0.6, 0.2, 0.2)):
    """A folder of images with a folder for each split and class."""
    bounds = np.cumsum([0, *(round(share * len(images)) for share in shares)])
    for split, first, last in zip(("train", "val", "test"), bounds, bounds[1:], strict=False):
        for i in range(first, last):
            folder = place / split / labels[i % len(labels)]
            folder.mkdir(parents=True, exist_ok=True)
            images[i].save(folder / f"{i:03d}.png")
    return place


def build(call, place, *arguments):
    code, out, err = call(build_dataset.main, "folder", place, "--image_size", SIDE, *arguments)
    assert (code, err) == (0, ""), err
    return out


def audited(call, dataset, script=build_dataset):
    """The content of audit.json of a dataset, audited as a user does."""
    code, out, err = call(script.main, "--audit", dataset)
    assert (code, err) == (0, ""), err
    content = json.loads((dataset / "audit" / "audit.json").read_text())
    for name, finding in content.items():  # what is printed is what is written
        assert f"{finding['mark']} {name:<12} {finding['text']}\n" in out
    return content


@pytest.fixture
def digits(tmp_path, digits_dir):
    """A copy of the digits."""
    return copy_of(digits_dir, tmp_path / "digits")


def test_the_digits_are_found_well_and_drawn_and_nothing_else_is_touched(call, digits):
    before = snapshot(digits)
    found = audited(call, digits)
    marks = {name: finding["mark"] for name, finding in found.items()}
    assert len(found["near copies"]["pairs"]) < 15  # handwriting is alike, and yet no copy
    assert {name: mark for name, mark in marks.items() if name != "near copies"} == dict.fromkeys(
        ["files", "copies", "labels", "odd images", "classes", "splits"], "✓"
    )
    first = snapshot(digits / "audit")
    assert {f"contact_{digit}.png" for digit in range(10)} <= first.keys()
    with Image.open(digits / "audit" / "contact_3.png") as sheet:
        assert sheet.width > 1000 and sheet.height > 600  # 60 images, ten in a row
    audited(call, digits)
    after = snapshot(digits)
    assert {name: content for name, content in after.items() if not name.startswith("audit")} == before
    assert snapshot(digits / "audit") == first


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_copy_in_another_split_is_found(call, tmp_path, edit):
    images = pieces(120)
    for i in range(12):  # the last of test are edited images of train
        images[108 + i] = EDITS[edit](images[i])
    out = build(call, split_folders(tmp_path / "photos", images))
    expected = {(f"train/{'cat' if i % 2 == 0 else 'dog'}/{i:03d}.png", i + 108) for i in range(12)}
    found = audited(call, tmp_path / "data" / "photos")["near copies"]
    pairs = {(one, int(other[-7:-4])) for one, other, _ in found["pairs"]}
    assert len(pairs & expected) >= (8 if edit == "shifted" else 10) and len(pairs - expected) <= 1
    assert (
        found["mark"] == "✗"
        and " of test (" in found["text"]
        and "have a near copy in an earlier split" in found["text"]
    )
    assert "✗ near copies" in out  # at the end of the build
    assert (tmp_path / "data" / "photos" / "audit" / "duplicates.png").exists()


def test_a_mirrored_image_is_another_one(call, tmp_path):
    images = pieces(120)
    images[108:] = [ImageOps.mirror(image) for image in images[:12]]
    build(call, split_folders(tmp_path / "photos", images))
    assert len(audited(call, tmp_path / "data" / "photos")["near copies"]["pairs"]) <= 1


def test_a_handful_of_images_has_its_copies_found(call, tmp_path):
    images = pieces(20)
    images[19] = recompressed(images[1])
    build(call, split_folders(tmp_path / "photos", images))
    found = audited(call, tmp_path / "data" / "photos")["near copies"]
    assert [pair[:2] for pair in found["pairs"]] == [["train/dog/001.png", "test/dog/019.png"]]


def test_identical_and_near_images_of_two_classes_are_named(call, tmp_path):
    images = pieces(60)
    images[3], images[4], images[7] = images[1], images[0], recompressed(images[2])  # 2 is a cat, 7 a dog
    build(call, split_folders(tmp_path / "photos", images))
    found = audited(call, tmp_path / "data" / "photos")
    assert found["copies"]["mark"] == "!"
    assert found["copies"]["pairs"] == [
        ["train/cat/000.png", "train/cat/004.png"],
        ["train/dog/001.png", "train/dog/003.png"],
    ]
    assert found["labels"]["pairs"] == [["train/cat/002.png", "train/dog/007.png"]]
    assert (
        "pairs of copies in two classes: 1, such as train/cat/002.png and train/dog/007.png" in found["labels"]["text"]
    )
    assert found["classes"]["text"] == "2 classes of 18 images in train"


def test_images_that_are_odd_are_listed_and_drawn(call, tmp_path):
    images = pieces(150)
    images[0] = Image.new("RGB", (SIDE, SIDE), (200, 30, 30))
    images[1] = images[1].convert("L").convert("RGB")
    images[2] = Image.fromarray(np.asarray(images[2]) // 32 + 220)
    build(call, split_folders(tmp_path / "photos", images))
    odd = audited(call, tmp_path / "data" / "photos")["odd images"]
    assert odd["odd"]["train/cat/000.png"] == "single colour"
    assert odd["odd"]["train/dog/001.png"] == "no colour"
    assert "train/cat/002.png" in odd["odd"]
    assert len(odd["odd"]) < 15
    assert (tmp_path / "data" / "photos" / "audit" / "odd.png").exists()


def test_few_images_and_another_mix_of_classes_are_said(call, tmp_path):
    images = pieces(240)
    place = split_folders(tmp_path / "photos", images, labels=["cat"] * 9 + ["dog"], shares=(0.8, 0.1, 0.1))
    for file in sorted((place / "test" / "cat").iterdir())[:18]:
        file.rename(place / "test" / "dog" / file.name)
    build(call, place)
    found = audited(call, tmp_path / "data" / "photos")
    assert found["classes"]["text"].startswith("2 classes of 19 images (dog) to 173 (cat) in train; accuracy hides")
    assert "few images (24 in val, 24 in test)" in found["splits"]["text"]
    assert "test has another mix of classes" in found["splits"]["text"]
    assert "val has another mix" not in found["splits"]["text"]


def test_files_that_were_changed_by_hand_are_noticed(call, digits):
    file = sorted((digits / "val" / "4").iterdir())[0]
    original = file.read_bytes()
    with Image.open(file) as image:
        ImageOps.invert(image).save(file)
    assert audited(call, digits)["files"]["text"].startswith(
        "images were changed, added or removed (1,797 were built, there are 1,797)"
    )
    file.write_bytes(original[:-30])
    found = audited(call, digits)["files"]
    assert found["text"].startswith(f"1 images cannot be used: val/4/{file.name}") and list(found["broken"]) == [
        f"val/4/{file.name}"
    ]
    Image.new("L", (9, 9)).save(file)
    assert "is 9x9 pixels, not 8x8" in json.dumps(audited(call, digits)["files"]["broken"])
    file.unlink()
    assert audited(call, digits)["files"]["text"].startswith(
        "images were changed, added or removed (1,797 were built, there are 1,796)"
    )
    file.write_bytes(original)
    assert audited(call, digits)["files"]["mark"] == "✓"


def test_a_build_says_what_is_wrong_and_of_many_images_what_is_quick(call, tmp_path, monkeypatch):
    place = split_folders(tmp_path / "photos", pieces(60))
    out = build(call, place)
    assert "✓ near copies  no two images are nearly identical" in out
    assert "For details and contact sheets: python build_dataset.py --audit data/photos" in out
    assert not (tmp_path / "data" / "photos" / "audit").exists()
    out = build(call, place, "--force", "--quiet")
    assert "! splits" in out and "✓" not in out
    monkeypatch.setattr(audit_images, "FEW", 59)
    out = build(call, place, "--force")
    assert "near copies" not in out and "✓ classes" in out


def sentences(place):
    """A dataset of another kind."""
    place.mkdir()
    (place / "dataset.json").write_text('{"vocab_size": 9}')


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: None, "place: no such dataset"),
        (lambda place: place.write_text(""), "place: is a file; a dataset is a folder"),
        (lambda place: place.mkdir(), "place: not a dataset of images: it has no dataset.json"),
        (sentences, "place: not a dataset of images: its dataset.json is of another task"),
    ],
)
def test_what_is_no_dataset_of_images_is_a_clear_line(call, tmp_path, make, message):
    make(tmp_path / "place")
    before = snapshot(tmp_path)
    code, out, err = call(build_dataset.main, "--audit", "place")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_ends_in_a_line_after_the_findings(call, digits):
    digits.chmod(0o555)
    code, out, err = call(build_dataset.main, "--audit", digits)
    digits.chmod(0o755)
    assert code == 2 and "✓ classes" in out
    assert err == f"error: {digits / 'audit'}: cannot be written: Permission denied\n"

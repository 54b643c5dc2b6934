from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from toolkit.core.image_decoding import CorruptImage, decode

PHOTO = Image.fromarray(load_sample_image("china.jpg"))  # 640x427, real, bundled with scikit-learn


def full_decode(path, size):
    """The slow way, without reduced decoding."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)).astype(int)


def test_a_jpeg_decoded_at_reduced_scale_looks_the_same(tmp_path):
    PHOTO.resize((2560, 1708)).save(tmp_path / "p.jpg", quality=95)
    pixels = decode(tmp_path / "p.jpg", (64, 96), 3)
    assert pixels.shape == (64, 96, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - full_decode(tmp_path / "p.jpg", (64, 96))).mean() < 2


def test_resizing_is_antialiased(tmp_path):
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255  # without antialias, every eighth column would be one of them
    Image.fromarray(stripes).save(tmp_path / "s.png")
    pixels = decode(tmp_path / "s.png", (32, 32), 1).astype(int)
    assert np.abs(pixels - 127).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path, orientation):
    upright = PHOTO.resize((120, 80))
    turned = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # how a camera would have stored it
    stored = upright if turned is None else upright.transpose(Image.Transpose(turned))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "p.jpg", quality=95, exif=exif)
    pixels = decode(tmp_path / "p.jpg", None, 3)
    assert pixels.shape == (80, 120, 3)
    assert np.abs(pixels - np.asarray(upright).astype(int)).mean() < 4
    small = decode(tmp_path / "p.jpg", (20, 30), 3)
    assert np.abs(small - np.asarray(upright.resize((30, 20), Image.Resampling.BILINEAR)).astype(int)).mean() < 4


def test_transparency_becomes_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "p.png")
    assert decode(tmp_path / "p.png", None, 3).min() == 255
    assert decode(tmp_path / "p.png", None, 1).min() == 255


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "p.png")
    pixels = decode(tmp_path / "p.png", None, 1)[..., 0]
    assert np.abs(pixels.astype(int).ravel() - np.arange(256)).max() <= 1


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\xff\xd8\xff\xe0" + bytes(100)])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "p.jpg").write_bytes(content)
    with pytest.raises(CorruptImage, match=r"p.jpg: cannot be"):
        decode(tmp_path / "p.jpg", (8, 8), 3)


def test_why_a_file_is_no_image_is_said_without_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.md").write_text("no image")
    for path in (Path("notes.md"), tmp_path / "notes.md"):
        with pytest.raises(CorruptImage, match="notes.md: cannot be read as an image: its format is unknown to Pillow, or it is damaged$"):
            decode(path, (8, 8), 3)

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from toolkit.core.image_decoding import CorruptImage, decode, in_threads

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
        with pytest.raises(
            CorruptImage,
            match="notes.md: cannot be read as an image: its format is unknown to Pillow, or it is damaged$",
        ):
            decode(path, (8, 8), 3)


def with_chunk(png, name, data, checksum=True):
    """The bytes of a PNG file with a chunk after its header."""
    chunk = name + data
    end = zlib.crc32(chunk) if checksum else 0
    return png[:33] + len(data).to_bytes(4, "big") + chunk + end.to_bytes(4, "big") + png[33:]


def with_segment(jpeg, marker, data):
    return jpeg[:2] + bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data + jpeg[2:]


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


SMALL = PHOTO.resize((60, 40))
PNG, JPEG, MPO = saved(SMALL, "PNG"), saved(SMALL, "JPEG"), saved(SMALL, "MPO", save_all=True, append_images=[PHOTO])
TEXTUAL = struct.pack("<LHHHL4sL", 8, 1, 0x0112, 2, 4, b"abc\0", 0)  # an orientation that is a text
PREFIX = b"Exif\0\0II*\0"


@pytest.mark.parametrize(
    "content",
    [
        with_chunk(PNG, b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03"),
        with_chunk(PNG, b"eXIf", PREFIX[6:] + TEXTUAL),
        with_chunk(PNG, b"eXIf", b"MM", checksum=False),
        with_chunk(PNG, b"zTXt", b"prompt\0\0" + zlib.compress(bytes(3_000_000))),
        with_chunk(PNG, b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(bytes(70_000_000))),
        with_chunk(PNG, b"tEXt", b"a\0b", checksum=False),
        with_chunk(PNG, b"iCCP", b"sRGB\0\0" + zlib.compress(bytes(2_000_000))),
        with_chunk(PNG, b"iCCP", b"sRGB\0\0" + b"no zlib"),
        with_chunk(PNG, b"iCCP", b"sRGB\0\7"),
        with_chunk(PNG, b"pHYs", b"\1"),
        with_chunk(PNG, b"gAMA", b""),
        with_segment(JPEG, 0xE1, PREFIX + TEXTUAL),
        with_segment(JPEG, 0xE1, b"Exif\0\0" + b"no TIFF"),
        with_segment(JPEG, 0xE1, PREFIX + b"\xff" * 40),
        with_segment(JPEG, 0xE2, b"ICC_PROFILE\0"),
        with_segment(JPEG, 0xE2, b"ICC_PROFILE\0\1\7x"),
        with_segment(JPEG, 0xE2, b"MPF\0II*\0\x08\0\0\0\x01\0" + b"\xff" * 20),
        with_segment(JPEG, 0xED, b"Photoshop 3.0\x008BIM\xff\xff"),
        with_segment(JPEG, 0xFE, b""),
        MPO.replace(b"MPF\0II*\0", b"MPF\0II*\1"),
        MPO.replace(b"0100", b"\xff\xff\xff\xff"),
    ],
)
def test_faults_beside_the_pixels_do_not_matter(tmp_path, content):
    (tmp_path / "p").write_bytes(content)
    expected = np.asarray(Image.open(io.BytesIO(PNG if content.startswith(PNG[:4]) else JPEG)))
    assert np.array_equal(in_threads(lambda file: decode(file, None, 3), [tmp_path / "p"], "decode")[0], expected)


def test_a_rotation_is_undone_although_a_text_is_damaged(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for content in (
        with_chunk(saved(SMALL, "PNG", exif=exif), b"tEXt", b"a\0b", checksum=False),
        with_segment(saved(SMALL, "JPEG", exif=exif), 0xED, b"Photoshop 3.0\x008BIM\xff\xff"),
    ):
        (tmp_path / "p").write_bytes(content)
        assert decode(tmp_path / "p", None, 3).shape == (60, 40, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "WEBP"])
def test_pixels_that_are_cut_short_are_an_error(tmp_path, kind):
    (tmp_path / "p").write_bytes(saved(SMALL, kind)[:-300])
    with pytest.raises(CorruptImage, match=r"p: cannot be"):
        decode(tmp_path / "p", None, 3)
    damaged = bytearray(with_chunk(PNG, b"tEXt", b"a\0b", checksum=False))
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "p").write_bytes(damaged)
    with pytest.raises(CorruptImage, match=r"p: cannot be"):
        decode(tmp_path / "p", None, 3)


def test_large_scans_are_read_without_a_warning_and_bombs_are_not(tmp_path, monkeypatch):
    Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8), 240_000).reshape(256, -1)).save(tmp_path / "scan.png")
    pixels = in_threads(lambda file: decode(file, (4, 4), 1), [tmp_path / "scan.png"], "decode")[0]
    assert pixels.shape == (4, 4, 1) and np.ptp(pixels) > 150
    bomb = bytearray(saved(Image.new("1", (9, 9)), "PNG"))
    bomb[16:24] = struct.pack(">LL", 400_000, 400_000)
    bomb[29:33] = struct.pack(">L", zlib.crc32(bomb[12:29]))
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(CorruptImage, match=r"bomb.png: .* 400000x400000 pixels would need 640 GB of memory"):
        decode(tmp_path / "bomb.png", (4, 4), 1)


def test_every_mode_becomes_grey_and_colours(tmp_path):
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
        kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
        (tmp_path / "p").write_bytes(saved(SMALL.convert("L").convert("1" if mode == "1" else mode), kind))
        expected = np.asarray(SMALL.convert("L").convert("1") if mode == "1" else SMALL.convert("L")).astype(int)
        expected = expected * 255 if mode == "1" else expected
        for channels in (1, 3):
            pixels = decode(tmp_path / "p", None, channels)
            assert pixels.shape == (40, 60, channels)
            assert np.abs(pixels - expected[..., None]).mean() < 5, mode
    palette = SMALL.convert("P")
    (tmp_path / "p").write_bytes(saved(palette, "PNG", transparency=bytes(256)))
    assert decode(tmp_path / "p", None, 3).min() == 255


def test_of_deep_images_the_range_of_the_dataset_decides_never_the_image(tmp_path):
    ramp = np.linspace(0, 1, 256).reshape(16, 16)
    for dtype, most in ((np.uint16, 4095), (np.float32, 1), (np.float32, 65535)):
        Image.fromarray((most * ramp).astype(dtype)).save(tmp_path / "p.tif")
        Image.fromarray((most / 4 * ramp).astype(dtype)).save(tmp_path / "dark.tif")
        assert decode(tmp_path / "p.tif", None, 1, [0, most]).max() == 255
        assert decode(tmp_path / "dark.tif", None, 1, [0, most]).max() == pytest.approx(64, abs=1)
        with pytest.raises(
            CorruptImage, match=r"p.tif: cannot be decoded: its grey values are 0 to .*those of the dat"
        ):
            decode(tmp_path / "p.tif", None, 1, [0, most / 8])
    Image.fromarray((4095 * ramp).astype(np.uint16)).save(tmp_path / "p.png")
    with pytest.raises(CorruptImage, match=r"its grey values are 0 to 4095, but the dataset has no such images"):
        decode(tmp_path / "p.png", None, 1)

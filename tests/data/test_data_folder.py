"""A folder of images: any mode and size becomes one stated mode and size; what cannot be read is listed, never guessed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from makers import folder, noise, pickles, png
from PIL import Image

from datadistill.data import Unreadable, load
from datadistill.data import pictures as pics
from datadistill.errors import BadInput


def rows(data) -> torch.Tensor:
    """Every stored example of the three splits."""
    return torch.cat([data.train.stored, data.val.stored, data.test.stored])


def only_image(tmp_path: Path, image: Image.Image, suffix: str = ".png", **options) -> np.ndarray:
    """What becomes of one picture that fills both classes of a folder: (C, H, W)."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir(exist_ok=True)
        for k in range(4):
            image.save(tmp_path / name / f"{k}{suffix}", **options)
    data = load(tmp_path)
    stored = rows(data)
    assert bool((stored == stored[0]).all())
    return stored[0].numpy()


def test_pixels_labels_and_counts(tmp_path):
    data = load(folder(tmp_path, {"dog": 20, "cat": 10}), seed=3)
    assert data.found.kind == "image folder" and data.found.classes == ("cat", "dog")
    assert data.found.counts == {"train": {"cat": 7, "dog": 14}, "val": {"cat": 1, "dog": 2}, "test": {"cat": 2, "dog": 4}}
    assert data.found.modes == {"RGB 8x6": 30} and data.found.mode == "RGB" and data.found.shape == (3, 6, 8)
    whole = {tuple(np.asarray(noise(seed=1000 * c + k)).transpose(2, 0, 1).ravel().tolist()): 1 - c for c, n in ((0, 20), (1, 10)) for k in range(n)}
    for real in (data.train, data.val, data.test):
        for x, y in zip(real.stored, real.labels, strict=True):
            assert whole.pop(tuple(x.flatten().tolist())) == int(y)
    assert not whole


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".gif", ".tiff"])
def test_every_format(tmp_path, suffix):
    image = noise((2, 2)).resize((16, 12), Image.Resampling.BICUBIC)  # smooth enough for JPEG
    stored = only_image(tmp_path, image, suffix, **({"quality": 95} if suffix in (".jpg", ".webp") else {}))
    assert stored.shape == (3, 12, 16)
    error = np.abs(stored.astype(int) - np.asarray(image).transpose(2, 0, 1)).mean()
    assert error <= {".png": 0, ".bmp": 0, ".tiff": 0}.get(suffix, 12)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"])
def test_every_mode(tmp_path, mode):
    """One grey level in every mode comes out as that level, and grey modes as one channel."""
    level = 255 if mode == "1" else 102
    image = Image.new("L", (5, 5), level)
    if mode in ("I;16", "I"):
        image = Image.fromarray(np.full((5, 5), level * 257, np.uint16 if mode == "I;16" else np.int32))
    elif mode == "F":
        image = Image.fromarray(np.full((5, 5), level / 255, np.float32))
    else:
        image = image.convert("RGB").convert(mode) if mode not in ("1", "L", "LA") else image.convert(mode)
    image.putpixel((0, 0), image.getpixel((0, 0)))
    stored = only_image(tmp_path, image, ".tiff" if mode in ("CMYK", "I", "F", "YCbCr") else ".png")
    assert stored.shape == (1, 5, 5), "grey in every pixel is mode L"
    assert np.abs(stored.astype(int) - level).max() <= 2


def test_mixed_modes_become_the_one_that_is_stated(tmp_path):
    folder(tmp_path, {"a": 10}, mode="L")
    folder(tmp_path, {"b": 10}, mode="RGBA")
    data = load(tmp_path)
    assert data.found.mode == "RGB" and set(data.found.modes) == {"L 8x6", "RGBA 8x6"} and data.train.stored.shape[1] == 3
    grey = data.train.stored[data.train.labels == 0]
    assert bool((grey[:, 0] == grey[:, 1]).all() and (grey[:, 0] == grey[:, 2]).all())
    assert "mode RGB" in data.found.lines()[0]


def test_grey_in_colour_modes_is_grey(tmp_path):
    """WebP has no grey mode; pixels decide."""
    folder(tmp_path, {"a": 5}, mode="L", suffix=".webp")
    folder(tmp_path, {"b": 5}, mode="L")
    assert load(tmp_path).found.mode == "L"


def test_transparency_is_laid_on_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((1, 1), (0, 0, 255, 255))
    stored = only_image(tmp_path, image)
    assert stored[:, 0, 0].tolist() == [255, 255, 255] and stored[:, 1, 1].tolist() == [0, 0, 255]


def test_a_transparent_palette_is_laid_on_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 1), 1)
    stored = only_image(tmp_path, image, transparency=0)
    assert stored[:, 0, 0].tolist() == [255, 255, 255] and stored[:, 1, 1].tolist() == [0, 0, 200]


@pytest.mark.parametrize(("suffix", "orientation"), [(".jpg", 6), (".png", 6), (".webp", 8), (".tiff", 6), (".jpg", 3)])
def test_orientation_notes_are_applied(tmp_path, suffix, orientation):
    image = Image.new("RGB", (12, 8), "white")
    image.paste((0, 0, 0), (0, 0, 6, 4))  # the top left quarter is black
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = only_image(tmp_path, image, suffix, exif=exif)
    upright = {6: image.transpose(Image.Transpose.ROTATE_270), 8: image.transpose(Image.Transpose.ROTATE_90), 3: image.transpose(Image.Transpose.ROTATE_180)}
    expected = np.asarray(upright[orientation].convert("L"))[None]
    assert stored.shape == expected.shape and np.abs(stored.astype(int) - expected).mean() < 12


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((10, 200, 30), (255, 0, 0), (0, 0, 0))]
    stored = only_image(tmp_path, frames[0], ".gif", save_all=True, append_images=frames[1:])
    assert np.abs(stored[:, 0, 0].astype(int) - [10, 200, 30]).max() <= 6


def test_dark_sixteen_bits_are_warned_about(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for k in range(3):
            Image.fromarray(np.full((5, 5), 4000, np.uint16)).save(tmp_path / name / f"{k}.png")
    assert any("4000 of 65535" in w for w in load(tmp_path).found.warnings)


# -- sizes -------------------------------------------------------------------------------------------------------------


def test_the_common_size_is_kept_and_others_come_to_it(tmp_path):
    folder(tmp_path, {"a": 10, "b": 10})
    noise((40, 20), seed=5).save(tmp_path / "a" / "large.png")
    data = load(tmp_path)
    assert data.found.shape == (3, 6, 8) and any("8x6" in w for w in data.found.warnings)


def test_without_a_common_size_squares_of_the_median_short_side(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for k in range(9):
            noise((10 + k, 30 + k), seed=k).save(tmp_path / name / f"{k}.png")
    assert load(tmp_path).found.shape == (3, 14, 14)
    assert load(tmp_path, size=5).found.shape == (3, 5, 5)


def test_large_images_are_made_small_by_default():
    assert pics.common_size([(4000, 3000)] * 10) == (224, 224)
    assert pics.common_size([(256, 256)] * 10) == (256, 256)
    assert pics.common_size([(32, 32)] * 6 + [(28, 28)] * 4) == (32, 32)


def test_scaling_covers_and_crops_the_centre(tmp_path):
    image = Image.new("RGB", (30, 10), "white")
    image.paste((0, 0, 255), (10, 0, 20, 10))  # the middle third
    for name in "ab":
        (tmp_path / name).mkdir()
        for k in range(3):
            image.save(tmp_path / name / f"{k}.png")
    stored = rows(load(tmp_path, size=10))
    assert bool((stored == torch.tensor([0, 0, 255])[:, None, None]).all())


def test_large_jpegs_are_decoded_small_and_right(tmp_path):
    ramp = np.linspace(0, 255, 800).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (800, 1)), np.tile(ramp[:, None], (1, 800)), np.full((800, 800), 50, np.uint8)], 2))
    for name in "ab":
        (tmp_path / name).mkdir()
        for k in range(3):
            image.save(tmp_path / name / f"{k}.jpg", quality=95)
    stored = rows(load(tmp_path, size=40))[0].numpy()
    reference = np.asarray(image.resize((40, 40), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(stored.astype(int) - reference).mean() < 2


# -- splits ------------------------------------------------------------------------------------------------------------


def test_splits_in_the_folder_are_used(tmp_path):
    folder(tmp_path / "train", {"a": 10, "b": 10})
    folder(tmp_path / "valid", {"a": 3, "b": 2})
    folder(tmp_path / "Test", {"a": 4, "b": 5})
    found = load(tmp_path).found
    assert found.counts == {"train": {"a": 10, "b": 10}, "val": {"a": 3, "b": 2}, "test": {"a": 4, "b": 5}}
    assert found.split == {"found": ["train", "val", "test"], "made": {}, "seed": 0}


def test_a_missing_split_is_made_from_train_only(tmp_path):
    folder(tmp_path / "train", {"a": 20, "b": 20})
    folder(tmp_path / "test", {"a": 4, "b": 5})
    found = load(tmp_path, seed=7).found
    assert found.counts["test"] == {"a": 4, "b": 5} and found.counts["val"] == {"a": 2, "b": 2} and found.counts["train"] == {"a": 18, "b": 18}
    assert found.split == {"found": ["train", "test"], "made": {"val": 0.1}, "seed": 7}
    assert any("seed 7" in line and "val (10%)" in line for line in found.lines())


def test_classes_may_be_called_like_splits(tmp_path):
    assert load(folder(tmp_path, {"train": 5, "bus": 5})).found.classes == ("bus", "train")


def test_a_folder_without_train_is_refused(tmp_path):
    folder(tmp_path / "test", {"a": 5, "b": 5})
    with pytest.raises(BadInput, match="no train folder"):
        load(tmp_path)


def test_images_without_class_folders_are_refused(tmp_path):
    noise().save(tmp_path / "a.png")
    with pytest.raises(BadInput, match="images of its own") as error:
        load(tmp_path)
    assert "one sub-folder of images per class" in str(error.value)


def test_numbered_classes_stand_in_order(tmp_path):
    assert load(folder(tmp_path, {"10": 4, "9": 4, "2": 4})).found.classes == ("2", "9", "10")


def test_images_may_lie_deeper(tmp_path):
    folder(tmp_path / "a", {"x": 5, "y": 5})
    folder(tmp_path / "b", {"z": 8})
    assert sum(load(tmp_path).found.counts[s]["a"] for s in ("train", "val", "test")) == 10


# -- classes with hardly anything --------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [None, "notes.txt"])
def test_an_empty_class_is_named(tmp_path, inside):
    folder(tmp_path, {"cat": 5, "dog": 5, "eel": 0})
    if inside:
        (tmp_path / "eel" / inside).write_text("no picture")
    with pytest.raises(BadInput, match="class eel with 0 training items") as error:
        load(tmp_path)
    assert error.value.exit_code == 4


def test_a_class_that_only_the_test_split_has_is_named(tmp_path):
    folder(tmp_path / "train", {"a": 5, "b": 5})
    folder(tmp_path / "test", {"a": 2, "c": 2})
    with pytest.raises(BadInput, match="class c with 0 training items"):
        load(tmp_path)


def test_a_class_with_one_item_is_kept_and_warned_about(tmp_path):
    found = load(folder(tmp_path, {"cat": 30, "unicorn": 1})).found
    assert found.counts["train"]["unicorn"] == 1
    assert any("unicorn" in w and "1 training item" in w for w in found.warnings)


# -- what cannot be read -----------------------------------------------------------------------------------------------


def broken(tmp_path: Path, good: int, bad: dict[str, bytes]) -> Path:
    folder(tmp_path, {"a": good, "b": good})
    for name, content in bad.items():
        (tmp_path / "a" / name).write_bytes(content)
    return tmp_path


def test_up_to_one_percent_is_left_out_with_a_warning(tmp_path):
    found = load(broken(tmp_path, 100, {"half.png": png()[:60], "empty.png": b""})).found
    assert sum(sum(c.values()) for c in found.counts.values()) == 200
    assert dict(found.rejects).keys() == {"a/half.png", "a/empty.png"} and dict(found.rejects)["a/empty.png"] == "an empty file"
    assert any("2 of 202 items" in w for w in found.warnings)


def test_more_than_one_percent_is_refused_with_the_list(tmp_path):
    with pytest.raises(Unreadable, match="3 of 203 items") as error:
        load(broken(tmp_path, 100, {f"{k}.png": b"not a picture" for k in range(3)}))
    assert error.value.exit_code == 4
    assert [name for name, _ in error.value.rejects] == [f"a/{k}.png" for k in range(3)]
    assert all(reason for _, reason in error.value.rejects)


def test_each_kind_of_damage_is_one_reject(tmp_path):
    whole = png(noise((64, 64)))
    jpeg = tmp_path / "x.jpg"
    noise((64, 64)).save(jpeg)
    bad = {
        "cut.png": whole[: len(whole) // 2],
        "flipped.png": whole[:20] + bytes([whole[20] ^ 255]) + whole[21:],
        "cut.jpg": jpeg.read_bytes()[:400],
        "text.gif": b"hello",
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        "zeros.bmp": bytes(100),
    }
    jpeg.unlink()
    with pytest.raises(Unreadable) as error:
        load(broken(tmp_path, 3, bad))
    assert {name for name, _ in error.value.rejects} == {f"a/{name}" for name in bad}
    assert not any("0x" in reason for _, reason in error.value.rejects), "no addresses: the list is the same every time"


def test_decompression_bombs_are_rejected_by_their_header(tmp_path, monkeypatch):
    monkeypatch.setattr(pics, "PIXELS", 1000)
    with pytest.raises(Unreadable) as error:
        load(broken(tmp_path, 10, {"bomb.png": png(Image.new("L", (40, 40)))}))
    assert error.value.rejects == (("a/bomb.png", "40x40 pixels, more than 1,000: a decompression bomb?"),)


def test_a_real_bomb_costs_no_memory(tmp_path):
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    with pytest.raises(Unreadable, match="decompression bomb"):
        load(broken(tmp_path, 10, {"bomb.png": bomb}))


def test_all_of_a_class_unreadable_is_a_class_without_items(tmp_path):
    folder(tmp_path, {"a": 300, "b": 0})
    (tmp_path / "b" / "only.png").write_bytes(b"x")
    with pytest.raises(Unreadable, match="class b with 0 training items") as error:
        load(tmp_path)
    assert [name for name, _ in error.value.rejects] == ["b/only.png"]


def test_pickles_among_the_images_are_rejected_unopened(tmp_path):
    canary = tmp_path / "ran"
    root = folder(tmp_path / "set", {"a": 3, "b": 3})
    for k, (name, content) in enumerate(pickles(tmp_path, canary).items()):
        (root / "a" / f"{k}.{'png' if name.startswith('protocol') else 'pt'}").write_bytes(content)
    with pytest.raises(Unreadable) as error:
        load(root)
    assert not canary.exists()
    assert len(error.value.rejects) == len(pickles(tmp_path, canary)) and all("never opened" in reason for _, reason in error.value.rejects)


def test_other_files_are_passed_over_with_a_warning(tmp_path):
    folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "notes.txt").write_text("hello")
    for litter in (".DS_Store", "Thumbs.db"):
        (tmp_path / "b" / litter).write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "README.md").write_text("about")
    found = load(tmp_path).found
    assert found.classes == ("a", "b") and found.rejects == ()
    assert any("1 files that are no images" in w and "a/notes.txt" in w for w in found.warnings)


def test_an_image_without_a_suffix_is_an_image(tmp_path):
    folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "0000.png").rename(tmp_path / "a" / "0000")
    assert sum(sum(c.values()) for c in load(tmp_path).found.counts.values()) == 10


# -- links, pipes, names -----------------------------------------------------------------------------------------------


def test_images_of_other_formats_are_rejected_not_passed_over(tmp_path):
    folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(Unreadable) as error:
        load(tmp_path)
    assert error.value.rejects == (("a/x.heic", "no PNG, JPEG, WebP, BMP, GIF or TIFF image"),)


def test_folders_of_nothing(tmp_path):
    folder(tmp_path, {"a": 0, "b": 0})
    with pytest.raises(BadInput, match="classes a, b with 0"):
        load(tmp_path)
    (tmp_path / "a" / "x.dat").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"only files with \.dat"):
        load(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path):
    folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a").chmod(0)
    with pytest.raises(BadInput, match="cannot be read"):
        load(tmp_path)


def test_links_that_leave_the_folder_are_rejected(tmp_path):
    outside = tmp_path / "secret.png"
    noise().save(outside)
    root = folder(tmp_path / "set", {"a": 5, "b": 5})
    (root / "a" / "out.png").symlink_to(outside)
    (root / "a" / "in.png").symlink_to(root / "b" / "0000.png")
    (root / "a" / "gone.png").symlink_to(root / "nothing.png")
    with pytest.raises(Unreadable) as error:
        load(root)
    rejected = dict(error.value.rejects)
    assert rejected.keys() == {"a/out.png", "a/gone.png"} and rejected["a/out.png"] == "a link that leaves the folder"


def test_linked_folders_are_not_followed(tmp_path):
    folder(tmp_path / "elsewhere", {"c": 5})
    root = folder(tmp_path / "set", {"a": 5, "b": 5})
    (root / "a" / "loop").symlink_to(root)
    with pytest.raises(Unreadable) as error:
        load(root)
    assert error.value.rejects == (("a/loop", "a link to a folder"),)
    (root / "a" / "loop").unlink()
    (root / "c").symlink_to(tmp_path / "elsewhere" / "c")
    with pytest.raises(BadInput, match="link that leaves"):
        load(root)


def test_the_folder_itself_may_be_a_link(tmp_path):
    folder(tmp_path / "set", {"a": 5, "b": 5})
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert load(tmp_path / "link").found.classes == ("a", "b")


def test_a_pipe_is_rejected_and_not_waited_for(tmp_path):
    root = folder(tmp_path, {"a": 5, "b": 5})
    os.mkfifo(root / "a" / "pipe.png")
    with pytest.raises(Unreadable) as error:
        load(root)
    assert error.value.rejects == (("a/pipe.png", "no regular file"),)


def test_names_that_are_not_utf8_round_trip_and_are_shown_safely(tmp_path):
    folder(tmp_path, {"plain": 20})
    odd = os.fsencode(tmp_path) + b"/caf\xe9 \x1b[31m<script>"
    os.mkdir(odd)
    for k in range(20):
        with open(odd + b"/\xff%d.png" % k, "wb") as file:
            file.write(png(noise(seed=k)))
    with open(odd + b"/\xffbad.png", "wb") as file:
        file.write(b"")
    with pytest.raises(Unreadable) as error:
        load(tmp_path)
    assert os.fsencode(error.value.rejects[0][0]) == b"caf\xe9 \x1b[31m<script>/\xffbad.png"
    assert "\x1b" not in str(error.value) and "\\xe9" in str(error.value)
    os.remove(odd + b"/\xffbad.png")
    found = load(tmp_path).found
    assert os.fsencode(found.classes[0]) == b"caf\xe9 \x1b[31m<script>"
    shown = "\n".join(found.lines())
    shown.encode("utf-8")
    assert "\x1b" not in shown and "caf\\xe9 \\x1b[31m<script>" in shown


def test_reading_twice_gives_the_same_bytes(tmp_path):
    folder(tmp_path / "one", {"a": 15, "b": 15})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = load(tmp_path / "one", seed=1), load(tmp_path / "two", seed=1)
    assert one.train.fingerprint == two.train.fingerprint and one.test.fingerprint == two.test.fingerprint
    assert load(tmp_path / "one", seed=2).train.fingerprint != one.train.fingerprint

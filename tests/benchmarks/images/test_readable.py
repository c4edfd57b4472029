"""Images that cannot be read are found before a run, left out and counted; all others can be read."""

import os

import numpy as np
import pytest
from PIL import Image

from benchmarks import make_benchmark
from benchmarks.images import readable
from benchmarks.images.decode import decode_rgb
from benchmarks.images.readable import look_at
from tests.benchmarks.samples import SMALL, fill, truncate, write_image

MODES = {
    "grey.jpg": "L",
    "palette.png": "P",
    "alpha.png": "RGBA",
    "print.jpg": "CMYK",
    "one.png": "1",
    "rgb.webp": "RGB",
}


def test_every_colour_becomes_rgb_and_is_counted(tmp_path):
    for name in ("a", "b"):
        for seed, (file, mode) in enumerate(MODES.items()):
            write_image(tmp_path / name / file, seed, mode)
    benchmark = make_benchmark(f"folder:{tmp_path}", inputs=SMALL, n_experiences=1)
    assert benchmark.converted == {"1": 2, "CMYK": 2, "L": 2, "P": 2, "RGBA": 2}
    assert "2 CMYK" in benchmark.source
    for stream in (benchmark.train_stream, benchmark.test_stream):
        assert all(image.shape == (3, 16, 16) for image, *_ in stream[0].dataset)


def test_what_cannot_be_read_is_left_out_and_counted(tmp_path):
    fill(tmp_path, {"a": 12, "b": 12})
    truncate(tmp_path / "a" / "02.jpg")
    truncate(tmp_path / "a" / "03.PNG")
    (tmp_path / "b" / "05.PNG").write_bytes(b"")
    (tmp_path / "b" / "06.jpg").write_text("no image")
    with pytest.warns(UserWarning, match="4 of 24 images cannot be read and are left out: a/02.jpg, a/03.PNG, b/05"):
        benchmark = make_benchmark(f"folder:{tmp_path}", inputs=SMALL, n_experiences=2)
    assert benchmark.skipped == ["a/02.jpg", "a/03.PNG", "b/05.PNG", "b/06.jpg"]
    streams = (benchmark.train_stream, benchmark.test_stream)
    assert sum(len(list(e.dataset)) for stream in streams for e in stream) == 20
    assert "without 4 that cannot be read" in benchmark.source


def test_a_class_that_loses_all_of_its_images_is_an_error(tmp_path):
    fill(tmp_path, {"a": 3, "b": 6})
    truncate(tmp_path / "a" / "00.jpg")
    with pytest.raises(ValueError, match="no test images of the classes a"), pytest.warns(match="are left out"):
        make_benchmark(f"folder:{tmp_path}", inputs=SMALL, n_experiences=1)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif", "bmp"])
def test_the_look_and_the_decoder_agree_on_what_is_damaged(tmp_path, suffix):
    write_image(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    rng, paths = np.random.default_rng(0), []
    for i in range(40):
        damaged = bytearray(whole)
        if i % 2:
            damaged = damaged[: int(rng.integers(len(whole)))]
        else:
            damaged[int(rng.integers(len(whole)))] ^= 255
        paths.append(f"{i}.{suffix}")
        (tmp_path / paths[-1]).write_bytes(damaged)

    def is_read(path):
        try:
            return decode_rgb(tmp_path / path) is not None
        except ValueError:
            return False

    readable_paths = set(paths) - look_at(tmp_path, paths).unreadable.keys()
    assert readable_paths == {path for path in paths if is_read(path)}
    assert len(readable_paths) < 40


def test_files_are_decoded_once_until_one_changes(tmp_path, monkeypatch):
    fill(tmp_path / "images", {"a": 4})
    truncate(tmp_path / "images" / "a" / "02.jpg")
    paths = sorted(path.relative_to(tmp_path / "images").as_posix() for path in (tmp_path / "images").glob("a/*"))
    looks = []
    monkeypatch.setattr(readable, "_decode_all", lambda *a, real=readable._decode_all: looks.append(a) or real(*a))
    found = [look_at(tmp_path / "images", paths, remember=tmp_path / "memory") for _ in range(3)]
    assert found[0] == found[1] == found[2]
    assert list(found[0].unreadable) == ["a/02.jpg"]
    assert len(looks) == 1
    os.utime(tmp_path / "images" / "a" / "00.jpg", (0, 0))
    look_at(tmp_path / "images", paths, remember=tmp_path / "memory")
    assert len(looks) == 2


def test_sixteen_bits_are_counted_and_not_clipped(tmp_path):
    deep = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert look_at(tmp_path, ["deep.png"]).converted == {"I;16": 1}
    assert decode_rgb(tmp_path / "deep.png").mean() == pytest.approx(127, abs=1)

"""A cache changes how long an image takes, and nothing else."""

import multiprocessing
import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks import InputSpec, eval_transform
from benchmarks.images import cache
from benchmarks.images.cache import CachedImages
from benchmarks.images.decode import decode_rgb


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.jpg" for i in range(6)]
    for i, path in enumerate(paths):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        coarse.resize((40 + 3 * i, 30 + i), Image.Resampling.BICUBIC).save(path, quality=95)
    return paths


@pytest.fixture(params=["memory", "disk"])
def kept(request, tmp_path):
    return {"memory_mb": 1} if request.param == "memory" else {"cache_dir": tmp_path / "kept", "disk_mb": 1}


def pixels(data):
    return [image.clone() for image, _ in data]


def same(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


def count_decoding(monkeypatch):
    decoded = []
    monkeypatch.setattr(cache, "decode_rgb", lambda path: decoded.append(path) or decode_rgb(path))
    return decoded


@pytest.mark.parametrize("shorter_side", [None, 20, 32])
def test_cached_images_are_the_decoded_ones_and_each_is_decoded_once(files, kept, shorter_side, monkeypatch):
    plain = pixels(CachedImages(files, range(6), shorter_side=shorter_side))
    decoded = count_decoding(monkeypatch)
    data = CachedImages(files, range(6), shorter_side=shorter_side, **kept)
    for _ in range(3):
        assert same(pixels(data), plain)
    assert len(decoded) == 6
    assert data[3][0].dtype == torch.uint8
    assert [target for _, target in data] == data.targets == list(range(6))
    data[0][0].zero_()  # a caller's own copy
    assert same(pixels(data), plain)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 24, 35, 56])
def test_evaluation_of_reduced_images_is_exact(files, size, interpolation):
    transform = eval_transform(InputSpec(size, (0.5,) * 3, (0.2,) * 3, interpolation), crop=True)
    whole = CachedImages(files, range(6))
    reduced = CachedImages(files, range(6), shorter_side=round(size * 256 / 224), interpolation=interpolation)
    assert all(torch.equal(transform(a), transform(b)) for (a, _), (b, _) in zip(whole, reduced, strict=True))


def test_images_are_reduced_but_never_enlarged(files):
    shapes = [image.shape[1:] for image, _ in CachedImages(files, range(6), shorter_side=32)]
    assert [min(shape) for shape in shapes] == [30, 31, 32, 32, 32, 32]


def test_the_limit_holds_and_what_does_not_fit_is_decoded(files, tmp_path, monkeypatch):
    plain = pixels(CachedImages(files, range(6)))
    some = sum(image.numel() + 8 for image in plain[:3]) / 2**20  # the first come are kept
    for kept in ({"memory_mb": some}, {"cache_dir": tmp_path / "kept", "disk_mb": some}):
        data = CachedImages(files, range(6), **kept)
        decoded = count_decoding(monkeypatch)
        for _ in range(3):
            assert same(pixels(data), plain)
        assert len(decoded) == 3 + 3 * 3
    again = CachedImages(files[::-1], range(6), cache_dir=tmp_path / "kept", disk_mb=some)
    assert same(pixels(again), plain[::-1])
    entries = list((tmp_path / "kept").glob("??/*.rgb"))
    assert sum(entry.stat().st_size for entry in entries) <= some * 2**20
    assert len(entries) == 3


def test_a_changed_file_is_decoded_again(files, kept):
    data = CachedImages(files, range(6), **kept)
    pixels(data)
    Image.new("RGB", (40, 30), "red").save(files[0])
    assert data[0][0][0].float().mean() > 250
    os.utime(files[0], ns=(0, 0))  # only another time
    assert data[0][0][0].float().mean() > 250


def test_other_settings_are_other_entries(files, tmp_path):
    kept = {"cache_dir": tmp_path / "kept", "disk_mb": 1}
    for settings in ({}, {"shorter_side": 20}, {"shorter_side": 20, "interpolation": "bilinear"}):
        plain = pixels(CachedImages(files, range(6), **settings))
        for _ in range(2):
            assert same(pixels(CachedImages(files, range(6), **settings, **kept)), plain)


def test_what_a_killed_run_leaves_is_recognised(files, tmp_path, monkeypatch):
    kept = {"cache_dir": tmp_path / "kept", "disk_mb": 1}
    plain = pixels(CachedImages(files, range(6), **kept))
    entries = sorted((tmp_path / "kept").glob("??/*.rgb"))
    whole = entries[0].read_bytes()
    for i, damaged in enumerate((b"", whole[:5], whole[:8], whole[:-1], whole + b"x")):
        entries[i].write_bytes(damaged)
    (tmp_path / "kept" / "entry.tmp").write_bytes(whole[:100])
    (tmp_path / "kept" / "ledger").write_bytes(b"\xff\xff\xff")
    decoded = count_decoding(monkeypatch)
    data = CachedImages(files, range(6), **kept)
    assert same(pixels(data), plain)
    assert len(decoded) == 5
    assert same(pixels(data), plain)
    assert len(decoded) == 5
    assert not list((tmp_path / "kept").glob("*.tmp"))


def _read(files, kept, results):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = CachedImages(files, range(6), **kept)
        results.put([[image.numpy() for image, _ in data] for _ in range(20)])


def test_two_runs_share_a_folder_at_the_same_time(files, tmp_path):
    kept = {"cache_dir": tmp_path / "kept", "disk_mb": 0.02}  # room for some
    plain = pixels(CachedImages(files, range(6)))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    runs = [context.Process(target=_read, args=(files, kept, results)) for _ in range(2)]
    for process in runs:
        process.start()
    for _ in runs:
        for epoch in results.get(timeout=60):
            assert all(np.array_equal(image, expected) for image, expected in zip(epoch, plain, strict=True))
    for process in runs:
        process.join()
        assert process.exitcode == 0
    assert 0 < sum(entry.stat().st_size for entry in (tmp_path / "kept").glob("??/*")) <= 0.02 * 2**20


def test_loader_processes_fill_one_cache(files, kept, monkeypatch):
    data = CachedImages(files, range(6), **kept)
    plain = pixels(CachedImages(files, range(6)))
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert same(pixels(loader), plain)
    decoded = count_decoding(monkeypatch)
    assert same(pixels(data), plain)
    assert not decoded


def test_a_pickled_copy_reads_the_same_images(files, kept):
    data = CachedImages(files, range(6), **kept)
    assert same(pixels(pickle.loads(pickle.dumps(data))), pixels(data))


def test_a_disk_that_takes_no_more_is_a_warning(files, tmp_path, monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    data = CachedImages(files, range(6), cache_dir=tmp_path / "kept", disk_mb=1)
    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match="takes no more images: No space left") as warned:
        assert same(pixels(data), pixels(CachedImages(files, range(6))))
    assert len(warned) == 1
    assert not list((tmp_path / "kept").glob("*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory_mb": 0}, "memory_mb=0: expected a number above 0"),
        ({"memory_mb": 1e12}, "memory_mb=1e.12: so much cannot be had"),
        ({"cache_dir": "x"}, "disk_mb=None go together"),
        ({"memory_mb": 1, "cache_dir": "x", "disk_mb": 1}, "exclude each other"),
        ({"cache_dir": __file__, "disk_mb": 1}, "test_cache.py' cannot be used"),
        ({"shorter_side": 0}, "shorter_side=0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CachedImages([], [], **arguments)
    with pytest.raises(ValueError, match="1 images and 0 labels"):
        CachedImages(["a"], [])


# decoding


KINDS = {
    ".jpg": ("RGB", "L", "CMYK"),
    ".png": ("RGB", "L", "LA", "RGBA", "P", "1", "I;16"),
    ".tif": ("RGB", "L", "LA", "RGBA", "CMYK", "I;16"),
    ".bmp": ("RGB", "L", "P", "1"),
    ".webp": ("RGB", "RGBA"),
    ".gif": ("L", "P"),
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in KINDS.items() for mode in modes])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode, suffix):
    grey = np.tile(np.linspace(0, 255, 40, dtype=np.uint8), (30, 1))
    image = Image.fromarray(grey).convert("RGB")
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / f"image{suffix}")
    decoded = decode_rgb(tmp_path / f"image{suffix}")
    assert decoded.shape == (30, 40, 3)
    assert decoded.dtype == np.uint8
    if mode in ("P", "1"):  # few colours, dithered
        assert decoded.mean() == pytest.approx(grey.mean(), abs=6)
    else:
        assert np.ptp(decoded, axis=2).max() == 0
        np.testing.assert_allclose(decoded[..., 0].astype(int), grey, atol=4)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_an_image_that_cannot_be_read_is_named(tmp_path, damage, suffix, kept):
    path = tmp_path / f"broken{suffix}"
    Image.new("RGB", (64, 48), "red").save(path)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    for data in (CachedImages([path], [0]), CachedImages([path], [0], **kept)):
        with pytest.raises(ValueError, match=rf"broken{suffix} cannot be read as an image: \S"):
            data[0]

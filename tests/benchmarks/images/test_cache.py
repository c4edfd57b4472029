"""A cache changes how long an image takes, and nothing else."""

import multiprocessing
import os
import pickle
import resource
import time
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
from benchmarks.images.store import ImageStore


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.jpg" for i in range(6)]
    for i, path in enumerate(paths):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        coarse.resize((40 + 3 * i, 30 + i), Image.Resampling.BICUBIC).save(path, quality=95)
    return paths


@pytest.fixture
def store(tmp_path):
    return ImageStore(tmp_path / "kept", 1)


def pixels(data):
    return [image.clone() for image, _ in data]


def same(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


def count_decoding(monkeypatch):
    decoded = []
    monkeypatch.setattr(cache, "decode_rgb", lambda path: decoded.append(path) or decode_rgb(path))
    return decoded


@pytest.mark.parametrize("shorter_side", [None, 20, 32])
def test_cached_images_are_the_decoded_ones_and_each_is_decoded_once(files, store, shorter_side, monkeypatch):
    plain = pixels(CachedImages(files, range(6), shorter_side=shorter_side))
    decoded = count_decoding(monkeypatch)
    data = CachedImages(files, range(6), shorter_side=shorter_side, store=store)
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
    data = CachedImages(files, range(6), store=ImageStore(tmp_path / "kept", 0.07))
    decoded = count_decoding(monkeypatch)
    for _ in range(3):
        assert same(pixels(data), plain)
    assert 6 < len(decoded) < 18
    again = CachedImages(files[::-1], range(6), store=ImageStore(tmp_path / "kept", 0.07))
    assert same(pixels(again), plain[::-1])
    assert size(tmp_path / "kept") <= 0.07 * 2**20


def test_a_larger_limit_makes_room(files, tmp_path, monkeypatch):
    for limit in (0.07, 1):
        pixels(CachedImages(files, range(6), store=ImageStore(tmp_path / "kept", limit)))
    decoded = count_decoding(monkeypatch)
    pixels(CachedImages(files, range(6), store=ImageStore(tmp_path / "kept", 0.07)))
    assert not decoded


def size(folder):
    return (folder / "data.mdb").stat().st_size


def test_a_changed_file_is_decoded_again(files, store):
    data = CachedImages(files, range(6), store=store)
    pixels(data)
    Image.new("RGB", (40, 30), "red").save(files[0])
    assert data[0][0][0].float().mean() > 250
    os.utime(files[0], ns=(0, 0))  # only another time
    assert data[0][0][0].float().mean() > 250


def test_other_settings_are_other_entries(files, store):
    for settings in ({}, {"shorter_side": 20}, {"shorter_side": 20, "interpolation": "bilinear"}):
        plain = pixels(CachedImages(files, range(6), **settings))
        for _ in range(2):
            assert same(pixels(CachedImages(files, range(6), **settings, store=store)), plain)


def noise(number):
    return np.random.default_rng(number).integers(0, 256, (30, 40 + number % 5, 3), dtype=np.uint8)


def _write(folder):
    store = ImageStore(folder, 10)
    for number in range(500):
        store.put(str(number).encode(), noise(number))


@pytest.mark.slow
def test_a_kill_at_any_time_leaves_whole_entries_and_a_store_that_takes_more(tmp_path):
    context, found = multiprocessing.get_context("fork"), 0
    for kill in range(5):
        writers = [context.Process(target=_write, args=(tmp_path,)) for _ in range(2)]
        for process in writers:
            process.start()
        time.sleep(0.02 + 0.01 * kill)
        for process in writers:
            process.kill()
            process.join()
    store = ImageStore(tmp_path, 10)
    for number in range(500):
        entry = store.get(str(number).encode())
        assert entry is None or np.array_equal(entry, noise(number))
        found += entry is not None
    assert found > 0
    store.put(b"500", noise(500))
    assert np.array_equal(store.get(b"500"), noise(500))


def test_a_damaged_database_is_refused_by_name(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(ValueError, match=f"image cache {tmp_path} cannot be used: .*delete the folder"):
        ImageStore(tmp_path, 1)


def _read(files, folder, limit, results):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = CachedImages(files, range(6), store=ImageStore(folder, limit))
        results.put([[image.numpy() for image, _ in data] for _ in range(20)])


def test_two_runs_share_a_folder_at_the_same_time(files, tmp_path):
    plain = pixels(CachedImages(files, range(6)))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    runs = [context.Process(target=_read, args=(files, tmp_path / "kept", limit, results)) for limit in (0.07, 0.08)]
    for process in runs:
        process.start()
    for _ in runs:
        for epoch in results.get(timeout=60):
            assert all(np.array_equal(image, expected) for image, expected in zip(epoch, plain, strict=True))
    for process in runs:
        process.join()
        assert process.exitcode == 0
    assert 0 < size(tmp_path / "kept") <= 0.08 * 2**20


def test_loader_processes_fill_one_cache(files, store, monkeypatch):
    data = CachedImages(files, range(6), store=store)
    plain = pixels(CachedImages(files, range(6)))
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert same(pixels(loader), plain)
    decoded = count_decoding(monkeypatch)
    assert same(pixels(data), plain)
    assert not decoded


def test_a_pickled_copy_reads_the_same_images(files, store):
    data = CachedImages(files, range(6), store=store)
    assert same(pixels(pickle.loads(pickle.dumps(data))), pixels(data))


def test_a_disk_that_takes_no_more_is_a_warning(files, tmp_path):
    data = CachedImages(files, range(6), store=ImageStore(tmp_path / "kept", 1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size(tmp_path / "kept"), limits[1]))
    try:
        with pytest.warns(UserWarning, match="takes no more images: .*File too large") as warned:
            assert same(pixels(data), pixels(CachedImages(files, range(6))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(warned) == 1
    assert same(pixels(data), pixels(CachedImages(files, range(6))))


def test_arguments_that_do_not_fit_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match="limit_mb=0: expected a number above 0"):
        ImageStore(tmp_path, 0)
    with pytest.raises(ValueError, match=r"test_cache.py cannot be used: .*File exists"):
        ImageStore(__file__, 1)
    with pytest.raises(ValueError, match="shorter_side=0"):
        CachedImages(files, range(6), shorter_side=0)
    with pytest.raises(ValueError, match="got 6 images and 1 labels"):
        CachedImages(files, [0])


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_an_image_that_cannot_be_read_is_named(tmp_path, damage, suffix, store):
    path = tmp_path / f"broken{suffix}"
    Image.new("RGB", (64, 48), "red").save(path)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}.get(damage, b""))
    if damage == "missing":
        path.unlink()
    for data in (CachedImages([path], [0]), CachedImages([path], [0], store=store)):
        with pytest.raises(ValueError, match=rf"broken{suffix} cannot be read as an image: \S"):
            data[0]

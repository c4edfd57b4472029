"""Omniglot is the same from its two zip files and from torchvision's tree."""

import zipfile

import pytest
from PIL import Image

from benchmarks import make_benchmark
from benchmarks.datasets import omniglot
from tests.benchmarks.samples import SMALL, labels_of, truncate


def write_characters(folder):
    """Two characters of every alphabet, five drawings each."""
    for a, alphabet in enumerate(omniglot.ALPHABETS):
        for c in (1, 2):
            for i in range(5):
                path = folder / alphabet / f"character{c:02d}" / f"{a:02d}{c:02d}_{i:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = Image.new("1", (105, 105), 1)
                image.paste(0, (a, 10 * c, a + 20, 10 * c + i + 1))
                image.save(path)


def zip_up(tree, folder):
    """Two zip files that share the third alphabet."""
    folder.mkdir()
    for number, alphabets in ((1, omniglot.ALPHABETS[:3]), (2, omniglot.ALPHABETS[2:])):
        with zipfile.ZipFile(folder / omniglot.ZIP_FILES[number - 1], "w") as archive:
            for path in [path for alphabet in alphabets for path in sorted((tree / alphabet).rglob("*.png"))]:
                archive.write(path, f"images_background_small{number}/{path.relative_to(tree)}")


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "omniglot-py" / "images_background"
    write_characters(folder)
    return folder


def test_zip_files_and_tree_give_the_same_images(tree, tmp_path, monkeypatch):
    zip_up(tree, tmp_path / "zips")
    options = {"inputs": SMALL, "n_experiences": 3, "strict": False}
    unpacked = make_benchmark("omniglot", root=tmp_path, **options)
    monkeypatch.setenv("SDLORA_DATA", str(tmp_path / "zips"))
    zipped = make_benchmark("omniglot", **options)
    assert zipped.digest == unpacked.digest
    assert zipped.n_classes == 16
    assert zipped.class_names[-1] == "Tagalog/character02"
    assert [len(labels) for labels in labels_of(zipped.train_stream)] == [6, 5, 5]
    assert [len(e.dataset) for e in zipped.test_stream] == [6, 5, 5]
    image = zipped.test_stream[0].dataset[0][0]
    assert image.shape == (3, 16, 16)
    assert image.max() == 1  # paper is white


def test_a_damaged_drawing_is_left_out_and_counted(tree, tmp_path):
    truncate(tree / "Greek" / "character01" / "0201_03.png", 0.5)
    benchmark = make_benchmark("omniglot", root=tmp_path, inputs=SMALL, n_experiences=1, strict=False)
    assert benchmark.skipped == ["Greek/character01/0201_03.png"]
    assert len(benchmark.train_stream[0].dataset) == 63


def test_other_numbers_than_the_published_are_refused(tree, tmp_path):
    with pytest.raises(ValueError, match="16 characters instead of 242 and 80 images instead of 4840"):
        make_benchmark("omniglot", root=tmp_path, inputs=SMALL)
    (tmp_path / "zips").mkdir()
    for name in omniglot.ZIP_FILES:
        (tmp_path / "zips" / name).write_bytes(b"PK no zip file")
    with pytest.raises(ValueError, match=r"small1.zip cannot be read"):
        make_benchmark("omniglot", root=tmp_path / "zips", inputs=SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("n_experiences", [11, 10])
def test_the_real_omniglot(real_omniglot, n_experiences):
    benchmark = make_benchmark("omniglot", inputs=SMALL, n_experiences=n_experiences)
    assert sum(len(labels) for labels in labels_of(benchmark.train_stream)) == benchmark.n_classes == 242
    assert [sum(len(e.dataset) for e in stream) for stream in (benchmark.train_stream, benchmark.test_stream)] == [
        3872,
        968,
    ]
    assert benchmark.skipped == []
    assert benchmark.digest.startswith("76988a7a66c37120")

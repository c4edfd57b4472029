"""A split survives being written and read, and whatever is no split is refused."""

import json

import pytest

from benchmarks import Split
from benchmarks.images.split import SplitImage


@pytest.fixture
def split():
    rows = [("ä/1.png", 0, "train", "x"), ("ä/2.png", 0, "test", "y"), ("b/1.png", 1, "train"), ("b/2.png", 1, "test")]
    return Split("two", ("ä", "b"), tuple(SplitImage(*row) for row in rows))


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_a_file_gives_back_the_split(split, tmp_path):
    split.save(tmp_path / "new" / "split.json")
    again = Split.load(tmp_path / "new" / "split.json")
    assert again == split
    assert again.digest == split.digest
    assert split.digest.startswith("d1e35537feced6f7")  # for good: results name it


@pytest.mark.parametrize("what", ["class_names", "images"])
def test_the_digest_knows_every_part_of_it(split, tmp_path, what):
    split.save(tmp_path / "split.json")
    content = json.loads((tmp_path / "split.json").read_text())
    changed = {"class_names": ["b", "ä"], "images": content["images"][::-1]}
    with pytest.raises(ValueError, match="has been changed: it states the digest"):
        Split.load(edited(tmp_path / "split.json", **{what: changed[what]}))


def test_one_written_by_hand_needs_only_classes_and_images(split, tmp_path):
    split.save(tmp_path / "split.json")
    content = json.loads((tmp_path / "split.json").read_text())
    by_hand = {key: content[key] for key in ("format", "class_names")}
    rows = [["1.png", "ä", "train"], ["2.png", "ä", "test"], ["3.png", "b", "train"], ["4.png", "b", "test"]]
    (tmp_path / "hand.json").write_text(json.dumps(by_hand | {"images": rows}))
    assert [image.path for image in Split.load(tmp_path / "hand.json").part("test")] == ["2.png", "4.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, 'expected an object with "format": "image split 1"'),
        ({"images": [["x", "c", "train"]]}, "is of none of the classes b, ä"),
        ({"images": [["x", "b"]]}, "is not an image's path, class, part, domain"),
        ({"images": [["../x", "b", "train"]]}, "'../x' is no path below"),
        ({"images": [["/x", "b", "train"]]}, "'/x' is no path below"),
        ({"images": [["x", "b", "valid"]]}, "is of no part"),
        ({"images": [["x", "b", "train"], ["x", "b", "test"]]}, "training and test share the images x"),
        ({"images": [["x", "b", "train"], ["y", "b", "test"]]}, "no train images of the classes ä"),
        ({"class_names": ["b"], "images": [["x", "b", "train"]]}, "needs two class names or more"),
        ({"class_names": ["ä", "b", "b"]}, "no two alike"),
        ({"images": [["x", "b", "train", 3]]}, "neither a name nor null"),
        ({"images": 5}, "cannot be read as a split"),
    ],
)
def test_what_is_no_split_is_refused(split, tmp_path, changes, message):
    split.save(tmp_path / "split.json")
    with pytest.raises(ValueError, match=message):
        Split.load(edited(tmp_path / "split.json", **changes))


@pytest.mark.parametrize("content", [None, "", "[1, 2]", '{"format": "image split 1"}', '{"format": "image'])
def test_what_is_no_such_file_is_refused_by_its_name(tmp_path, content):
    if content is not None:
        (tmp_path / "split.json").write_text(content)
    with pytest.raises(ValueError, match=r"split.json cannot be read as a split"):
        Split.load(tmp_path / "split.json")


def test_validation_takes_the_same_share_of_each_domain():
    images = [SplitImage(f"{i}", i % 2, "train", "xy"[i // 20]) for i in range(40)]
    tests = [SplitImage(f"test {i}", i, "test", "x") for i in range(2)]
    split = Split("s", ("a", "b"), (*images, *tests)).hold_out(0.3)
    held_out = [(image.label, image.domain) for image in split.part("test")]
    assert sorted(held_out) == sorted([(label, domain) for label in (0, 1) for domain in "xy"] * 3)
    assert len(split.images) == 40

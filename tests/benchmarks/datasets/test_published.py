"""The published data sets are read from trees like theirs, and compared with their published numbers."""

import re
from dataclasses import replace

import pytest
import torch

from avalanche_sdlora import SDLoRAConfig
from benchmarks import BENCHMARKS, arrival_order, classes_per_experience, make_benchmark
from benchmarks.datasets.domainnet import DOMAINS
from tests.benchmarks.samples import SMALL, fill, labels_of, write_image
from tests.common import strategy_for, tiny_vit


def imagenet(folder):
    fill(folder, {"n01443537": 10, "n01484850": 5})
    (folder / "README.txt").touch()


def cub200(folder):
    names, lists = ["001.Albatross", "002.Auklet"], {"classes": "", "images": "", "labels": "", "parts": ""}
    for label, name in enumerate(names, 1):
        lists["classes"] += f"{label} {name}\n"
        for i in range(3):
            number = 3 * label + i
            write_image(folder / "images" / name / f"{i}.jpg", number)
            lists["images"] += f"{number} {name}/{i}.jpg\n"
            lists["labels"] += f"{number} {label}\n"
            lists["parts"] += f"{number} {int(i != 1)}\n"
    files = {"labels": "image_class_labels", "parts": "train_test_split"}
    for name, text in lists.items():
        (folder / f"{files.get(name, name)}.txt").write_text(text)


def domainnet(folder):
    for domain in DOMAINS:
        for part, n in (("train", 2), ("test", 1)):
            lines = ""
            for label, name in enumerate(("aircraft_carrier", "t-shirt")):
                for i in range(n):
                    path = f"{domain}/{name}/{domain}_{part}_{i} x.jpg"
                    write_image(folder / path, label)
                    lines += f"{path} {label}\n"
            (folder / f"{domain}_{part}.txt").write_text(lines)


def parts(folder):
    fill(folder / "train", {"b": 4, "a": 2})
    fill(folder / "test", {"a": 1, "b": 3}, seed=1)


TREES = {
    "imagenet_r": ("imagenet-r", imagenet, (12, 3), "2 classes instead of 200, 15 all images instead of 30000"),
    "imagenet_a": ("imagenet-a", imagenet, (12, 3), "2 classes instead of 200, 15 all images instead of 7500"),
    "cub200": ("CUB_200_2011", cub200, (4, 2), "4 train images instead of 5994, 2 test images instead of 5794"),
    "domainnet": (
        "domainnet",
        domainnet,
        (24, 12),
        "24 train images instead of 409832, 12 test images instead of 176743",
    ),
    "objectnet": (
        "objectnet",
        parts,
        (6, 4),
        "2 classes instead of 200, 6 train images instead of 26509, 4 test images instead of 6628",
    ),
    "omnibenchmark": (
        "omnibenchmark",
        parts,
        (6, 4),
        "2 classes instead of 300, 6 train images instead of 89697",
    ),
    "vtab": (
        "vtab-cil/vtab",
        parts,
        (6, 4),
        "2 classes instead of 50, 6 train images instead of 1796, 4 test images instead of 8619",
    ),
    "cars": (
        "cars",
        parts,
        (6, 4),
        "2 classes instead of 196, 6 train images instead of 8144, 4 test images instead of 8041",
    ),
}


@pytest.fixture(params=TREES)
def tree(request, tmp_path):
    folder, make, counts, message = TREES[request.param]
    make(tmp_path / folder)
    return request.param, tmp_path, counts, message


def test_a_tree_becomes_a_stream(tree, monkeypatch):
    name, root, counts, _ = tree
    options = {"inputs": SMALL, "n_experiences": 2, "strict": False}
    benchmark = make_benchmark(name, root=root, **options)
    sizes = [sum(len(e.dataset) for e in stream) for stream in (benchmark.train_stream, benchmark.test_stream)]
    assert tuple(sizes) == counts
    assert labels_of(benchmark.train_stream) == [{label} for label in arrival_order(2, 0)]
    assert all(image.shape == (3, 16, 16) for image, *_ in benchmark.test_stream[0].dataset)
    inner = make_benchmark(name, root=root / TREES[name][0], **options)
    monkeypatch.setenv("SDLORA_DATA", str(root))
    assert make_benchmark(name, **options).digest == inner.digest == benchmark.digest


def test_other_numbers_than_the_published_are_refused(tree):
    name, root, _, message = tree
    with pytest.raises(ValueError, match=f"is not .* as published: .*{message}.*strict=False"):
        make_benchmark(name, root=root, inputs=SMALL)


def test_cub200_has_the_published_parts(tmp_path):
    cub200(tmp_path / "CUB_200_2011")
    benchmark = make_benchmark("cub200", root=tmp_path, inputs=SMALL, n_experiences=1, strict=False)
    assert benchmark.class_names == ("001.Albatross", "002.Auklet")
    assert {image.path[-5] for image in benchmark.split.part("test")} == {"1"}


def test_domains_arrive_one_after_another_with_all_classes(tmp_path):
    domainnet(tmp_path)
    benchmark = make_benchmark("domainnet_domains", root=tmp_path, inputs=SMALL, seed=5, strict=False, validation=0.5)
    assert benchmark.domain_names == tuple(DOMAINS[i] for i in arrival_order(6, 5))
    assert labels_of(benchmark.train_stream) == labels_of(benchmark.test_stream) == [{0, 1}] * 6
    whole = make_benchmark("domainnet", root=tmp_path, inputs=SMALL, n_experiences=1, strict=False)
    assert whole.class_names == ("aircraft_carrier", "t-shirt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_experiences": 5}, "an experience for each of 6 domains; got 5"),
        ({"class_order": ["a"]}, "domains one after"),
    ],
)
def test_a_stream_of_domains_has_no_other_length_or_order(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_benchmark("domainnet_domains", root=tmp_path, inputs=SMALL, **options)


def test_sd_lora_learns_a_stream_of_domains(tmp_path):
    domainnet(tmp_path)
    benchmark = make_benchmark("domainnet_domains", root=tmp_path, inputs=SMALL, strict=False)
    strategy = strategy_for(tiny_vit(img_size=16, depth=1), SDLoRAConfig(rank=2, expansion=50))
    strategy.train(benchmark.train_stream[:2])
    strategy.eval(benchmark.test_stream)
    assert strategy.model.eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 2)


def test_a_stream_of_domains_needs_them_in_the_split(tmp_path):
    domainnet(tmp_path)
    classes = make_benchmark("domainnet", root=tmp_path, inputs=SMALL, n_experiences=1, strict=False)
    images = tuple(image._replace(domain=None) for image in classes.split.images)
    options = {"root": tmp_path, "inputs": SMALL}
    with pytest.raises(ValueError, match="needs the domain of every image"):
        make_benchmark("domainnet_domains", split=replace(classes.split, images=images), **options)
    assert make_benchmark("domainnet_domains", split=classes.split, **options).digest == classes.digest


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("real_test.txt", None, "real_test.txt cannot be read"),
        ("real_test.txt", "", "expected two words on each line; got none"),
        ("real_test.txt", "real/x.jpg 0", "expected lines of DOMAIN/CLASS/IMAGE LABEL"),
        ("real_test.txt", "real/new/x.jpg 7", "labels in the lists must be 0 to 2; the largest is 7"),
        ("real_test.txt", "real/t-shirt/gone.jpg 1", "lacks 1 of 35 images: real/t-shirt/gone.jpg"),
    ],
)
def test_incomplete_lists_and_trees_are_refused(tmp_path, file, content, message):
    domainnet(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        make_benchmark("domainnet", root=tmp_path, inputs=SMALL, n_experiences=1, strict=False)


@pytest.mark.parametrize(
    ("name", "classes", "tasks"),
    [("objectnet", 200, 10), ("omnibenchmark", 300, 10), ("vtab", 50, 5), ("cars", 196, 14)],
)
def test_a_data_set_of_lamda_pilot_divides_into_its_usual_tasks_and_missing_ones_say_what_to_get(
    tmp_path, name, classes, tasks
):
    spec, folder = BENCHMARKS[name], TREES[name][0]
    assert classes_per_experience(classes, spec.n_experiences) == tasks * [classes // tasks]
    where = re.escape(f"{folder}/train/CLASS/IMAGE and {folder}/test/CLASS/IMAGE")
    with pytest.raises(RuntimeError, match=f"Get it from https://.*LAMDA-PILOT.* there is {where}"):
        make_benchmark(name, root=tmp_path, inputs=SMALL)


def test_a_data_set_of_lamda_pilot_needs_both_parts(tmp_path):
    fill(tmp_path / "objectnet" / "train", {"a": 2, "b": 2})
    with pytest.raises(ValueError, match="objectnet lacks test; expected train/CLASS/IMAGE and test/CLASS/IMAGE"):
        make_benchmark("objectnet", root=tmp_path, inputs=SMALL, strict=False)

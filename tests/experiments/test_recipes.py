"""Recipes are complete, valid and what was published; what is wrong in one is named."""

import pytest

from avalanche_sdlora import RankSchedule
from benchmarks import BENCHMARKS
from experiments.arguments import Arguments
from experiments.options.run_options import check_settings
from experiments.recipe import table_of
from experiments.recipes import FOLDER, published, recipe_of, recipes_of
from experiments.resolve import resolve

STREAMS = sorted(file.stem for file in FOLDER.glob("*.toml"))


@pytest.mark.parametrize("stream", STREAMS)
def test_every_recipe_can_be_used_and_its_preset_is_its_own(stream):
    recipes = recipes_of(stream)
    assert {"default", "paper", "reference"} <= recipes.keys()
    for name, recipe in recipes.items():
        check_settings(recipe, name)
        assert name not in ("default", "paper", "reference") or recipe["sdlora.preset"] == name


def test_every_benchmark_has_recipes():
    assert BENCHMARKS.keys() <= set(STREAMS)


@pytest.mark.parametrize(
    ("stream", "paper_epochs", "reference_epochs", "tasks"),
    [
        ("imagenet_r", 30, 20, 10),
        ("imagenet_a", 20, 20, 10),
        ("domainnet", 10, 10, 5),
        ("cifar100", 20, 20, 10),
        ("cub200", 20, 20, 10),
    ],
)
def test_recipes_of_the_published_rows(stream, paper_epochs, reference_epochs, tasks):
    paper, reference = recipe_of(stream, "paper"), recipe_of(stream, "reference")
    for recipe in (paper, reference):
        assert (recipe["batch_size"], recipe["augment"], recipe["tasks"]) == (128, "paper", tasks)
        assert recipe["sdlora.rank"] == 10
        assert recipe["backbone"].startswith("vit_base_patch16_224.")
    assert (paper["optimizer"], paper["learning_rate"], paper["epochs"]) == ("adam", 0.008, paper_epochs)
    assert (reference["optimizer"], reference["epochs"]) == ("sgd", reference_epochs)
    assert 0.008 <= reference["learning_rate"] <= 0.02
    assert published(stream, tasks).keys() >= {"SD-LoRA", "SD-LoRA-RR", "SD-LoRA-KD"}
    assert published(stream, 7) == {}


def test_published_numbers_are_by_number_of_tasks():
    assert [published("imagenet_r", tasks)["SD-LoRA"]["acc"] for tasks in (5, 10, 20)] == [79.15, 77.34, 75.26]
    assert published("cifar100", 10)["InfLoRA"] == {"acc": 86.75, "aaa": 91.72}


def test_the_recipe_fills_what_is_left_open_and_the_preset_the_rest():
    settings = {"sdlora.rank": 4, "sdlora.boundary": "reset"}
    resolved = resolve(Arguments("digits", recipe="paper", learning_rate=0.5, settings=settings))
    arguments, config = resolved.arguments, resolved.config
    assert (arguments.optimizer, arguments.learning_rate, arguments.epochs) == ("adam", 0.5, 8)
    assert (config.rank, config.magnitudes, config.reset_magnitudes) == (4, "shared", True)


def test_ranks_by_task_and_depth():
    def config(**settings):
        given = {f"sdlora.{name}": value for name, value in settings.items()}
        return resolve(Arguments("digits", settings=given)).config

    both = config(rank="10,4:8,8:6", rank_depth="0.5,1.5")
    assert [both.schedule.rank(task, 0, 2) for task in (1, 4, 8)] == [5, 4, 3]
    assert config(rank_depth="2").schedule.rank(1) == 20
    assert config(rank="paper").schedule == RankSchedule.paper()
    assert config(targets="blocks.*.qkv:qv,*.fc1").targets == ("blocks.*.qkv:qv", "*.fc1")


def test_a_recipe_of_sdlora_serves_other_methods_without_what_they_do_not_have():
    resolved = resolve(Arguments("digits", recipe="reference", method="lora"))
    assert (resolved.config.norm, resolved.config.directions) == ("product", "single")
    assert resolved.arguments.normalization == "none"
    assert "sdlora.preset" not in resolved.arguments.settings
    linear = resolve(Arguments("digits", settings={"sdlora.head": "linear"}))
    assert (linear.config.head, linear.config.path) == ("linear", 0.5)


@pytest.mark.parametrize("stream", STREAMS)
def test_the_recipes_of_a_data_set_are_shown_with_their_presets(stream):
    table = table_of(stream)
    assert {"backbone", "sdlora.preset", "sdlora.boundary"} <= set(table.columns[0].cells)
    assert len(table.columns) == 1 + len(recipes_of(stream))


COMPLETE = 'backbone = "b"\nsdlora.preset = "paper"\nepochs = 1\nbatch_size = 1\noptimizer = "sgd"\nlearning_rate = 1\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (COMPLETE + "[default]\nepocs = 2", "unknown setting 'epocs'; did you mean epochs"),
        (COMPLETE + '[default]\nepochs = "many"', "epochs='many': expected a whole number"),
        (COMPLETE + "[default]\nrank = 8", "unknown setting 'rank': write sdlora.rank"),
        (COMPLETE + '[default]\noptimizer = "sdg"', "optimizer='sdg': expected sgd, adam or adamw; did you mean sgd"),
        (COMPLETE + "[default]\nseed = 2", "unknown setting 'seed'"),
        ("epochs = 2\n[default]", "lacks backbone, batch_size, optimizer"),
        (COMPLETE + "[defualt]", "has defualt; did you mean defualt"),
        ("epochs 2", "digits.toml: not readable as TOML"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(text, message, tmp_path):
    (tmp_path / "digits.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        check_settings(recipe_of("digits", "default", folder=tmp_path), "recipe")


def test_a_wrong_published_number_is_named(tmp_path):
    (tmp_path / "digits.toml").write_text("[published.5]\nL2P = [1.0]")
    with pytest.raises(ValueError, match=r"\[published.5\]: L2P = \[1.0\]: expected \[Acc, AAA\]"):
        published("digits", 5, folder=tmp_path)

"""The command line, from a data set's name to the files it leaves."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.arguments import Arguments
from experiments.run import main, run


def test_results_are_complete(finished):
    results, output = finished
    assert json.loads((output / "results.json").read_text()) == json.loads(json.dumps(results))
    assert [len(row) for row in results["accuracy_matrix"]] == [1, 2, 3, 4, 5]
    assert sum(results["test_samples"]) == 50
    assert results["baselines"]["ridge"]["acc"] > 80
    assert [len(m) for m in results["magnitudes"]] == [1, 2, 3, 4, 5]
    kept = [told["kept"] for told in results["parameters"]]
    assert kept == sorted(set(kept))
    assert [len(told) for told in results["reductions"]] == 5 * [len(results["reductions"][0])]
    assert results["config"]["rank"] == results["arguments"]["sdlora.rank"] == 10
    assert results["arguments"]["learning_rate"] == 0.05  # that of bounded steps
    assert results["environment"]["versions"]["torch"]
    assert 0 < results["seconds"]["train"] < results["seconds"]["total"]
    observed = results["observed"]
    assert [len(row) for row in observed["task_known"]] == [1, 2, 3, 4, 5]
    assert all(
        k >= a for known, acc in zip(observed["task_known"], results["accuracy_matrix"]) for k, a in zip(known, acc)
    )
    assert sum(count for *_, count in observed["confusion"]) == 50
    assert [len(row) for row in observed["distances"]] == [1, 2, 3, 4, 5]
    assert (output / "report.html").stat().st_size < 2e6
    assert (output / "figures" / "accuracy_matrix.svg").read_text().startswith("<svg")
    assert len(list((output / "figures").glob("most_wrong_*.png"))) == len(observed["most_wrong"]) > 0
    assert "adapters.safetensors" in (output / "README.md").read_text()


def test_tensorboard_has_accuracies_losses_and_magnitudes(finished):
    events = EventAccumulator(str(finished[1] / "tensorboard")).Reload()
    tags = events.Tags()["scalars"]
    assert [e.value for e in events.Scalars("Magnitude/train_phase/train_stream/Direction001")] == pytest.approx(
        [m[0] for m in finished[0]["magnitudes"]]
    )
    stems = ("Top1_Acc_Exp/eval_phase", "Top1_Acc_Stream/eval_phase", "Loss_Epoch/train_phase")
    for stem in (*stems, "Parameters/train_phase/train_stream/kept", "Reduction/train_phase"):
        assert any(tag.startswith(stem) for tag in tags)


@pytest.mark.slow
def test_equal_seeds_give_equal_figures_with_and_without_the_baseline(finished, quick, tmp_path):
    again = run(Arguments("digits", output=str(tmp_path / "again"), baselines=False, figures="none", **quick))
    for figure in ("accuracy_matrix", "magnitudes", "class_order"):
        assert again[figure] == finished[0][figure]
    assert again["baselines"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digist"], "did you mean digits"),
        (["folder:/no/such/folder"], "There is no folder /no/such/folder; expected ROOT/train/CLASS/IMAGE"),
        (["digits", "--backbone", "vit_tinny_patch16_224"], "vit_tiny_patch16_224"),
        (["digits", "--image_size", "31"], "--image_size 31 is not divisible"),
        (["digits", "--tasks", "3"], "choose a divisor of 10"),
        (["digits", "--sdlora.rank", "0"], "--sdlora.rank 0: expected"),
        (["digits", "--sdlora.rank", "129"], "--sdlora.rank 129: larger than layer 'blocks.0.attn.qkv' allows"),
        (["digits", "--sdlora.targets", "blocks.*.atn.qkv"], "did you mean .*attn.qkv"),
        (["digits", "--epochs", "0"], "--epochs 0: expected a number above 0"),
        (["digits", "--sdlora.rank", "8,4:10"], "never increase"),
        (["digits", "--sdlora.rank_depth", "deep"], "--sdlora.rank_depth deep: expected factors such as 0.5,1.5"),
        (["digits", "--recipe", "papr"], "--recipe papr: .*default, paper, reference; did you mean paper"),
        (["digits", "--method", "sdlor"], "--method sdlor: expected one of .*did you mean sdlora"),
        (
            ["digits", "--sdlora.preset", "paper", "--sdlora.boundary", "continuous"],
            "--sdlora.reset_magnitudes true with --sdlora.boundary continuous",
        ),
        (["digits", "--rank", "8"], "unknown option --rank: write --sdlora.rank$"),
        (["digits", "--ewc_lambda", "8"], "unknown option --ewc_lambda: write --ewc.weight$"),
        (["digits", "--epocs", "8"], r"unknown option --epocs; did you mean epochs.*\?$"),
        (["digits", "--optimizer", "sdg"], r"--optimizer sdg: expected sgd, adam or adamw; did you mean sgd\?$"),
        (["digits", "--sdlora.head", "rigde"], "--sdlora.head rigde: expected auto, .*did you mean ridge"),
        (["digits", "--epochs", "many"], "--epochs many: expected a whole number$"),
        (["digits", "--lr", "0.1"], "unknown option --lr: write --learning_rate$"),
        (["digits", "--learning_rat", "0.1"], "unknown option --learning_rat; did you mean learning_rate"),
        (["digits", "--head", "svm"], "unknown option --head: write --sdlora.head$"),
        (
            ["digits", "--sdlora.head", "svm"],
            "--sdlora.head svm: expected auto, .*, ncm or linear$",
        ),
        (["digits", "--optimizer", "adamx"], "--optimizer adamx: expected sgd, adam or adamw; did you mean adam"),
        (["digits", "--epochs", "2.5"], "--epochs 2.5: expected a whole number$"),
        (["digits", "--sdlora.multi_head", "perhaps"], "--sdlora.multi_head perhaps: expected auto or true or false$"),
        (["digits", "--sdlora.energy", "2"], "--sdlora.energy 2.0: expected a share"),
        (["digits", "--bfloat16", "true"], "unknown option --bfloat16: write --precision bfloat16$"),
        (["digits", "--precision", "bf16"], "--precision bf16: expected auto, float32 or bfloat16"),
        (["digits", "--workers", "-1"], "--workers -1: expected a number of at least 0$"),
        (["digits", "--seed", "-1"], "--seed -1: expected a whole number from 0"),
        (["digits", "--device", "cudo"], r"--device cudo: cannot be used .*there are auto, cpu"),
        (["digits", "--device", "cuda:97"], r"--device cuda:97: cannot be used .*there are auto, cpu"),
        (["digits", "--weights", "/no/such.safetensors"], "--weights /no/such.safetensors: there is no such file"),
        (["folder"], "--data: name the folder of images"),
        (["digits", "--epochs"], "argument --epochs: expected one argument"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(arguments, message, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["run", *arguments, "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=f"(?s)^error: .*{message}") as error:
        main()
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def few_photographs(tmp_path):
    """A folder with 5 training and 2 test photographs of every class of CIFAR-100, of those in SDLORA_DATA."""
    with np.load(Path(os.environ["SDLORA_DATA"], "cifar100_60x20.npz")) as arrays:
        few = {"classes": arrays["classes"]}
        for part, count in (("train", 5), ("test", 2)):
            x, y = arrays[f"{part}_x"], arrays[f"{part}_y"]
            chosen = np.concatenate([np.flatnonzero(y == label)[:count] for label in range(100)])
            few |= {f"{part}_x": x[chosen], f"{part}_y": y[chosen]}
    np.savez(tmp_path / "cifar100_60x20.npz", **few)
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif("SDLORA_DATA" not in os.environ, reason="SDLORA_DATA names no folder with real images")
def test_real_photographs_and_real_weights_from_local_files(few_photographs):
    results = run(
        Arguments(
            "cifar100",
            data=str(few_photographs),
            backbone="vit_tiny_patch16_224.augreg_in21k_ft_in1k",
            image_size=32,
            tasks=2,
            epochs=1,
            figures="none",
            settings={"sdlora.expansion": 50, "sdlora.first_epochs": 1},
            output=str(few_photographs / "out"),
        )
    )
    assert Path(results["arguments"]["weights"]).name.startswith("vit_tiny_patch16_224")
    assert results["baselines"]["nearest_class_mean"]["acc"] > 3  # chance is 1

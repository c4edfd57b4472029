"""The comparison of heads: what is trained once, and what is made of it."""

import numpy as np
import pytest

from experiments.arguments import Arguments
from experiments.resolve import resolve
from experiments.studies.heads import KINDS, SOURCES, evaluate, markdown, study
from experiments.studies.moments import gather
from tests.benchmarks.samples import fill


def made_up(drift):
    """Three tasks of two Gaussian classes, whose features move by ``drift`` at the second and the third."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.standard_normal((6, 5))
    images = {kind: [[], [], []] for kind in ("train", "test")}
    for tasks in images.values():
        for task in range(3):
            y = np.repeat([2 * task, 2 * task + 1], 60)
            tasks[task] = centres[y] + rng.standard_normal((120, 5)), y

    class MadeUp:
        def __len__(self):
            return 4

        def __call__(self, moment, name, experience):
            if name == "predicted":
                return images["test"][experience][1]
            x, y = images[name.removesuffix("_labels")][experience]
            moved = x @ np.linalg.matrix_power(drift, max(0, moment - 1))
            return y if name.endswith("_labels") else moved.astype(np.float32)

    return MadeUp()


def test_following_wins_back_what_a_linear_drift_costs():
    turn = np.roll(np.eye(5), 1, axis=0)
    results = evaluate(made_up(turn), expansion=50)
    assert results["linear head"]["acc"] == results["linear head"]["aaa"] == 100
    for kind in KINDS:
        stale, followed, oracle = (results[kind][source]["acc"] for source in ("none", "linear", "oracle"))
        assert stale < followed - 20
        assert abs(followed - oracle) < 3
        assert results[kind]["linear"]["bytes"] > results[kind]["none"]["bytes"]
    table = markdown([results, results])
    assert all(f"| {kind} | " in table for kind in KINDS)


def test_without_drift_all_sources_agree():
    results = evaluate(made_up(np.eye(5)), expansion=50)
    for kind in KINDS:
        assert len({round(results[kind][source]["acc"], 6) for source in SOURCES}) == 1


@pytest.mark.slow
def test_a_study_trains_once_and_goes_on_from_what_it_has(tmp_path, monkeypatch):
    fill(tmp_path / "images", {"a": 8, "b": 8, "c": 8, "d": 8})
    arguments = Arguments(
        f"folder:{tmp_path / 'images'}",
        backbone="vit_micro_patch4_32.formula",
        tasks=2,
        epochs=1,
        batch_size=8,
        device="cpu",
        output=str(tmp_path / "study"),
    )
    first = study(arguments, seeds=[0], expansion=20)
    assert sorted(path.name for path in (tmp_path / "study" / "seed0").glob("*.npz")) == [
        f"moment{t:03}.npz" for t in range(3)
    ]

    def train_again(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr("experiments.whole_run.create_backbone", train_again)
    assert study(arguments, seeds=[0], expansion=20) == first
    assert "random_ridge" in (tmp_path / "study" / "heads.md").read_text()
    with pytest.raises(ValueError, match="epochs 1 there, 2 asked"):
        study(Arguments(**{**vars(arguments), "epochs": 2}), seeds=[0])
    with pytest.raises(ValueError, match=r"sdlora\.head='ridge'"):
        gather(resolve(Arguments(**{**vars(arguments), "settings": {"sdlora.head": "ridge"}})))

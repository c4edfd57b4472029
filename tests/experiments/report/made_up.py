"""Results of runs that were never made, for tests of what is drawn and written from results."""

import numpy as np

from avalanche_sdlora.metrics import AccuracyMatrix

LAYERS = [f"blocks.{i}.attn.qkv" for i in range(4)]


def made_up_results(tasks=5, classes_each=2, seed=0, **changes):
    """Contents of a results file with everything that a run can see of itself.

    Args:
        tasks: Number of tasks.
        classes_each: Classes of a task.
        seed: Draws all numbers.
        changes: Entries that are replaced.
    """
    rng = np.random.default_rng(seed)
    rows = [[round(95 - 6 * (i - j) - 3 * rng.random(), 2) for j in range(i + 1)] for i in range(tasks)]
    known = [[min(100.0, value + 5 + 3 * (i - j)) for j, value in enumerate(row)] for i, row in enumerate(rows)]
    matrix = AccuracyMatrix.from_rows(rows, [40] * tasks)
    baseline = AccuracyMatrix.from_rows([[70 - 2 * i + j for j in range(i + 1)] for i in range(tasks)], [40] * tasks)
    n = tasks * classes_each
    confusion = []
    for j in range(tasks):
        for c in range(j * classes_each, (j + 1) * classes_each):
            right = int(rng.integers(12, 19))
            confusion += [[j, c, c, right], [j, c, int((c + 1 + rng.integers(n - 1)) % n), 20 - right]]
    similarity = np.clip(rng.random((tasks, tasks)) * 0.1, 0, 1)
    similarity = (similarity + similarity.T) / 2 + np.eye(tasks)
    residuals = [
        [task, 2**k, layer, 1 - 0.02 * (k + 1) * rng.random() / (depth + 1)]
        for task in range(1, tasks)
        for k in range(6)
        for depth, layer in enumerate(LAYERS)
    ]
    observed = {
        "task_known": known,
        "calibration_error": [0.02 * (i + 1) for i in range(tasks)],
        "reliability": {
            "counts": [0.0] * 5 + [10.0 * (i + 1) for i in range(10)],
            "confidence": [0.0] * 5 + [(i + 5.5) / 15 for i in range(10)],
            "accuracy": [0.0] * 5 + [(i + 5) / 16 for i in range(10)],
        },
        "confusion": confusion,
        "direction_sizes": [[1.5 / (j + 1) + 0.05 * (i - j) for j in range(i + 1)] for i in range(tasks)],
        "distances": [[0.05 + 0.01 * i, *(0.02 + 0.005 * abs(i - j) for j in range(i))] for i in range(tasks)],
        "similarities": {layer: similarity.clip(0, 1).tolist() for layer in LAYERS},
        "residuals": residuals,
        "path": {"steps": [0.0, 0.25, 0.5, 0.75, 1.0], "accuracy": [[96, 50], [95, 70], [95, 85], [94, 91], [93, 95]]},
        "heads": {
            "frozen": {"accuracy_matrix": [[80 - 3 * i] * (i + 1) for i in range(tasks)]},
            "none": {"accuracy_matrix": [[92 - 5 * i] * (i + 1) for i in range(tasks)]},
            "linear": {"accuracy_matrix": rows},
            "oracle": {"accuracy_matrix": [*([None] * (tasks - 1)), [90.0] * tasks]},
        },
        "seconds_by_phase": {"loading": 3.0, "forward": 10.0, "backward": 20.0, "evaluation": 8.0, "rest": 2.0},
        "images_per_second": [100.0] * tasks,
        "peak_memory_mb": {"process": 1234},
        "most_wrong": [],
    }
    results = {
        "accuracy_matrix": matrix.rows(),
        "test_samples": matrix.samples.tolist(),
        **matrix.summary(),
        "baselines": {"nearest_class_mean": {"accuracy_matrix": baseline.rows(), **baseline.summary()}},
        "published": {},
        "parameters": [{"trained": 100, "new": 50, "kept": 1000 * (i + 1), "rank": 10} for i in range(tasks)],
        "observed": observed,
        "decisions": [{"rate": 0.01 / (i + 1), "adapted": i % 2 == 0} for i in range(tasks)],
        "seed": seed,
        "class_order": list(range(n)),
        "caption": "made-up images: 400 training and 200 test images",
        "class_names": [f"class <{c}> & co" for c in range(n)],
        "inputs": {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
        "method": "SD-LoRA",
        "config": {"rank": 10, "head": "lda"},
        "arguments": {
            **{"dataset": "digits", "method": "sdlora", "backbone": "vit_micro_patch4_32.formula", "seed": seed},
            **{"learning_rate": 0.01, "sdlora.rank": 10, "output": "runs/made-up", "figures": "default"},
        },
        "environment": {
            "versions": {"python": "3.11", "avalanche-sdlora": "0.0", "torch": "2.0"},
            **{"commit": "abc1234", "platform": "Linux", "accelerator": None, "threads": 1},
        },
        "seconds": {"train": 30.0, "evaluate": 8.0, "total": 45.0},
    }
    return {**results, **changes}

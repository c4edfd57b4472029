"""The figures of runs and comparisons, each with the sentences that tell a newcomer what to look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from experiments.figures import accuracy, comparison, directions, mistakes, reliability


@dataclass(frozen=True)
class Figure:
    """A figure of a run, or of a comparison.

    Attributes:
        name: The name of its files.
        title: Its heading.
        about: What it shows and how it is read, for somebody who has not seen the method.
        draw: Makes the chart from the results of a run, or from rows and runs of a comparison; None where the run has
            nothing to draw.
        section: The heading that it stands below.
    """

    name: str
    title: str
    about: str
    draw: Callable[..., Any | None]
    section: str


LEARNED = "What it can recognise"
LOST = "What it forgot, and why"
INSIDE = "What happened inside"

RUN_FIGURES = (
    Figure(
        "accuracy_over_tasks",
        "Accuracy over the tasks",
        "The network learns one task after another and is then tested on all classes that it has met so far. The more "
        "classes compete, the harder it gets, so every curve falls. The baselines never train the network: they only "
        "remember what its features of each class look like. A method that ends below them has learned nothing useful.",
        accuracy.accuracy_over_tasks,
        LEARNED,
    ),
    Figure(
        "accuracy_matrix",
        "Accuracy on every task, after every task",
        "A row is a moment, a column a task's test images. The diagonal is how well a task was learned when it was "
        "new; going down a column shows what later tasks did to it. Darkening downwards is forgetting.",
        accuracy.accuracy_matrix,
        LEARNED,
    ),
    Figure(
        "reliability",
        "Confidence and accuracy",
        "Answers are sorted by the probability that the network gave them. A bar is how many of them were right: on "
        "the dashed line, where 70 % sure means right in 70 of 100 cases, probabilities can be believed. Below it the "
        "network is too sure, above it too modest. A larger dot stands for more test images.",
        reliability.reliability,
        LEARNED,
    ),
    Figure(
        "task_known",
        "With and without the task known",
        "The upper curve is told which task an image belongs to, and chooses among that task's classes only. Where it "
        "stays high and the other falls, the features still tell classes apart; what was lost is the comparison "
        "between tasks, which is the head's work. Where both fall, the features themselves have suffered.",
        accuracy.task_known,
        LOST,
    ),
    Figure(
        "heads",
        "Frozen, stale, followed and oracle",
        "The head is solved from sums over features. As training goes on the features move, and old sums go stale; "
        "following carries them along. The oracle may look at all old images again, which no learner of a stream can. "
        "Frozen is the head on the frozen network: what adaptation is worth is the distance to it.",
        accuracy.heads,
        LOST,
    ),
    Figure(
        "confusion_of_tasks",
        "Which task's classes images are taken for",
        "At the end: each row divides the test images of one task by the task of the class that was answered. Weight "
        "beside the diagonal is confusion between tasks. A bright column is a task that attracts the images of others.",
        mistakes.confusion_of_tasks,
        LOST,
    ),
    Figure(
        "confusion_of_classes",
        "Which class is taken for which",
        "The same, class by class, in the order in which they arrived; grey lines part the tasks. Point at a cell to "
        "read the names.",
        mistakes.confusion_of_classes,
        LOST,
    ),
    Figure(
        "direction_sizes",
        "Size of each direction after each task",
        "SD-LoRA gives every task one direction in the space of weights, freezes it afterwards, and goes on training "
        "only how much of it is used. A column follows one direction through time: the Frobenius norm of what it adds "
        "to the weights, 0 for a task that was taken back. In the paper, early directions grow and late ones stay "
        "small: what comes later is more and more made of what is there already.",
        directions.sizes,
        INSIDE,
    ),
    Figure(
        "residuals",
        "How new a direction is, while it trains",
        "At 0 the old directions could say all that the new one says, at 1 it shares nothing with them. A line is a "
        "layer, averaged over the tasks from the second on. High-dimensional directions are nearly orthogonal by "
        "chance, so that values near 1 are no surprise; what deserves a look is where they fall.",
        directions.residuals,
        INSIDE,
    ),
    Figure(
        "similarities",
        "Similarity of the directions of two tasks",
        "The cosine between the directions of two tasks, without its sign. Bright cells are tasks that change the "
        "network in much the same way. The layer can be chosen below the figure.",
        directions.similarities,
        INSIDE,
    ),
    Figure(
        "distances",
        "Distance of the tasks' solutions",
        "How far the weights after each task are from the pre-trained ones (first column) and from the weights after "
        "other tasks. The paper's first finding is that solutions are nearer to each other than to the start: the "
        "first column is brighter than the rest of its row.",
        directions.distances,
        INSIDE,
    ),
    Figure(
        "path",
        "On the straight line between two solutions",
        "The weights are moved in a straight line from the solution after task 1 (left) to that after task 2 (right). "
        "If both curves stay high in between, the method moved along a path of low loss: it gained the second task "
        "without leaving what is good for the first. Each image chooses among the classes of its own task.",
        directions.path,
        INSIDE,
    ),
)

COMPARISON_FIGURES = (
    Figure(
        "accuracy_bands",
        "Accuracy over the tasks",
        "A line is the mean over seeds and the band around it its standard error; a seed changes the order of the "
        "classes and every random number. Where bands overlap, the methods cannot be told apart.",
        comparison.accuracy_bands,
        LEARNED,
    ),
    Figure(
        "front_of_parameters",
        "Accuracy for its parameters",
        "Up and to the left is better. Nothing is at once smaller and better than what lies on the dashed line.",
        comparison.front_of_parameters,
        LEARNED,
    ),
    Figure(
        "front_of_seconds",
        "Accuracy for its seconds",
        "Up and to the left is better. Seconds can be compared only between runs on the same machine with the same "
        "load.",
        comparison.front_of_seconds,
        LEARNED,
    ),
)

"""What `faults.py` kills: trainings of a second, which tell a pipe when they begin and end.

The command lines name `train_float` of this file, so that it is a module of its own.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

LOG = "TFMIAQ_FAULTS_LOG"
_RECORDS, _FEATURES, CLASSES = 120, 24, 4


def note(*words: Any) -> None:
    """Writes a line to the pipe whose number is in the environment."""
    if LOG in os.environ:
        os.write(int(os.environ[LOG]), f"{' '.join(map(str, words))}\n".encode())


def identity(*arrays: Any) -> str:
    """Returns a short hash of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:12]


def noted(kind: str, name: str, make: Callable[[], Any]) -> Any:
    """Returns what a function makes, and notes its beginning and its end."""
    note("begin", f"{kind}-{name}")
    made = make()
    note("end", f"{kind}-{name}")
    return made


def build() -> Any:
    """Returns a network of two layers with random weights."""
    from tfmiaq._backend import keras

    layers = keras.layers
    first, last = layers.Dense(12, name="first"), layers.Dense(CLASSES, name="last")
    return keras.Sequential([keras.Input((_FEATURES,)), first, layers.ReLU(name="first_relu"), last])


def train_float(x: Any, y: Any) -> Any:
    """Returns a model whose last layer fits the records by least squares: its weights are the same in each process."""
    model = build()

    def fit() -> Any:
        kernel, bias = model.get_layer("first").get_weights()
        hidden = np.maximum(x @ kernel + bias, 0)
        wanted = 4 * np.eye(CLASSES)[y] - 2
        kernel = np.linalg.lstsq(hidden.astype(np.float64), wanted, rcond=None)[0].astype(np.float32)
        model.get_layer("last").set_weights([kernel, np.zeros(CLASSES, np.float32)])
        return model

    return noted("float", identity(x, y, *model.get_weights()), fit)


def records() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns training and test records of four overlapping classes."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(CLASSES, _FEATURES))
    y = generator.integers(0, CLASSES, 3 * _RECORDS)
    x = (centres[y] + generator.normal(0, 2, (len(y), _FEATURES))).astype(np.float32)
    return (x[:_RECORDS], y[:_RECORDS]), (x[_RECORDS:], y[_RECORDS:])


def _seeded_float() -> Any:
    from tfmiaq._backend import keras

    keras.utils.set_random_seed(0)
    return train_float(*records()[0])


def _recipe() -> Any:
    import tfmiaq

    return tfmiaq.TrainingRecipe(epochs=1, batch_size=60, learning_rate=0.05)


def defend(folder: pathlib.Path) -> None:
    """The whole way, with teachers and two reference models."""
    import tfmiaq

    tfmiaq.defend(
        train_float,
        *records(),
        policy=tfmiaq.BitwidthPolicy.uniform(2, 4),
        recipe=_recipe(),
        cross_distillation=tfmiaq.CrossDistillation(folds=2),
        reference_models=2,
        folder=folder / "result",
        seed=0,
        verbose=False,
    )


def _train_function(x: Any, y: Any) -> Callable[[Any], np.ndarray]:
    """Returns a function in the place of a model: random features, fitted in closed form."""
    hidden = np.random.normal(size=(x.shape[1], 60))

    def fit() -> Callable[[Any], np.ndarray]:
        kernel = np.linalg.lstsq(np.tanh(x @ hidden / 8), 8 * np.eye(CLASSES)[y] - 4, rcond=None)[0]
        return lambda records: np.tanh(records @ hidden / 8) @ kernel

    # The target is trained in each process.
    is_target = np.array_equal(x, records()[0][0])
    return fit() if is_target else noted("function", identity(x, y, hidden), fit)


def audit(folder: pathlib.Path) -> None:
    """An audit with 16 reference models."""
    import tfmiaq

    train, test = records()
    np.random.seed(0)
    target = _train_function(*train)
    references = tfmiaq.ReferenceModels(_train_function, 16, cache=folder / "result" / "cache")
    tfmiaq.audit(target, train, test, reference_models=references, verbose=False).save(folder / "result")


def cross_distill(folder: pathlib.Path) -> None:
    """Six teachers, and a student."""
    import tfmiaq
    from tfmiaq.caching import ARRAYS, Store

    tfmiaq.keras.utils.set_random_seed(0)
    student = tfmiaq.quantize_model(build(), tfmiaq.BitwidthPolicy.uniform(2, 4))
    options = tfmiaq.CrossDistillation(folds=3, repeats=2)
    x, y = records()[0]
    cache = folder / "result" / "cache"
    tfmiaq.cross_distill(train_float, student, x, y, options, recipe=_recipe(), cache=cache, verbose=False)
    weights = {str(number): weights for number, weights in enumerate(student.get_weights())}
    Store(folder / "result").put("student", weights, ARRAYS)


def _command(*arguments: Any) -> None:
    from tfmiaq import cli

    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as left:
        if left.code:
            raise


def _common(folder: pathlib.Path) -> list[str]:
    return [f"--records={folder.parent / 'records.npz'}", "--raw", f"--folder={folder / 'result'}"]


_RECIPE = ("--epochs=1", "--batch_size=60", "--learning_rate=0.05")


def defend_command(folder: pathlib.Path) -> None:
    """`tfmiaq defend` of a function."""
    options = ["--folds=2", "--reference_models=2", "--seed=0", *_RECIPE]
    _command("defend", f"{__file__}:train_float", *_common(folder), *options)


def audit_command(folder: pathlib.Path) -> None:
    """`tfmiaq audit` of a file, with four reference models."""
    options = [f"--train_fn={__file__}:train_float", "--reference_models=4"]
    _command("audit", folder.parent / "float.keras", *_common(folder), *options)


TASKS: dict[str, Callable[[pathlib.Path], None]] = {
    "defend": defend,
    "tfmiaq defend": defend_command,
    "audit": audit,
    "tfmiaq audit": audit_command,
    "cross_distill": cross_distill,
}


def make_inputs(folder: pathlib.Path) -> None:
    """Writes the records and the model that the command lines read."""
    (x, y), (x_test, y_test) = records()
    np.savez(folder / "records.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    _seeded_float().save(folder / "float.keras")


def watch() -> None:
    """Notes the trainings of tfmiaq itself, which no function of the user's sees."""
    from tfmiaq.training import repeated
    from tfmiaq.training.recipe import TrainingRecipe

    fit, run = TrainingRecipe.fit, repeated._Training.run

    def noted_fit(self: Any, model: Any, x: Any, y: Any, callbacks: Any = ()) -> Any:
        return noted("fit", identity(x, y, *model.get_weights()), lambda: fit(self, model, x, y, callbacks))

    def noted_run(self: Any, weights: Any, x: Any, y: Any, seed: int) -> Any:
        name = identity(x, y, *weights, np.int64(seed))
        return noted("run", name, lambda: run(self, weights, x, y, seed))

    TrainingRecipe.fit = noted_fit  # type: ignore[method-assign]
    repeated._Training.run = noted_run  # type: ignore[method-assign]

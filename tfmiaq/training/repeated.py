"""Many models of one architecture, trained one after the other: built and traced once, and started anew for each.

Building and tracing are most of a short training. Here a model, its optimizer and its training step are traced once for
an architecture and a recipe, in each thread of a process. For a further model all variables go back to what they were
before the first step, and weights, order of records and random layers start from the model's own seed. So a model does
not depend on those that were trained before it.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq._backend import is_keras_3_model, is_stateful, keras, tf
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.parallel import own_python_state, own_random_state
from tfmiaq.policy import BitwidthPolicy
from tfmiaq.quantization import quantize_model
from tfmiaq.quantization.inspection import is_quantized
from tfmiaq.quantization.transformations.functional import is_functional
from tfmiaq.quantization.transformations.seeds import seed_new_layers
from tfmiaq.training import dp_sgd
from tfmiaq.training import recipe as recipes
from tfmiaq.training.layer_names import without_names
from tfmiaq.training.recipe import TrainingRecipe

Weights = Sequence[np.ndarray]
# A pipeline of a float, a quantized and a cross-distilled stage has four, its teachers of two numbers of steps.
_KEPT = 8
_METHODS = ("compile", "compute_loss", "fit", "make_train_function", "train_step")
# Stateful operations whose state is in variables. That of any other, such as a random generator's, does not go back.
_OF_VARIABLES = (
    *("Assert", "Assign", "Case", "DisableCopyOnRead", "If", "ReadVariable", "ResourceApply", "ResourceGather"),
    *("ResourceScatter", "ResourceStridedSlice", "Rng", "StatefulPartitionedCall", "VarHandle", "VarIsInit", "While"),
)


class _Kept(threading.local):
    """Traced trainings of this thread, by key; the ones that were used last. None for what cannot be repeated."""

    def __init__(self) -> None:
        self.trainings: collections.OrderedDict[str, Optional[_Training]] = collections.OrderedDict()
        # By hash of what builds a model: whether its weights depend on the seeds of `_seeded_lightly` alone.
        self.light: dict[str, bool] = {}


_kept = _Kept()


def forget() -> None:
    """Drops the traced trainings of this thread."""
    _kept.trainings.clear()
    _kept.light.clear()


@contextlib.contextmanager
def random_state_in_variables() -> Iterator[None]:
    """Within it new random layers, such as a Dropout, draw from generators whose state goes back with the variables."""
    options = keras.backend.experimental
    before = options.is_tf_random_generator_enabled()
    options.enable_tf_random_generator()
    try:
        yield
    finally:
        if not before:
            options.disable_tf_random_generator()


@contextlib.contextmanager
def _seeded_lightly(seed: int) -> Iterator[None]:
    """Seeds all generators but TensorFlow's own, and puts Python's and NumPy's back."""
    state = np.random.get_state()
    np.random.seed(seed)
    seed_new_layers(seed)
    try:
        with own_python_state(seed):
            yield
    finally:
        np.random.set_state(state)


def fresh(build_fn: Callable[[], Any], made_by: str, seed: int) -> Any:
    """Returns the model that a function builds under a seed.

    Seeding TensorFlow makes it compile all that is traced again. The first time the function is called with that and
    without, and only where the weights are the same is it left out from then on.

    Args:
        build_fn: Function without arguments.
        made_by: Its hash.
        seed: Seed of the weights.
    """

    def built(state: Any) -> Any:
        with state(seed), random_state_in_variables():
            return build_fn()

    if made_by not in _kept.light:
        model = built(own_random_state)
        pairs = zip(model.get_weights(), built(_seeded_lightly).get_weights())
        _kept.light[made_by] = all(np.array_equal(one, other) for one, other in pairs)
        return model
    return built(_seeded_lightly if _kept.light[made_by] else own_random_state)


def train(model: Any, recipe: TrainingRecipe, x: np.ndarray, y: np.ndarray, seed: int, made_by: str = "") -> Any:
    """Returns a float model that starts from the weights of a fresh one.

    Args:
        model: The model from `fresh`. It may become the traced one.
        recipe: How it is trained.
        x: Records, shape (n, ...).
        y: Integer classes (n,), or soft labels (n, classes).
        seed: Seed of the order of records and of random layers.
        made_by: Hash of what built the model.

    Returns:
        The trained model, until the next training on this thread; or None where the training cannot be repeated
        exactly. Then the fresh model is as it was.
    """
    if not _can_repeat(model, recipe):
        return None
    weights = model.get_weights()
    training = _find(
        _key(model, recipe, x, y, made_by, False), lambda: _traced(model, list(range(len(weights))), recipe, x, y)
    )
    return None if training is None else training.run(weights, x, y, seed)


def train_quantized(
    model: Any,
    weights: Weights,
    policy: BitwidthPolicy,
    recipe: TrainingRecipe,
    x: np.ndarray,
    y: np.ndarray,
    seed: int,
) -> Any:
    """Returns a trained quantized model that starts from given weights of a float one.

    Args:
        model: The float model.
        weights: Weights to start from, in the order of `model.get_weights()`.
        policy: The bits of each layer.
        recipe: As `train`.
        x: As `train`.
        y: As `train`.
        seed: As `train`.

    Returns:
        As `train`.
    """
    # Of weights that diverged `quantize_model` raises an error that says so.
    if not _can_repeat(model, recipe) or not all(np.isfinite(weight).all() for weight in weights):
        return None

    def make() -> Optional[_Training]:
        quantized, sources = _quantized(model, policy, x)
        return None if sources is None else _traced(quantized, sources, recipe, x, y)

    named = bool(policy.layers)
    training = _find(_key(model, recipe, x, y, fingerprint(policy), named), make)
    return None if training is None else training.run(weights, x, y, seed)


def _can_repeat(model: Any, recipe: TrainingRecipe) -> bool:
    """Returns whether the training of a model is that of a plain Keras model with a plain recipe."""
    if is_keras_3_model(model) or not isinstance(model, keras.Model) or not is_functional(model):
        return False
    return (
        type(recipe) is TrainingRecipe
        # A Poisson sample has another number of records each time.
        and not (recipe.dp is not None and recipe.dp.poisson)
        and (recipe.loss is None or isinstance(recipe.loss, keras.losses.Loss))
        and all(getattr(type(model), name) is getattr(keras.Model, name) for name in _METHODS)
        and len(model.inputs) == len(model.outputs) == 1
        and model.inputs[0].shape[0] is None
        and not tf.distribute.has_strategy()
        and all(variable.dtype.is_floating for variable in model.weights)
        # Some of them keep what they have learnt outside of variables too.
        and not any(isinstance(layer, _Preprocessing) and layer.weights for layer in model.submodules)
    )


_Preprocessing = keras.layers.experimental.preprocessing.PreprocessingLayer


def _key(model: Any, recipe: TrainingRecipe, x: np.ndarray, y: np.ndarray, *rest: Any) -> str:
    *made_by, named = rest
    # The rate of each step depends on their number; all else of the trace is the same for more or fewer records.
    steps = -(-len(x) // recipe.batch_size)
    config = model.get_config()
    if not named:
        config = without_names(config)
    variables = [(tuple(variable.shape), variable.dtype.name, variable.trainable) for variable in model.weights]
    kinds = x.shape[1:], str(x.dtype), np.ndim(y), str(y.dtype)
    return fingerprint(config, variables, recipe, steps, kinds, keras.backend.floatx(), *made_by)


def _find(key: str, make: Callable[[], Optional[_Training]]) -> Optional[_Training]:
    trainings = _kept.trainings
    if key not in trainings:
        # Whatever making it draws at random, the model that comes next does not depend on it.
        with own_random_state(0), random_state_in_variables():
            trainings[key] = make()
        while len(trainings) > _KEPT:
            trainings.popitem(last=False)
    trainings.move_to_end(key)
    return trainings[key]


def _quantized(model: Any, policy: BitwidthPolicy, x: np.ndarray) -> tuple[Any, Optional[list[Optional[int]]]]:
    """Returns a quantized model, and for each of its variables the number of the float one that it is a copy of.

    Two quantizations of different random weights tell: a variable that is the same in both is a constant, for which
    there is None. Where one is anything else than a copy or a constant, or where the outputs differ once the weights of
    one are copied into the other, there are no sources.
    """
    clone = keras.models.clone_model(model)
    generator = np.random.default_rng(0)
    found = []
    for _ in range(2):
        values = [
            generator.normal(0.0, 0.1, w.shape) if w.ndim > 1 else generator.uniform(0.5, 1.5, w.shape)
            for w in clone.get_weights()
        ]
        clone.set_weights(values)
        found.append((quantize_model(clone, policy), clone.get_weights()))
    (quantized, given), (other, of_other) = found
    sources: list[Optional[int]] = []
    if len(quantized.weights) != len(other.weights):
        return quantized, None
    for both in zip(quantized.get_weights(), other.get_weights()):
        copied = [i for i, pair in enumerate(zip(given, of_other)) if all(map(_is_copy, both, pair))]
        if len(copied) > 1 or (not copied and not np.array_equal(*both)):
            return quantized, None
        sources.append(copied[0] if copied else None)
    _assign(quantized, sources, of_other)
    some = tf.constant(x[:8])
    same = np.allclose(quantized(some, training=False), other(some, training=False), rtol=1e-6, equal_nan=True)
    return quantized, sources if same else None


def _is_copy(value: np.ndarray, of: np.ndarray) -> bool:
    return value.size == of.size and np.array_equal(value.ravel(), of.ravel())


def _assign(model: Any, sources: Sequence[Optional[int]], weights: Weights) -> None:
    for variable, source in zip(model.weights, sources):
        if source is not None:
            variable.assign(np.reshape(weights[source], variable.shape))


def _traced(
    model: Any, sources: Sequence[Optional[int]], recipe: TrainingRecipe, x: np.ndarray, y: np.ndarray
) -> Optional[_Training]:
    training = _Training(model, sources, recipe, x, y, _gains_by_compiling(model))
    if training.starts_anew and not training.runs():
        training = _Training(model, sources, recipe, x, y, False)
    return training if training.starts_anew else None


def _gains_by_compiling(model: Any) -> bool:
    """Returns whether XLA makes a step of a model faster on a processor.

    It joins the many operations on each quantized weight, and takes a convolution over one pixel for a product of
    matrices: a step of a quantized perceptron takes half of the time. Other convolutions it makes many times slower.
    """
    shapes = [variable.shape for variable in model.weights]
    products = all(shape.rank <= 2 or (shape.rank == 4 and shape[:2] == (1, 1)) for shape in shapes)
    return is_quantized(model) and products and not tf.config.list_physical_devices("GPU")


class _Training:
    """A model, its optimizer and one epoch of its training, traced.

    Args:
        model: A model with the state of one that was never trained.
        sources: For each of its variables the number of the weight that it starts from; None for what it has now.
        recipe: How it is trained.
        x: Records of the shape and dtype that all records have.
        y: Labels likewise.
        compiles: Whether XLA compiles the step.
    """

    def __init__(
        self,
        model: Any,
        sources: Sequence[Optional[int]],
        recipe: TrainingRecipe,
        x: np.ndarray,
        y: np.ndarray,
        compiles: bool,
    ) -> None:
        self._model, self._sources, self._recipe = model, sources, recipe
        self._compiles = compiles
        self._step = tf.function(self._step_of_batch, jit_compile=True) if compiles else self._step_of_batch
        labels = recipe.labels(model, y)
        # A view would keep all of the records for as long as the training is kept.
        self._batch = [part.copy() for part in _arrays(x[: recipe.batch_size], labels[: recipe.batch_size])]
        recipe.compile(model, len(x), labels)
        model.optimizer.build(model.trainable_variables)
        signature = [tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in self._batch]
        signature += [tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int32)]
        self._steps = tf.function(self._run_steps).get_concrete_function(*signature)
        graph = self._steps.graph
        self._states = _random_states(graph, [*model.weights, *model.optimizer.variables])
        states = {id(variable) for variable in self._states}
        of_weights = {id(v) for v, source in zip(model.weights, sources) if source is not None}
        every = {id(v): v for v in [*model.weights, *model.optimizer.variables, *graph.variables]}
        # Nothing was run yet: what each variable is at the start.
        self._starts = [(v, v.numpy()) for i, v in every.items() if i not in states and i not in of_weights]
        known = {id(v.handle) for v in every.values()}
        captured = [t for t in graph.external_captures if t.dtype == tf.resource]
        self.starts_anew = all(id(t) in known for t in captured) and all(map(_is_repeatable, _operations(graph)))

    def runs(self) -> bool:
        """Returns whether the step can be run, which XLA tells when it compiles it."""
        if self._compiles:
            try:
                order = tf.range(len(self._batch[0]), dtype=tf.int64)
                self._steps(*map(tf.constant, self._batch), order, tf.constant(0), tf.constant(0))
            except tf.errors.OpError:
                # An operation that it does not know.
                for variable, value in self._starts:
                    variable.assign(value)
                return False
        return True

    def _run_steps(self, x: Any, y: Any, order: Any, seed: Any, first: Any) -> None:
        size = self._recipe.batch_size
        for start in tf.range(0, tf.shape(order)[0], size):
            chosen = order[start : start + size]
            of_step = tf.stack([seed, first + start])
            self._step(*self._recipe.batch(tf.gather(x, chosen), tf.gather(y, chosen), of_step), of_step)

    def _step_of_batch(self, x: Any, y: Any, seed: Any) -> None:
        model = self._model
        if self._recipe.dp is not None:
            gradients, _ = dp_sgd.gradients(model, x, y, self._recipe.dp, seed)
            model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))
            return
        # As in `fit`, which gives a loss a last axis for labels too.
        y = y[:, None] if y.shape.rank == 1 else y
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            y = tf.cast(y, outputs.dtype) if y.dtype.is_floating else y
            loss = tf.add_n([model.loss(y, outputs), *model.losses])
        model.optimizer.minimize(loss, model.trainable_variables, tape=tape)

    def run(self, weights: Weights, x: np.ndarray, y: np.ndarray, seed: int) -> Any:
        """Returns the model after a training that starts from the given weights."""
        generator = np.random.default_rng(seed)
        for variable, value in self._starts:
            variable.assign(value)
        _assign(self._model, self._sources, weights)
        for variable in self._states:
            variable.assign(generator.integers(2**62, size=variable.shape))
        # Large records go in by parts of whole batches: a tensor of all of them would take their memory twice more.
        labels = self._recipe.labels(self._model, y)
        size = self._recipe.batch_size
        size *= max(1, recipes.LARGE_BYTES // (8 * max(1, x[:size].nbytes)))
        given = [tf.constant(part) for part in _arrays(x, labels)] if x.nbytes <= recipes.LARGE_BYTES else []
        for _ in range(self._recipe.epochs):
            order = generator.permutation(len(x))
            seed = tf.constant(generator.integers(2**31), tf.int32)
            for first in range(0, len(x), size):
                chosen = order[first : first + size]
                part = given or [tf.constant(array) for array in _arrays(x[chosen], labels[chosen])]
                places = tf.constant(chosen if given else np.arange(len(chosen)), tf.int64)
                self._steps(*part, places, seed, tf.constant(first))
        return self._model


def _arrays(*parts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns records and labels of the types that `fit` would give to the model."""
    floatx = keras.backend.floatx()
    return tuple(part.astype(floatx, copy=False) if part.dtype.kind == "f" else part for part in parts)


def _random_states(graph: Any, known: Sequence[Any]) -> list[Any]:
    """Returns the states of the random layers of a traced model: variables that are none of those that are known."""
    owned = {id(variable) for variable in known}
    return [v for v in graph.variables if id(v) not in owned and v.dtype == tf.int64 and v.shape.rank == 1]


def _operations(graph: Any) -> list[Any]:
    """Returns the definitions of all operations of a graph and of the functions that it calls."""
    definition = graph.as_graph_def()
    return [*definition.node, *(node for function in definition.library.function for node in function.node_def)]


def _is_repeatable(node: Any) -> bool:
    """Returns whether all state of an operation is in variables."""
    return not is_stateful(node.op) or node.op.startswith(_OF_VARIABLES)

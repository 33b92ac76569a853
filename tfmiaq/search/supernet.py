"""The shared model: one quantized model that is trained at all bit-widths, so that each is scored without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from tfmiaq import signals
from tfmiaq._backend import activation_quantizers, keras, tf, weight_quantizers
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.store import ARRAYS, VALUES, Store
from tfmiaq.policy import BitwidthPolicy
from tfmiaq.quantization import get_policy, quantize_model, set_policy
from tfmiaq.quantization.inspection import quantized_layers
from tfmiaq.quantization.layer_graph import inner
from tfmiaq.quantization.quantizers import ReluQuantizer
from tfmiaq.search.allocation import FULL, Bits
from tfmiaq.search.measurement import Samples, measure
from tfmiaq.search.results import Candidate
from tfmiaq.training import repeated
from tfmiaq.training.recipe import TrainingRecipe

# BatchNormalization has to follow each change of bits within a few batches.
_FAST_MOMENTUM = 0.7
_BATCH = 256


class Supernet:
    """A quantized model whose bits are search dimensions.

    Args:
        model: The float model.
        weight_bits: Bits that weights may have.
        activation_bits: Bits that ReLU outputs may have.

    Attributes:
        model: The quantized model.
        dimensions: The variable of the bits of each search dimension ("layer/weight" or "layer/activation").
        choices: The bits that each search dimension may have, in rising order.
        sizes: Number of weights of each search dimension that has some.

    Raises:
        TypeError, ValueError: As `quantize_model`.
        ValueError: A model without a layer whose bits can be chosen.
    """

    def __init__(self, model: Any, weight_bits: Sequence[int], activation_bits: Sequence[int]) -> None:
        with repeated.random_state_in_variables():
            self.model = quantize_model(model, BitwidthPolicy.uniform(FULL, FULL, None, None))
        for layer in self.model.layers:
            if isinstance(inner(layer), keras.layers.BatchNormalization):
                inner(layer).momentum = _FAST_MOMENTUM
        self.dimensions: dict[str, Any] = {}
        self.choices: dict[str, tuple[int, ...]] = {}
        self.sizes: dict[str, int] = {}
        # Bits that follow a low policy can be chosen; those that stay at 8 cannot.
        set_policy(self.model, BitwidthPolicy.uniform(2, 3, None, None))
        for wrapper in quantized_layers(self.model):
            name = wrapper.layer.name
            for kernel, _, variables in weight_quantizers(wrapper):
                if float(variables["bits"]) == 2:
                    self._add(f"{name}/weight", variables["bits"], weight_bits)
                    self.sizes[f"{name}/weight"] = int(np.prod(kernel.shape))
            for quantizer, variables in activation_quantizers(wrapper):
                if isinstance(quantizer, ReluQuantizer) and float(variables["bits"]) == 3:
                    self._add(f"{name}/activation", variables["bits"], activation_bits)
        if not self.dimensions:
            raise ValueError("search_policy: No layer of the model has bits to choose; tfmiaq.summary(model) says why.")
        self.set({})
        self._forward = tf.function(lambda x: self.model(x, training=False), reduce_retracing=True)
        self._adapt = _Adaptation(self.model)

    def _add(self, name: str, variable: Any, choices: Sequence[int]) -> None:
        self.dimensions[name] = variable
        self.choices[name] = tuple(sorted({*choices}))

    def set(self, bits: Bits) -> None:
        """Gives each search dimension its bits; 8 to those that are not named."""
        for name, variable in self.dimensions.items():
            variable.assign(float(bits.get(name, FULL)))

    def policy(self, bits: Bits) -> BitwidthPolicy:
        """Sets an allocation and returns its policy."""
        self.set(bits)
        return get_policy(self.model)

    def bits_of(self, policy: BitwidthPolicy) -> Bits:
        """Sets a policy and returns its allocation.

        Raises:
            ValueError: Bits that are none of the choices.
        """
        set_policy(self.model, policy)
        found = {name: int(variable.numpy()) for name, variable in self.dimensions.items()}
        for name, bits in found.items():
            if bits not in self.choices[name]:
                raise ValueError(
                    f"search_policy: A policy of policies gives {name} {bits} bits, which are none of its choices, "
                    f"{self.choices[name]}. Change the policy, weight_bits or activation_bits."
                )
        return found

    def packed_bytes(self, bits: Bits) -> int:
        """Returns the size of the weights that have a choice, if each took only its bits."""
        return -(-sum(size * bits.get(name, FULL) for name, size in self.sizes.items()) // 8)

    def train(self, train: signals.Records, recipe: TrainingRecipe, store: Store, key: str, seed: int) -> None:
        """Trains at bits that are drawn for each batch, or loads the weights that an earlier search has trained."""
        count = len(self.model.get_weights())

        def fit() -> dict[str, np.ndarray]:
            keras.utils.set_random_seed(seed)
            recipe.fit(self.model, *train, [RandomBits(self, seed)])
            self.set({})
            return {str(number): weights for number, weights in enumerate(self.model.get_weights())}

        weights = store.get_or_make(f"shared-{key}", fit, ARRAYS, lambda stored: len(stored) == count)
        self.model.set_weights([weights[str(number)] for number in range(count)])

    def score(self, bits: Bits, samples: Samples) -> tuple[float, float]:
        """Returns the leakage and the accuracy of an allocation.

        Statistics and ranges follow the bits on a few batches, and are put back. Random layers, as Dropout, draw the
        same for each score, so that it does not depend on the scores before it. A layer of the user's own that calls
        `tf.random` itself draws on from score to score.
        """
        variables = self.model.non_trainable_variables
        before = [variable.numpy() for variable in variables]
        self.set(bits)
        self._adapt(samples.calibration)
        measured = measure(self._predict, samples)
        for variable, value in zip(variables, before):
            variable.assign(value)
        return measured

    def _predict(self, x: np.ndarray) -> np.ndarray:
        return np.concatenate([self._forward(x[start : start + _BATCH]).numpy() for start in range(0, len(x), _BATCH)])


class _Adaptation:
    """Runs batches through a model as in training, without a step; random layers draw the same in each call."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._run: Optional[Any] = None
        self._states: list[Any] = []

    def __call__(self, batches: Sequence[np.ndarray]) -> None:
        """Runs the batches, shape (n, ...) each."""
        if self._run is None and len(batches):
            traced = tf.function(lambda x: self._model(x, training=True))
            shape = [None, *batches[0].shape[1:]]
            self._run = traced.get_concrete_function(tf.TensorSpec(shape, batches[0].dtype))
            self._states = repeated.random_states(self._run.graph, self._model.weights)
        generator = np.random.default_rng(0)
        for state in self._states:
            state.assign(generator.integers(2**62, size=state.shape))
        for batch in batches:
            assert self._run is not None
            self._run(tf.constant(batch))


class CachedScores:
    """Scores allocations with a shared model, each once.

    Args:
        supernet: The shared model, trained.
        samples: The records.
        store: Store that keeps the scores.
        key: Hash of the shared model and of the records.
    """

    def __init__(self, supernet: Supernet, samples: Samples, store: Store, key: str) -> None:
        self._supernet = supernet
        self._samples = samples
        self._store = store
        self._key = key

    def __call__(self, bits: Bits) -> Candidate:
        """Returns an allocation with its scores."""
        policy = self._supernet.policy(bits)
        full = {name: bits.get(name, FULL) for name in self._supernet.choices}
        leakage, accuracy = self._store.get_or_make(
            f"score-{fingerprint(self._key, full)[:24]}",
            lambda: self._supernet.score(bits, self._samples),
            VALUES,
            lambda stored: isinstance(stored, list) and len(stored) == 2,
        )
        return Candidate(policy, leakage, accuracy, self._supernet.packed_bytes(bits))


class RandomBits(keras.callbacks.Callback):
    """Draws the bits of a shared model anew for each batch: half of the time one width for all, else one for each.

    Args:
        supernet: The shared model.
        seed: Seed of the draws.
    """

    def __init__(self, supernet: Supernet, seed: int = 0) -> None:
        super().__init__()
        self._supernet = supernet
        self._generator = np.random.default_rng(seed)

    def on_train_batch_begin(self, batch: int, logs: Optional[dict[str, Any]] = None) -> None:
        """Draws."""
        generator, level = self._generator, self._generator.random()
        same = generator.random() < 0.5
        bits = {}
        for name, choices in self._supernet.choices.items():
            at = level if same else generator.random()
            bits[name] = choices[min(int(at * len(choices)), len(choices) - 1)]
        self._supernet.set(bits)

"""Retrained candidates: which ones are trained on their own, and what they come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Optional

from sklearn import isotonic
from tqdm.auto import tqdm

from tfmiaq import signals
from tfmiaq._backend import keras
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.store import VALUES, Store
from tfmiaq.quantization import quantize_model
from tfmiaq.search.measurement import Samples, measure
from tfmiaq.search.results import Candidate, SearchResult
from tfmiaq.training.recipe import TrainingRecipe


def choose_next(
    candidates: Sequence[Candidate], trained: Sequence[tuple[Candidate, Candidate]], max_accuracy_drop: float
) -> Optional[Candidate]:
    """Returns the candidate that is trained next, or None if all are trained.

    It is the one of least leakage among those that should keep the accuracy, or else the one that should keep most of
    it. An accuracy by the shared model is not that of a training of its own. The latter is read off an increasing line
    through what has been trained (isotonic regression). Through 8 bits alone the line is flat, so that the candidate of
    least leakage comes first.

    Args:
        candidates: Candidates with the shared model's scores.
        trained: Pairs of the shared model's scores and those after training, 8 bits first.
        max_accuracy_drop: Accuracy that may be lost against 8 bits.
    """
    done = {scored.policy for scored, _ in trained}
    rest = [candidate for candidate in candidates if candidate.policy not in done]
    if not rest:
        return None
    line = isotonic.IsotonicRegression(out_of_bounds="clip")
    line.fit([scored.accuracy for scored, _ in trained], [found.accuracy for _, found in trained])
    expected = line.predict([candidate.accuracy for candidate in rest])
    floor = trained[0][1].accuracy - max_accuracy_drop
    kept = [candidate for candidate, accuracy in zip(rest, expected) if accuracy >= floor]
    if not kept:
        return max(rest, key=lambda candidate: (candidate.accuracy, -candidate.leakage))
    return min(kept, key=lambda candidate: (candidate.leakage, -candidate.accuracy, candidate.packed_bytes))


def retrain(
    result: SearchResult, count: int, train: Callable[[Candidate], Candidate], quiet: Optional[bool]
) -> tuple[Candidate, ...]:
    """Returns 8 bits and then up to a number of candidates after training, each chosen by the outcomes before it.

    Args:
        result: The search so far.
        count: Number of candidates beside 8 bits.
        train: Function that trains a candidate on its own and returns it with its own scores.
        quiet: As `disable` of tqdm.
    """
    chosen: Optional[Candidate] = result.baseline
    trained: list[tuple[Candidate, Candidate]] = []
    with tqdm(total=count + 1, desc="retrained", disable=quiet) as bar:
        while chosen is not None and len(trained) <= count:
            trained.append((chosen, train(chosen)))
            chosen = choose_next(result.candidates, trained, result.max_accuracy_drop)
            bar.update()
    return tuple(found for _, found in trained)


@dataclasses.dataclass(frozen=True)
class Retraining:
    """Trains candidates on their own from the float model, each once.

    Attributes:
        model: The float model.
        train: Pair (x, y) of training records.
        recipe: How each candidate is trained.
        samples: Records that it is scored on.
        store: Store that keeps the scores.
        key: Hash of all of these.
        seed: Seed of each training.
    """

    model: Any
    train: signals.Records
    recipe: TrainingRecipe
    samples: Samples
    store: Store
    key: str
    seed: int

    def __call__(self, candidate: Candidate) -> Candidate:
        """Returns a candidate with the scores of a training of its own."""
        leakage, accuracy = self.store.get_or_make(
            f"retrained-{fingerprint(self.key, candidate.policy)[:24]}",
            lambda: self._train(candidate),
            VALUES,
            lambda stored: isinstance(stored, list) and len(stored) == 2,
        )
        return dataclasses.replace(candidate, leakage=leakage, accuracy=accuracy)

    def _train(self, candidate: Candidate) -> tuple[float, float]:
        keras.utils.set_random_seed(self.seed)
        quantized = self.recipe.fit(quantize_model(self.model, candidate.policy), *self.train)
        return measure(lambda x: quantized.predict(x, verbose=0), self.samples)

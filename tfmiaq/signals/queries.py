"""Augmented queries: several copies of each record, changed a little, and the target's outputs on them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, Optional

import numpy as np
from scipy import special

from tfmiaq.signals.inputs import Inputs
from tfmiaq.signals.outputs import HARD, SIGMOIDS, Format, Labels, as_scores, format_of, values_behind
from tfmiaq.signals.records import Records
from tfmiaq.signals.signals import compact, read_signals
from tfmiaq.signals.targets import Target, predictor, slices_of

Queries = Callable[[np.ndarray, int], np.ndarray]

# Outputs are kept as means over the queries whose numbers leave the same remainder.
GROUPS = 3
_SHIFTS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
_EXCHANGED = (0.1, 0.2, 0.3)
_NOISE = (0.2, 0.4, 0.6)
_DONORS = 512
# Of copies that are kept, packed.
_MOST_BYTES = 2**26


def count_of(queries: Queries) -> int:
    """Returns the number of queries for each record: the attribute `count` of a function that has one, else 10."""
    return int(getattr(queries, "count", 10))


def query_augmented(
    target: Target,
    records: Records,
    queries: Queries,
    count: Optional[int] = None,
    batch_size: int = 256,
    threads: Optional[int] = None,
    known: Optional[Labels] = None,
) -> dict[str, Any]:
    """Returns signals of the target on augmented copies of records.

    Args:
        target: As for `signals.extract`, but no saved outputs.
        records: Pair (x, y), as `records.pair` returns it.
        queries: Function from records and the number of a query, from 0 on, to copies of them, as `AugmentedQueries`.
        count: Number of queries for each record, at least 3; None for the attribute `count` of `queries`, or for 10
            where it has none.
        batch_size: Records in one call.
        threads: Threads of the .tflite interpreter.
        known: What is known of the labels of all sets, where these records are one of several; None for these alone.

    Returns:
        The fields `label_agreement` and, of a target that gives scores, `augmented_confidences` and
        `augmented_outputs` of `Signals`, by name.
    """
    x, y = records
    count = count_of(queries) if count is None else count
    known = Labels.of([y]) if known is None else known
    predict = predictor(target, batch_size, threads)
    activation = getattr(predict, "activation", None)
    right: np.ndarray = np.zeros(len(y), np.float32)
    confidences: np.ndarray = np.zeros(len(y))
    outputs: list[np.ndarray] = []
    assumed: Optional[Format] = None
    for part in slices_of(len(y), batch_size):
        piece, labels = x[part], y[part]
        total: Any = 0.0
        for number in range(count):
            scores = as_scores(predict(queries(piece, number)), len(piece), "augmented queries", part.start)
            scores, of_logits = values_behind(scores, known, activation)
            of_query = format_of(scores, known, of_logits)
            if of_query.kind == HARD and known.are_binary and scores.dtype.kind == "f":
                # A sigmoid may be saturated in all records of a piece.
                of_query = Format(SIGMOIDS)
            assumed = of_query if assumed is None else assumed.joined(of_query)
            found = read_signals(scores, labels, known, assumed)
            right[part] += found.correct
            if found.losses is None:
                continue
            confidences[part] += found.confidences
            log_p = found.log_p
            if number == 0:
                total = np.zeros((len(piece), GROUPS, log_p.shape[1]))
            total[:, number % GROUPS] += log_p
        if np.ndim(total):
            of_group = np.bincount(np.arange(count) % GROUPS, minlength=GROUPS)
            outputs.append(compact(total / np.maximum(of_group, 1)[:, None]))
    agreement = {"label_agreement": right / count}
    if not outputs:
        return agreement
    return {
        **agreement,
        "augmented_confidences": confidences / count,
        "augmented_outputs": np.concatenate(outputs),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class AugmentedQueries:
    """Copies of records that an attacker queries (Choquette-Choo et al. 2021, section 4).

    Images (height, width, channels) are shifted by up to a pixel each way, in five directions, as they are and
    mirrored. Of integer or binary records, of DataFrames and of several inputs, a tenth, a fifth or three tenths of the
    values are exchanged with those of another record; to others Gaussian noise of 0.2, 0.4 or 0.6 of each feature's
    standard deviation is added. Which of the three depends on the number of the query. The copies of a record depend on
    nothing but the record, the number of the query and the donors, so that a target and its reference models are
    queried alike.

    Example:
        >>> queries = tfmiaq.signals.AugmentedQueries.from_records(x)
        >>> copies = queries(x[:10], 3)

    Attributes:
        donors: Shape (m, ...), or `Inputs`, records that values are exchanged with and that spreads are taken from.
        count: Number of queries for each record: 10 for images, else 66.
    """

    donors: Any
    count: int
    _made: dict[tuple[int, bytes], np.ndarray] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def get_config(self) -> dict[str, Any]:
        """Returns everything that defines the queries, for their fingerprint."""
        return {"donors": self.donors, "count": self.count}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made": {}}

    @classmethod
    def from_records(cls, x: Any, seed: int = 0) -> AugmentedQueries:
        """Returns the queries whose donors are up to 512 of some records.

        Args:
            x: Shape (n, ...), or `Inputs`.
            seed: Seed of the choice of donors.
        """
        chosen = np.random.default_rng(seed).permutation(len(x))[:_DONORS]
        if isinstance(x, Inputs):
            return cls(x[chosen], 66)
        return cls(np.ascontiguousarray(x[chosen]), 10 if x.ndim == 4 else 66)

    def __call__(self, x: Any, number: int) -> Any:
        """Returns copies of records.

        Args:
            x: Records of shape (n, ...), or `Inputs`.
            number: Number of the query, from 0 on.

        Returns:
            Array of the shape and type of `x`, or `Inputs` like `x`.
        """
        if isinstance(x, Inputs):
            return self._exchanged(x, number)
        if x.ndim == 4:
            return _shifted(x, number)
        donors = self.donors.reshape(len(self.donors), -1)
        # In one type, since the copies depend on the bytes: members and non-members may come as float32 and float64.
        flat: np.ndarray = x.reshape(len(x), -1).astype(donors.dtype, copy=False)
        if not _are_bits(donors) or not _are_bits(flat):
            return self._copies(flat, donors, number).astype(x.dtype).reshape(x.shape)
        # Copies of bits are kept: many reference models are queried with the same ones.
        key = number, hashlib.blake2b(f"{flat.shape}".encode() + np.packbits(flat.astype(bool)).tobytes()).digest()
        if key not in self._made:
            bits = np.packbits(self._copies(flat, donors, number).astype(bool))
            if sum(array.nbytes for array in self._made.values()) > _MOST_BYTES:
                self._made.clear()
            self._made[key] = bits
        return np.unpackbits(self._made[key], count=x.size).astype(x.dtype).reshape(x.shape)

    def _exchanged(self, x: Inputs, number: int) -> Inputs:
        seeds = _seeds(x.matrix(), number)

        def draws(first: int, count: int) -> np.ndarray:
            return _uniform(seeds[:, None], np.arange(first, first + count, dtype=np.uint64)[None])

        chosen = (seeds % np.uint64(len(self.donors))).astype(np.int64)
        return x.exchanged(self.donors, draws, chosen, _EXCHANGED[number % GROUPS])

    def _copies(self, flat: np.ndarray, donors: np.ndarray, number: int) -> np.ndarray:
        seeds = _seeds(flat, number)
        draws = _uniform(seeds[:, None], np.arange(flat.shape[1], dtype=np.uint64)[None])
        if np.issubdtype(flat.dtype, np.integer) or _are_bits(donors):
            other = donors[(seeds % np.uint64(len(donors))).astype(np.int64)]
            return np.where(draws < _EXCHANGED[number % GROUPS], other, flat)
        return flat + special.ndtri(draws) * _NOISE[number % GROUPS] * np.nanstd(donors, axis=0, keepdims=True)


def _are_bits(values: np.ndarray) -> bool:
    return bool(np.all((values == 0) | (values == 1)))


def _shifted(x: np.ndarray, number: int) -> np.ndarray:
    down, right = _SHIFTS[number % len(_SHIFTS)]
    pad = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    moved = pad[:, 1 + down : 1 + down + x.shape[1], 1 + right : 1 + right + x.shape[2]]
    return moved[:, :, ::-1] if number // len(_SHIFTS) % 2 else moved


def _seeds(flat: np.ndarray, number: int) -> np.ndarray:
    """Returns a 64-bit number for each record, shape (n,), of its values and the number of the query."""
    rows = np.ascontiguousarray(flat)
    key = number.to_bytes(8, "little")
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8, key=key).digest() for row in rows]
    return np.frombuffer(b"".join(digests), np.uint64)


def _uniform(seeds: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Returns numbers between 0 and 1 by SplitMix64 (Steele, Lea, Flood 2014) of a seed and an index."""
    with np.errstate(over="ignore"):
        z = seeds + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53

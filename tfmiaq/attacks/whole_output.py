"""The whole-output attack: everything that the target says of a record, against what reference models say of it."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional

import numpy as np

from tfmiaq.attacks.base import (
    AUGMENTED_REFERENCES,
    REFERENCE_MODELS,
    SCORES,
    WHOLE_OUTPUTS,
    Attack,
    Evidence,
)
from tfmiaq.attacks.difficulty import Difficulty
from tfmiaq.signals.reference_signals import ReferenceSignals
from tfmiaq.signals.signals import FEATURES, Signals

_MOST_ROWS = 100_000
# Columns of a view that the classifier sees one by one: the true class, and the likeliest of the others.
_TOP = 6
# As many models as weigh the shift of all records like that of the record itself.
_PRIOR_MODELS = 4.0
_RIDGE = 1e-3
_SCALARS = ("confidence", "entropy", "modified_entropy")


class WholeOutput(Attack):
    """A classifier on the target's whole output, fitted on reference models as pseudo-targets.

    What the target says of a record is compared with the middle between the means of the models that trained on it and
    of those that did not: its log-probabilities, with the true class first and the others in the order of the reference
    models' mean; the same, averaged over augmented queries; its confidence and entropies; and, of who holds the file,
    the size of the last hidden layer. Each of these views enters by its Fisher score (the linear discriminant with the
    covariance within models, and each record's own difference of means, shrunk to that of all records), and by its
    first columns. A logistic regression weighs them, beside the sorted log-probabilities, the entropy and the
    correctness of the label. It is fitted on reference models, each compared with the others but the one that trained
    on just the other records; of no record it is known whether the target trained on it (after Nasr et al. 2019 and Ye
    et al. 2022, who attack whole outputs, and Carlini et al. 2022, who compare with models that did and did not train
    on a record).

    Without models that trained on a record, or with fewer than four, the score is `Difficulty`'s.

    Args:
        name: Name in the report.
        augmented: Whether augmented queries are compared too.
    """

    learns = False

    def __init__(self, name: str, augmented: bool) -> None:
        self.name = name
        self.augmented = augmented
        self.needs = frozenset(
            {SCORES, REFERENCE_MODELS, WHOLE_OUTPUTS, *([AUGMENTED_REFERENCES] if augmented else [])}
        )
        queries = ", and augmented queries" if augmented else ""
        self.note = f"reference models with and without the record, whole outputs{queries}"

    def scores(self, evidence: Evidence) -> np.ndarray:
        from sklearn import linear_model, pipeline, preprocessing

        references, target = evidence.reference_signals, evidence.target
        assert references is not None
        if len(references.trained_on) < 4 or not references.trained_on.any():
            return Difficulty().scores(evidence)
        views = _views(target, references, self.augmented)
        own = _own(target.outputs, target.features, target.labels)
        found = np.column_stack([*(view.columns(None, slice(None)) for view in views), own])
        generator = np.random.default_rng(evidence.seed)
        features, inside = [], []
        models, count = references.trained_on.shape
        rows = min(count, max(_MOST_ROWS // models, 1))
        for model in range(models):
            some = np.sort(generator.choice(count, rows, replace=False))
            assert references.outputs is not None
            of_model = _own(references.outputs[model, some], references.features[model, some], target.labels[some])
            features.append(np.column_stack([*(view.columns(model, some) for view in views), of_model]))
            inside.append(references.trained_on[model, some])
        classifier = pipeline.make_pipeline(
            preprocessing.StandardScaler(), linear_model.LogisticRegression(C=0.1, max_iter=500)
        )
        classifier.fit(np.concatenate(features), np.concatenate(inside))
        return classifier.decision_function(found)


def _own(outputs: np.ndarray, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns what one model alone says: its largest log-probabilities in order, the true class's and FEATURES."""
    log_p: np.ndarray = outputs.astype(np.float64)
    largest = -np.sort(-log_p, axis=1)[:, : _TOP - 2]
    true = log_p[np.arange(len(labels)), labels % log_p.shape[1]]
    return np.column_stack([largest, true, features[:, [FEATURES.index(name) for name in ("entropy", "correct")]]])


def _views(target: Signals, references: ReferenceSignals, augmented: bool) -> list[_View]:
    """Returns the views on the target and on the reference models."""
    assert references.outputs is not None
    if target.outputs.shape[1] != references.outputs.shape[2]:
        raise ValueError(
            f"audit: Expected reference models of as many classes as the target. The target has "
            f"{target.outputs.shape[1]}, the reference models have {references.outputs.shape[2]}."
        )
    order = _order(references.outputs, target.labels)
    trained_on = references.trained_on
    scalars = [FEATURES.index(name) for name in _SCALARS]
    views = [
        _View.fit(target.outputs, references.outputs, trained_on, order),
        _View.fit(target.features[:, scalars], references.features[:, :, scalars], trained_on, None),
    ]
    own, others = target.hidden, references.hidden
    if own is not None and others is not None and 0 < own.shape[1] == others.shape[2]:
        views.append(_View.fit(own, others, trained_on, None))
    if augmented:
        of_target, of_references = target.augmented_outputs, references.augmented_outputs
        assert of_target is not None and of_references is not None
        assert target.augmented is not None and references.augmented is not None
        views.append(_View.fit(target.augmented, references.augmented, trained_on, None))
        for group in range(of_target.shape[1]):
            views.append(_View.fit(of_target[:, group], of_references[:, :, group], trained_on, order))
    return views


def _order(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the order of each record's classes: the true one, then by the reference models' mean, largest first."""
    mean = outputs.mean(0, dtype=np.float32)
    mean[np.arange(len(labels)), labels % mean.shape[1]] = np.inf
    return np.argsort(-mean, axis=1, kind="stable")


@dataclasses.dataclass(frozen=True)
class _View:
    """A vector for each record, of the target and of k reference models, and how they spread.

    Attributes:
        target: Shape (n, d).
        models: Shape (k, n, d).
        trained_on: Shape (k, n).
        order: Order of each record's columns, shape (n, d), or None.
        partners: For each model the one that trained on just the other records, or the model itself.
        sums: Sums over the models that trained on a record and over the others, shape (2, n, d).
        counts: Numbers of these models, shape (2, n, 1).
        shift: Mean over records of the difference between the two means, shape (d,).
        precision: Inverse covariance within models, shape (d, d).
    """

    target: np.ndarray
    models: np.ndarray
    trained_on: np.ndarray
    order: Optional[np.ndarray]
    partners: tuple[int, ...]
    sums: np.ndarray
    counts: np.ndarray
    shift: np.ndarray
    precision: np.ndarray

    @classmethod
    def fit(cls, target: np.ndarray, models: np.ndarray, trained_on: np.ndarray, order: Optional[np.ndarray]) -> _View:
        """Returns the view with its sums and its covariance, read model by model."""
        sums: np.ndarray = np.zeros((2, *target.shape))
        for values, inside in zip(models, trained_on):
            ordered = _sorted_by(values, order)
            sums[0] += ordered * inside[:, None]
            sums[1] += ordered * ~inside[:, None]
        inside_count = trained_on.sum(0)[:, None].astype(np.float64)
        counts = np.stack([inside_count, len(models) - inside_count])
        means = sums / np.maximum(counts, 1)
        both = (counts > 0).all(0)[:, 0]
        shift = (means[0] - means[1])[both].mean(0) if both.any() else np.zeros(target.shape[1])
        covariance: np.ndarray = np.zeros((target.shape[1],) * 2)
        rows = 0
        for values, inside in zip(models, trained_on):
            side = np.where(inside, 0, 1)
            number = np.take_along_axis(counts[..., 0], side[None], 0)[0]
            known = number > 1
            mean = np.where(inside[:, None], means[0], means[1])
            # The mean holds the model itself, which makes the difference smaller than that to a model apart.
            residuals = (_sorted_by(values, order) - mean)[known] * np.sqrt(number / np.maximum(number - 1, 1))[
                known, None
            ]
            covariance += residuals.T @ residuals
            rows += int(known.sum())
        covariance /= max(rows, 1)
        ridge = _RIDGE * np.trace(covariance) / len(covariance) + 1e-9
        precision = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
        return cls(target, models, trained_on, order, _partners(trained_on), sums, counts, shift, precision)

    def columns(self, model: Optional[int], rows: Any) -> np.ndarray:
        """Returns a model's columns on some records, against the other models; the target's for None."""
        order = None if self.order is None else self.order[rows]
        values = _sorted_by(self.target[rows] if model is None else self.models[model][rows], order)
        sums, counts = self.sums[:, rows].copy(), self.counts[:, rows].copy()
        if model is not None:
            for left_out in {model, self.partners[model]}:
                inside = self.trained_on[left_out][rows][:, None]
                own = _sorted_by(self.models[left_out][rows], order)
                for side, mask in enumerate((inside, ~inside)):
                    sums[side] -= own * mask
                    counts[side] -= mask
        means = sums / np.maximum(counts, 1)
        inside_mean = np.where(counts[0] > 0, means[0], means[1] + self.shift)
        outside_mean = np.where(counts[1] > 0, means[1], means[0] - self.shift)
        # A difference of means is as sure as the smaller of both numbers of models.
        sure = counts[0] * counts[1] / np.maximum(counts.sum(0), 1)
        weight = sure / (sure + _PRIOR_MODELS)
        difference = weight * (inside_mean - outside_mean) + (1 - weight) * self.shift
        away = values - (inside_mean + outside_mean) / 2
        direction = difference @ self.precision
        fisher = (away * direction).sum(1)
        spread = np.sqrt(np.maximum((difference * direction).sum(1), 1e-12))
        of_all = away @ (self.precision @ self.shift)
        return np.column_stack([fisher, fisher / spread, of_all, spread, away[:, :_TOP]])


def _sorted_by(values: np.ndarray, order: Optional[np.ndarray]) -> np.ndarray:
    values = values.astype(np.float64)
    return values if order is None else np.take_along_axis(values, order, axis=1)


def _partners(trained_on: np.ndarray) -> tuple[int, ...]:
    """Returns for each model the first one that trained on just the records that it did not, or itself.

    With that one among its references, a pseudo-target's members would have fewer models that trained on them than its
    non-members have, and be known by it.
    """
    found = []
    for index, inside in enumerate(trained_on):
        others = np.flatnonzero((trained_on == ~inside).all(1))
        found.append(int(others[0]) if len(others) else index)
    return tuple(found)


WHOLE_OUTPUT = (
    WholeOutput("whole output", augmented=False),
    WholeOutput("whole output on augmented queries", augmented=True),
)

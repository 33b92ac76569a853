"""RMIA, LiRA and BaVarIA by their published formulas, written out for one record after the other in plain Python."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from tfmiaq import signals
from tfmiaq.attacks import ATTACKS, Evidence, bavaria
from tfmiaq.attacks.rmia import Rmia


@pytest.fixture(scope="module")
def evidence():
    """60 records, 8 reference models; three more classes than one, so that a probability is not its rest's."""
    generator = np.random.default_rng(4)
    trained_on = signals.half_splits(60, 8, 1)
    labels = generator.integers(0, 4, 60)

    def of_model(inside):
        logits = generator.normal(size=(60, 4))
        logits[np.arange(60), labels] += 1 + 2 * inside
        return signals.from_scores(logits, labels, False)

    is_member = np.arange(60) < 30
    found = [of_model(inside) for inside in trained_on]
    references = signals.ReferenceSignals(np.stack([one.features for one in found]), trained_on)
    return Evidence(of_model(is_member), is_member, reference_signals=references)


def _confidences(evidence, record):
    """The target's, those of models that trained on the record, and those of the others."""
    references = evidence.reference_signals
    values = [float(value) for value in references.confidences[:, record]]
    inside = [value for value, was in zip(values, references.trained_on[:, record]) if was]
    outside = [value for value, was in zip(values, references.trained_on[:, record]) if not was]
    return float(evidence.target.confidences[record]), inside, outside


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_rmia(evidence, gamma, temperature):
    """Zarifzadeh et al. 2024, algorithm 1, online: p(x) is the mean of the two means."""

    def ratio(record):
        target, inside, outside = _confidences(evidence, record)
        p, *of_models = (
            [1 / (1 + math.exp(-value / temperature)) for value in values] for values in ([target], inside, outside)
        )
        return p[0] / statistics.mean(map(statistics.mean, of_models))

    population = [ratio(record) for record in range(60) if not evidence.is_member[record]]
    expected = [statistics.mean(ratio(x) / z >= gamma for z in population) for x in range(60)]
    found = Rmia(gamma, temperature=temperature).scores(evidence)
    np.testing.assert_allclose(found, expected, atol=1 / 30 + 1e-9)
    assert (abs(found - expected) < 1e-9).mean() > 0.9


def _normal(x, mean, deviation):
    return -math.log(deviation) - 0.5 * math.log(2 * math.pi) - 0.5 * ((x - mean) / deviation) ** 2


def test_lira_with_variance_by_record(evidence):
    """Carlini et al. 2022, algorithm 1, with medians for means as tensorflow-privacy has them."""
    expected = []
    for record in range(60):
        target, inside, outside = _confidences(evidence, record)
        densities = [_normal(target, statistics.median(v), statistics.pstdev(v)) for v in (inside, outside)]
        expected.append(densities[0] - densities[1])
    found = ATTACKS["LiRA with variance by record"].scores(evidence)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def _student(x, degrees, center, scale):
    z = (x - center) / scale
    constant = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
    return constant - math.log(scale) - (degrees + 1) / 2 * math.log1p(z * z / degrees)


def test_bavaria(evidence):
    """Brännvall 2026: the predictive density under a normal-inverse-gamma prior, updated by one value after another.

    The update is that of a single value (Murphy 2007, section 3), once for each model, in the place of the sums that
    the attack takes. The prior's parameters are the attack's own.
    """
    references = evidence.reference_signals
    expected = np.zeros(60)
    for sign, mask in ((1, references.trained_on), (-1, ~references.trained_on)):
        confidences = references.confidences
        counts = mask.sum(0).astype(float)
        mean = (confidences * mask).sum(0) / counts
        degrees, spread = bavaria._prior((np.square(confidences - mean) * mask).sum(0), counts)
        for record in range(60):
            target, inside, outside = _confidences(evidence, record)
            center, weight = float(confidences[mask].mean()), 0.1
            alpha, beta = degrees / 2, degrees * spread / 2
            for value in inside if sign == 1 else outside:
                beta += weight / (weight + 1) * (value - center) ** 2 / 2
                center = (weight * center + value) / (weight + 1)
                weight, alpha = weight + 1, alpha + 0.5
            scale = math.sqrt(beta * (weight + 1) / (alpha * weight))
            expected[record] += sign * _student(target, 2 * alpha, center, scale)
    np.testing.assert_allclose(ATTACKS["BaVarIA"].scores(evidence), expected, rtol=1e-4, atol=1e-6)

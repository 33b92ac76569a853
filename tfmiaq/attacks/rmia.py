"""The robust membership inference attack."""

from __future__ import annotations

import numpy as np
from scipy import special

from tfmiaq.attacks.base import OUTPUTS, Attack, Evidence, mean_where, needs_of


class Rmia(Attack):
    """RMIA (Zarifzadeh et al. 2024): how often a record's likelihood ratio beats that of a record of the population.

    The score of x is the part of population records z with (p(x|t) / p(x)) / (p(z|t) / p(z)) >= gamma (equations 2
    and 3), where p(x|t) is the target's probability of the true class and p(x) its mean over reference models. Where
    every model left x out, p(x) is ((1 + a) mean + 1 - a) / 2 (section 3.2). The population is the non-members.

    Probabilities are those of the true class against all others together, at a temperature. Of a network that is sure
    of its training records they are 1 to many digits, and their ratios tell nothing: on float Location-30 models with
    16 reference models the AUC is 0.917 at temperature 1, 0.965 at 2 and 0.984 at 4 (benchmarks/published_code.py;
    LeakPro takes a softmax of temperature 2).

    Args:
        gamma: The ratio to be beaten, at least 1.
        offline_a: a, between 0 and 1.
        temperature: What logit-scaled confidences are divided by, above 0; 1 for the probabilities themselves.
        name: Name in the report.
        of: What is compared: OUTPUTS; AUGMENTED_OUTPUTS, the probability of the mean confidence over augmented queries;
            or LABEL_AGREEMENT, of labels alone.
    """

    learns = False

    def __init__(
        self,
        gamma: float = 1.0,
        offline_a: float = 0.3,
        name: str = "RMIA",
        of: str = OUTPUTS,
        temperature: float = 4.0,
    ) -> None:
        self.gamma = gamma
        self.temperature = temperature
        self.offline_a = offline_a
        self.name = name
        self.of = of
        self.needs = needs_of(of)
        queries = "" if of == OUTPUTS else ", augmented queries"
        self.note = f"few reference models through the same pipeline{queries}, and records of the population"

    def ratios(self, evidence: Evidence) -> np.ndarray:
        """Returns p(x|t) / p(x) of all records, shape (n,)."""
        references = evidence.reference_signals
        assert references is not None
        of_target, of_references = (special.expit(c / self.temperature) for c in evidence.confidences(self.of))
        inside = mean_where(of_references, references.trained_on)
        outside = mean_where(of_references, ~references.trained_on)
        offline = ((1 + self.offline_a) * outside + 1 - self.offline_a) / 2
        prior = np.where(np.isnan(inside), offline, np.where(np.isnan(outside), inside, (inside + outside) / 2))
        prior = np.maximum(prior, 1e-12)
        return of_target / prior

    def scores(self, evidence: Evidence) -> np.ndarray:
        ratios = self.ratios(evidence)
        population = np.sort(ratios[~evidence.is_member] * self.gamma)
        beaten: np.ndarray = np.searchsorted(population, ratios, side="right")  # type: ignore[assignment]
        return beaten / len(population)

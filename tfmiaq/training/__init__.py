"""How models are trained: a recipe, and distillation."""

from tfmiaq.training.changed import FeaturesDropped, FeaturesExchanged, ImagesShifted
from tfmiaq.training.distillation import CrossDistillation, cross_distill, distill
from tfmiaq.training.dp_sgd import DPSGD, Guarantee, without_batch_normalization
from tfmiaq.training.out_of_fold import out_of_fold_predictions
from tfmiaq.training.recipe import (
    CLIPPED,
    FINE_TUNING,
    FROM_SCRATCH,
    TrainingRecipe,
    cosine_sgd,
    default_recipe,
    flips_and_shifts,
)
from tfmiaq.training.stages import CrossDistilledTraining, FloatTraining, QuantizedTraining

__all__ = [
    "CLIPPED",
    "DPSGD",
    "FINE_TUNING",
    "FROM_SCRATCH",
    "CrossDistillation",
    "CrossDistilledTraining",
    "FeaturesDropped",
    "FeaturesExchanged",
    "FloatTraining",
    "Guarantee",
    "ImagesShifted",
    "QuantizedTraining",
    "TrainingRecipe",
    "cosine_sgd",
    "cross_distill",
    "default_recipe",
    "distill",
    "flips_and_shifts",
    "out_of_fold_predictions",
    "without_batch_normalization",
]

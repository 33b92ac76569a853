"""How models are trained: a recipe, and distillation."""

from tfmiaq.training.distillation import cross_distill, distill, out_of_fold_predictions
from tfmiaq.training.recipe import FROM_SCRATCH, TrainingRecipe, cosine_sgd, flips_and_shifts

__all__ = [
    "FROM_SCRATCH",
    "TrainingRecipe",
    "cosine_sgd",
    "cross_distill",
    "distill",
    "flips_and_shifts",
    "out_of_fold_predictions",
]

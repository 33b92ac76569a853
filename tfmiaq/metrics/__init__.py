"""Attack figures from membership scores, and how sure they are. Needs no TensorFlow."""

from tfmiaq.metrics.curves import (
    auc_estimate,
    best_threshold,
    confusion,
    roc,
    tpr_at_fpr,
    tpr_estimate,
)
from tfmiaq.metrics.epsilon import epsilon_lower_bound, one_run_epsilon
from tfmiaq.metrics.estimates import (
    RATES,
    Confusion,
    Estimate,
    clopper_pearson,
    format_figure,
    independent_records,
)
from tfmiaq.metrics.significance import (
    auc_p_value,
    auc_p_value_of,
    holm,
    smallest_auc,
    smallest_tpr,
    tpr_p_value,
    tpr_p_value_of,
)

__all__ = [
    "RATES",
    "Confusion",
    "Estimate",
    "auc_estimate",
    "auc_p_value",
    "auc_p_value_of",
    "best_threshold",
    "clopper_pearson",
    "confusion",
    "epsilon_lower_bound",
    "format_figure",
    "holm",
    "independent_records",
    "one_run_epsilon",
    "roc",
    "smallest_auc",
    "smallest_tpr",
    "tpr_at_fpr",
    "tpr_estimate",
    "tpr_p_value",
    "tpr_p_value_of",
]

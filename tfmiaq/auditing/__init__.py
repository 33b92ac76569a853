"""How much the outputs of a model say about who was in its training set."""

from tfmiaq.auditing.audit import audit
from tfmiaq.auditing.evaluation import score
from tfmiaq.auditing.reporting import AttackResult, AuditReport, Comparison, Slice, compare

__all__ = ["AttackResult", "AuditReport", "Comparison", "Slice", "audit", "compare", "score"]

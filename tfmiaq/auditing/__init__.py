"""How much a model tells about who was in its training set."""

from tfmiaq.auditing.audit import audit
from tfmiaq.auditing.evaluation import score
from tfmiaq.auditing.reporting.comparison import Comparison, compare
from tfmiaq.auditing.reporting.report import AttackResult, AuditReport, Slice

__all__ = ["AttackResult", "AuditReport", "Comparison", "Slice", "audit", "compare", "score"]

"""How much the outputs of a model say about who was in its training set."""

from tfmiaq.auditing.audit import audit
from tfmiaq.auditing.canaries import Canaries, audit_canaries
from tfmiaq.auditing.evaluation import score
from tfmiaq.auditing.reporting import AttackResult, AuditReport, CanaryReport, Comparison, Slice, compare

__all__ = [
    "AttackResult",
    "AuditReport",
    "Canaries",
    "CanaryReport",
    "Comparison",
    "Slice",
    "audit",
    "audit_canaries",
    "compare",
    "score",
]

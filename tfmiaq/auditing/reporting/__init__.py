"""Reports of audits: their data, and how they are shown."""

from tfmiaq.auditing.reporting.canary_report import CanaryReport
from tfmiaq.auditing.reporting.comparison import Comparison, compare
from tfmiaq.auditing.reporting.report import AuditReport
from tfmiaq.auditing.reporting.results import AttackResult, Slice

__all__ = ["AttackResult", "AuditReport", "CanaryReport", "Comparison", "Slice", "compare"]

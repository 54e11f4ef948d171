"""An audit: what one client's update gives away, by the attacks of the suite, cheapest first, with a verdict."""

from privbench.auditing.evidence import FOUND, PARTLY, Evidence, evidence_of
from privbench.auditing.findings import AttackFinding, Verdict, WhatIf
from privbench.auditing.plan import PlannedAttack, attacks_of, planned
from privbench.auditing.report import AuditReport
from privbench.auditing.work import Auditor

__all__ = [
    "FOUND",
    "PARTLY",
    "AttackFinding",
    "AuditReport",
    "Auditor",
    "Evidence",
    "PlannedAttack",
    "Verdict",
    "WhatIf",
    "attacks_of",
    "evidence_of",
    "planned",
]

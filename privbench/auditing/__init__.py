"""An audit: what one client's update gives away, by the attacks of the suite, cheapest first, with a verdict."""

from privbench.auditing.evidence import EXPLAINED, PARTLY, labels_and_share
from privbench.auditing.plan import PlannedAttack, planned
from privbench.auditing.report import AttackFinding, AuditReport, Verdict, WhatIf
from privbench.auditing.work import Auditor

__all__ = [
    "EXPLAINED",
    "PARTLY",
    "AttackFinding",
    "AuditReport",
    "Auditor",
    "PlannedAttack",
    "Verdict",
    "WhatIf",
    "labels_and_share",
    "planned",
]

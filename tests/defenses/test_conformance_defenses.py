"""What every defense keeps to. The registry is walked, so a new defense is tested as soon as it is registered.

The rules are those of `privbench check`; here each meets every defense, several settings of some, and compositions.
"""

import pytest

from privbench.conformance import DEFENSE_RULES
from privbench.conformance.rules import NotApplicableError, Rule
from privbench.core import DEFENSES
from tests.conformance import small_clients

__all__ = ["small_clients"]

pytestmark = pytest.mark.usefixtures("small_clients")

SPECS = [
    *DEFENSES.names(),
    "mjp:mask_ratio=0.5",
    "mjp:mask_ratio=0.5,positions=own",
    "mjp:mask_ratio=0.5,positions=indexed",
    "stochastic-layers:form=full,mean=zero",
    "naive-shuffle:ratio=0.4",
    "dpsgd:noise_multiplier=0",
    "pruning:scope=global",
    "quantization:rounding=stochastic",
    "sign:magnitude=one",
]
"""At its default ratio MJP covers few of the 64 patches; half of them make every property visible."""
COMPOSED = ["mjp:mask_ratio=0.5+dpsgd", "clipping+gradient-noise:std=0.001+pruning:p=0.5", "dpsgd+quantization+sign"]
OF_COMPOSITIONS = [rule for rule in DEFENSE_RULES if "sends the same" in rule.text or "in one pass" in rule.text]


def checked(rule: Rule, spec: str) -> None:
    try:
        rule.check(spec)
    except NotApplicableError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("rule", DEFENSE_RULES, ids=lambda rule: rule.text.partition(",")[0].replace(" ", "-"))
@pytest.mark.parametrize("spec", SPECS)
def test_every_defense_keeps_every_rule(spec: str, rule: Rule) -> None:
    checked(rule, spec)


@pytest.mark.parametrize("rule", OF_COMPOSITIONS, ids=lambda rule: rule.text.partition(",")[0].replace(" ", "-"))
@pytest.mark.parametrize("spec", COMPOSED)
def test_compositions_keep_the_rules_that_order_could_break(spec: str, rule: Rule) -> None:
    checked(rule, spec)

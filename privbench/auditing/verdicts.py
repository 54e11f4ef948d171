"""The verdict on an update, in one word and one sentence, from the evidence of every attack and its self-test."""

from collections.abc import Sequence

from privbench.auditing.findings import AttackFinding, Verdict

__all__ = ["best_of", "judged"]

_NOTHING: Verdict = "nothing found by these attacks"
_RANK = {"found": 2, "partly": 1, "nothing": 0}


def best_of(findings: Sequence[AttackFinding]) -> AttackFinding | None:
    """The attack whose images have the most to say for them; None where none ran."""
    ran = [finding for finding in findings if finding.explained is not None]
    return max(ran, key=lambda one: (not one.misled, _rank(one), not one.unproven, one.explained or 0.0), default=None)


def _rank(finding: AttackFinding) -> int:
    return max(_RANK[finding.grade] - finding.unproven, 0)


def judged(findings: Sequence[AttackFinding], update: str) -> tuple[Verdict, str]:
    """The verdict and its grounds.

    An attack whose self-test accounts for the update of a known photo without showing that photo is no evidence.

    Args:
        findings: One for each attack.
        update: How much of the model it is of, in words.
    """
    best, late = best_of(findings), ", ".join(one.name for one in findings if one.outcome == "left out")
    if best is None and late:
        verdict, said = _NOTHING, "No attack came to its end in the time given."
    else:
        verdict, said = _judged(best, findings, update)
    return verdict, f"{said} Left out for time: {late}." if late and verdict != "found" else said


def _judged(best: AttackFinding | None, findings: Sequence[AttackFinding], update: str) -> tuple[Verdict, str]:
    if best is None:
        return "no attack applies", f"No attack of this suite applies to this update ({update}); the plan says what each needs."
    if best.misled or best.grade == "nothing":
        return _NOTHING, f"{_nothing(best)} {_grounds(findings)}".rstrip()
    said = (
        f"{best.name} found images that explain {100 * (best.explained or 0.0):.1f} % of this update (other photos "
        f"{100 * best.others_explained:.1f} %), with a cosine similarity of {best.cosine:.2f} ({best.others_cosine:.2f})."
    )
    if best.unproven:
        test = (
            "run the self-test"
            if best.self_test is None
            else f"the known photo of the self-test did not come back ({best.self_test:.1f} dB)"
        )
        return "partly" if best.grade == "found" else _NOTHING, (
            f"{said} They were fitted to it, which also succeeds with images that are not the client's: look at them; {test}."
        )
    if best.grade == "partly":
        said = f"{said} That is something of the photos, not all of it."
    if best.self_test is not None:
        said = f"{said} On an update of the same kind, made of a known photo, it reaches {best.self_test:.1f} dB."
    return best.grade, said


def _nothing(best: AttackFinding) -> str:
    if best.misled:
        return (
            f"{best.name} made images that account for the update, but those of the self-test, which do too, do not show the "
            f"known photo ({best.self_test:.1f} dB): they say nothing of the private ones."
        )
    return f"No images explain more than {100 * max(best.explained or 0.0, 0.0):.1f} % of this update."


def _grounds(findings: Sequence[AttackFinding]) -> str:
    tested = [finding for finding in findings if finding.self_test is not None and not finding.misled]
    if not tested:
        return ""
    if any(finding.finds_known for finding in tested):
        return (
            "The same attacks find a known photo in an update of this kind: check that batch size, normalisation, weights and "
            "round are the client's; or the client does something that it does not declare."
        )
    return "They do not find a known photo in such an update either, so that nothing follows of what it holds."

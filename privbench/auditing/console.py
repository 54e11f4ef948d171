"""The report of an audit as lines of text."""

from collections.abc import Iterator

from privbench.auditing.report import AuditReport

__all__ = ["shown"]


def shown(report: AuditReport) -> Iterator[str]:
    """Lines for a terminal, the verdict last.

    Args:
        report: What the audit found.
    """
    for one in report.findings:
        said = f"{one.name}: {one.outcome}" + (f", {one.reason}" if one.reason else "")
        if one.explained is not None:
            said += f", explains {100 * one.explained:.1f} % of the update, {one.seconds:.1f} s"
        if one.self_test is not None:
            said += f"; self-test {one.self_test:.1f} dB"
        yield said
    for photo, value in report.matches:
        yield f"best match among the photos: {photo}, {value:.1f} dB"
    for what in report.what_if:
        yield f"under {what.defense} a known photo: " + (what.reason if what.psnr is None else f"{what.psnr:.1f} dB")
    yield f"verdict: {report.verdict}. {report.sentence}"
    if not report.leaks:
        yield '"Not found" is never "safe": other attacks may succeed where these fail.'

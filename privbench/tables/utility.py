"""What a victim can still do, as a table."""

from rich.table import Table

from privbench.core import UtilityReport
from privbench.tables.layout import new_table

__all__ = ["utility_table"]


def utility_table(utility: UtilityReport, label: str) -> Table:
    """One row per measure: value and 95 % interval.

    Args:
        utility: What was measured.
        label: What to call the defense.
    """
    table = new_table(f"{label}, {utility.victim.model.name}, n = {utility.images} test images of {utility.dataset}")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    attack = f"{255 * utility.epsilon:.3g}/255"
    shares = {
        "accuracy": utility.accuracy,
        "accuracy under the defense": utility.defended_accuracy,
        f"accuracy, {utility.jigsaw}": utility.jigsaw_accuracy,
        "consistency, same": utility.consistency,
        f"accuracy, FGSM {attack}": utility.fgsm_accuracy,
        f"accuracy, PGD {attack}": utility.pgd_accuracy,
    }
    for name, interval in shares.items():
        if interval is not None:
            table.add_row(name, f"{interval.mean:.1%}", f"[{interval.low:.1%}, {interval.high:.1%}]")
    if utility.mean_corrupted_accuracy is not None:
        table.add_row("accuracy, corrupted", f"{utility.mean_corrupted_accuracy:.1%}", "")
    if utility.difference_norm is not None:
        norm = utility.difference_norm
        table.add_row("difference of features", f"{norm.mean:.3f}", f"[{norm.low:.3f}, {norm.high:.3f}]")
    interval = utility.calibration_interval
    bounds = "" if interval is None else f"[{interval.low:.3f}, {interval.high:.3f}] over {utility.draws} draws"
    table.add_row("calibration error", f"{utility.calibration_error:.3f}", bounds)
    numbers = {
        "RMS calibration error": utility.rms_calibration_error,
        "AURRA": utility.aurra,
        f"AUPR, {utility.unknown} as unknown": utility.aupr,
        "position error, patches": utility.position_error,
        "position error, in the sequence": utility.sequence_position_error,
        "position error, pairs": utility.pairwise_position_error,
        "position error, pairs in the sequence": utility.pairwise_sequence_error,
    }
    for name, value in numbers.items():
        if value is not None:
            table.add_row(name, f"{value:.3f}", "")
    return table

"""What utility reports add to the leaderboard: what a victim can still do, and what training under a defense costs."""

from collections.abc import Callable, Mapping, Sequence

from privbench.core import (
    Case,
    Interval,
    Training,
    UtilityReport,
)

__all__ = ["Retrained", "best_reports", "utility_columns"]

UtilityKey = tuple[str, str | None, str]


def best_reports(files: Sequence[UtilityReport]) -> dict[UtilityKey, UtilityReport]:
    """The report of each victim under each defense; of several, the one with most images, and of those the last by name."""
    found: dict[UtilityKey, UtilityReport] = {}
    for utility in files:
        key = (utility.victim.model.name, utility.victim.weights_sha256, "+".join(map(str, utility.defense)))
        if key not in found or utility.images >= found[key].images:
            found[key] = utility
    return found


def _mean(interval: Interval | None) -> float | None:
    return None if interval is None else interval.mean


_UTILITY: Mapping[str, Callable[[UtilityReport], float | None]] = {
    "utility_images": lambda utility: utility.images,
    "utility_accuracy": lambda utility: utility.accuracy.mean,
    "utility_accuracy_low": lambda utility: utility.accuracy.low,
    "utility_accuracy_high": lambda utility: utility.accuracy.high,
    "utility_defended_accuracy": lambda utility: utility.defended_accuracy.mean,
    "utility_jigsaw_accuracy": lambda utility: _mean(utility.jigsaw_accuracy),
    "utility_consistency": lambda utility: _mean(utility.consistency),
    "utility_calibration_error": lambda utility: utility.calibration_error,
    "utility_fgsm_accuracy": lambda utility: _mean(utility.fgsm_accuracy),
    "utility_pgd_accuracy": lambda utility: _mean(utility.pgd_accuracy),
    "utility_corrupted_accuracy": lambda utility: utility.mean_corrupted_accuracy,
}
"""Column to what it takes from a utility report."""


def utility_columns(case: Case, reports: Mapping[UtilityKey, UtilityReport]) -> dict[str, float | None]:
    """The columns of the utility report; empty where nobody evaluated this victim under this defense."""
    if not reports:
        return dict.fromkeys(_UTILITY)
    utility = reports.get((case.victim.model.name, case.victim.weights_sha256, case.defense_text))
    return dict.fromkeys(_UTILITY) if utility is None else {name: read(utility) for name, read in _UTILITY.items()}


class Retrained:
    """What training under a defense costs: victims by one recipe, with a defense and without, from their utility reports.

    It answers for defenses whose leakage is measured on a victim that was trained without them.
    """

    def __init__(self, reports: Sequence[UtilityReport]) -> None:
        self._undefended: dict[tuple[object, ...], UtilityReport] = {}
        self._under: dict[tuple[str, str], list[tuple[UtilityReport, Training]]] = {}
        for utility in reports:
            defense = "+".join(map(str, utility.defense))
            if utility.training is None or utility.training.defense != defense:
                continue
            self._under.setdefault((utility.victim.model.name, defense), []).append((utility, utility.training))
            if defense == "none":
                self._undefended[self._recipe(utility, utility.training)] = utility

    @staticmethod
    def _recipe(utility: UtilityReport, training: Training) -> tuple[object, ...]:
        return utility.victim.model.name, utility.images, *training.alike

    def columns(self, case: Case) -> dict[str, float | None]:
        """The recipe of the attacked victim where it was itself trained under the defense and has a utility report.

        Else, of several recipes that have an undefended victim, the longest, and of those the one with most test images;
        empty where nobody trained this model so.
        """
        if not self._under:
            return dict.fromkeys(_RETRAINED)
        under = self._under.get((case.victim.model.name, case.defense_text), [])
        own = [pair for pair in under if pair[0].victim.weights_sha256 == case.victim.weights_sha256]
        beside = [
            (training.epochs, utility, utility if case.defense_text == "none" else self._undefended[recipe])
            for utility, training in own or under
            if (recipe := self._recipe(utility, training)) in self._undefended
        ]
        if not beside:
            return dict.fromkeys(_RETRAINED)
        epochs, utility, undefended = max(beside, key=lambda one: (one[0], one[1].images))
        values = (*_bounded(utility.accuracy), undefended.accuracy.mean, epochs, utility.images)
        return dict(zip(_RETRAINED, values, strict=True))


_RETRAINED = (
    "retrained_accuracy",
    "retrained_ci_low",
    "retrained_ci_high",
    "retrained_undefended",
    "retrained_epochs",
    "retrained_images",
)


def _bounded(interval: Interval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high

"""What utility reports add to the leaderboard: what a victim can still do, and what training under a defense costs."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from privbench.core import (
    Case,
    Interval,
    UtilityReport,
)
from privbench.scoring import student_interval

__all__ = ["Retrained", "best_reports", "utility_columns"]

UtilityKey = tuple[str, str | None, str]
_Recipe = tuple[int, str, int, str]
"""Test images, then `Training.alike`: data set, epochs, hyper-parameters without the seed."""


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

    It answers for defenses whose leakage is measured on a victim that was trained without them. Victims of one recipe that
    differ in their seed count together, by their mean, beside undefended ones of the same seeds where there are any, because
    some of a seed's luck is the same with a defense as without (results/README.md has three seeds of four victims).
    """

    def __init__(self, reports: Sequence[UtilityReport]) -> None:
        self._under: dict[tuple[str, str], dict[_Recipe, list[UtilityReport]]] = {}
        for utility in reports:
            defense = "+".join(map(str, utility.defense))
            if utility.training is None or utility.training.defense != defense:
                continue
            recipes = self._under.setdefault((utility.victim.model.name, defense), {})
            recipes.setdefault((utility.images, *utility.training.alike), []).append(utility)

    def columns(self, case: Case) -> dict[str, float | None]:
        """The recipe of the attacked victim where it was itself trained under the defense and has a utility report.

        Else, of several recipes that have an undefended victim, the longest, and of those the one with most test images;
        empty where nobody trained this model so.
        """
        undefended = self._under.get((case.victim.model.name, "none"), {})
        under = self._under.get((case.victim.model.name, case.defense_text), {})
        own = {
            recipe: found
            for recipe, reports in under.items()
            if (found := [one for one in reports if one.victim.weights_sha256 == case.victim.weights_sha256])
        }
        known = [recipe for recipe in own or under if recipe in undefended]
        if not known:
            return dict.fromkeys(_RETRAINED)
        recipe = max(known, key=lambda one: (one[2], one[0]))
        images, _, epochs, _ = recipe
        found = (own or under)[recipe]
        without = found if case.defense_text == "none" else _of_the_same_seeds(undefended[recipe], found)
        seeds = student_interval([one.accuracy.mean for one in found]) if len(found) > 1 else None
        shares = _shares_by_seed(found, without)
        share = student_interval(shares) if len(shares) > 1 and found is not without else None
        values = (
            fmean(one.accuracy.mean for one in found),
            fmean(one.accuracy.low for one in found),
            fmean(one.accuracy.high for one in found),
            fmean(one.accuracy.mean for one in without),
            epochs,
            images,
            len(found),
            None if seeds is None else seeds.low,
            None if seeds is None else seeds.high,
            None if share is None else share.low,
            None if share is None else share.high,
        )
        return dict(zip(_RETRAINED, values, strict=True))


def _seed(utility: UtilityReport) -> object:
    return None if utility.training is None else utility.training.recipe.get("seed")


def _of_the_same_seeds(undefended: Sequence[UtilityReport], under: Sequence[UtilityReport]) -> Sequence[UtilityReport]:
    """The undefended victims whose seeds victims under a defense have too; all where none has."""
    seeds = set(map(_seed, under))
    return [one for one in undefended if _seed(one) in seeds] or undefended


def _shares_by_seed(under: Sequence[UtilityReport], without: Sequence[UtilityReport]) -> list[float]:
    """Accuracies under a defense as shares of those without, pairs of one seed, which begin with the same weights."""
    undefended = {_seed(one): one.accuracy.mean for one in without}
    pairs = ((one.accuracy.mean, undefended.get(_seed(one))) for one in under)
    return [accuracy / reference for accuracy, reference in pairs if reference]


_RETRAINED = (
    "retrained_accuracy",
    "retrained_ci_low",
    "retrained_ci_high",
    "retrained_undefended",
    "retrained_epochs",
    "retrained_images",
    "retrained_seeds",
    "retrained_seed_low",
    "retrained_seed_high",
    "retrained_share_seed_low",
    "retrained_share_seed_high",
)
"""Means over seeds; `ci` bounds vary over test images, `seed` bounds over seeds where there are several. `share` is that of the
undefended victim's accuracy, paired by seed."""

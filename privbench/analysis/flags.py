"""What the flags of records mean, for whoever reads a row without having run it."""

from collections.abc import Iterable, Mapping

from privbench.core.flags import EMPTY_MASK, ENSEMBLE_FLAGS, LOWER_BOUND, NOT_EXPLAINED

__all__ = ["AT_LEAST", "FLAG_MEANINGS", "is_lower_bound", "marked"]

AT_LEAST = "≥ "
"""Before a score that is a lower bound."""

FLAG_MEANINGS: Mapping[str, str] = {
    **ENSEMBLE_FLAGS,
    "failed-images": "the attack failed on some image, which gets the worst scores",
    "random-weights": "the victim is untrained: a baseline, and no deployed model",
    "defense-added-after-training": "the victim's weights were trained without the defense, which changed the model afterwards",
    "classifier-drawn": "the victim's trained weights have no classifier, and this one was drawn at random",
    "labels-recovered": "the attack was not told the labels and read them off the update",
    "solver-diverged": "the optimiser did not converge on some image",
    EMPTY_MASK: "some client's mask covered no patch, and its score says nothing of masking; raise mask_ratio or shrink blocks",
    "mask-inferred": "the client did not tell which patches it masked; the attack inferred them",
    "order-inferred": "the client did not tell the order of patches; the attack inferred it",
    "order-not-inferred": "patches stand in the client's order, which was not inferred; PSNR-patch does not depend on it",
    "masked-order-inferred": "the order of the masked patches was inferred from their borders",
    "masked-order-not-inferred": "masked patches stand in arbitrary order; PSNR-patch does not depend on it",
    "masked-patches-filled-in": "masked patches were not recovered; what surrounds them fills their places",
    "masked-shares-removed": "what the masked patches add to the others was found by the features of the first MLP",
    "masked-patches-partly-separated": "some masked patches are known only as their common mean",
    "masked-patches-not-separated": "all masked patches are known only as their common mean",
    "patches-not-all-found": "some patches are missing and filled with the mean patch, or occur as often as was guessed",
    "more-patches-than-width": "more tokens than the model is wide: the closed form does not determine all patches",
    "few-combinations": "adapters of a rank below the number of tokens: an image prior fills in what they leave open",
    "free-adjoint-does-not-apply": "several small images, or no position rows: the whole network was simulated instead",
    "size-not-tuned": "the attack's settings were chosen at 32 and 224 pixels, and this input has another size",
    "started-from-closed-form": "the optimisation started from what closed-form finds",
    "relocation-does-not-apply": "the attack's search for the right place of patches does not apply here and was left out",
    "prior-off-above-its-size": "the image prior describes smaller images and was left out; attack.prior names another",
    "pixels-inferred": "the client did not tell the order of pixels inside patches; the attack inferred it from their likeness",
    "pixels-not-inferred": "the order of pixels was not inferred",
    NOT_EXPLAINED: "does not explain the update: check batch size, normalisation, round; or the attack failed, or it does "
    "not know what the client drew",
    LOWER_BOUND: "a lower bound: the client changed its images, and this attacker could not undo it; on no front",
    "mixing-not-inferred": "the attack did not infer which images were mixed with which weights",
    "signs-not-inferred": "the attack did not infer which signs were flipped",
    "draw-inferred": "the client's random draw was inferred together with the image",
    "draw-not-inferred": "the client's random draw was not inferred",
    "singular-values-expected": "sent without singular values; attacks that need them took those expected by other images",
    "per-sample-clipping-not-simulated": "the attack did not simulate the clipping of single samples",
}
"""Flag to its meaning; a component from elsewhere may set others."""


def is_lower_bound(flags: Iterable[str]) -> bool:
    """Whether a row's scores say no more than what its attacker found at least."""
    return LOWER_BOUND in set(flags)


def marked(label: str, flags: Iterable[str]) -> str:
    """What a table calls a row: its label, and that it is a lower bound where it is."""
    return f"{label} (lower bound)" if is_lower_bound(flags) else label

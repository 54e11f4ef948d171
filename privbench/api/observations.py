"""What a notebook has in hand: one client update to attack, or the pictures of any tool to score."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from privbench.analysis.external import Scores
    from privbench.core import FeatureObservation, Observation, Progress, Reconstruction

__all__ = ["attack", "score"]


def attack(
    observation: "Observation | FeatureObservation | Path | str",
    name: str = "adjoint-matching",
    *,
    preset: str | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: "Progress | None" = None,
    **parameters: Any,
) -> "Reconstruction":
    """Attacks one client update.

    Example:
        A loop over all attacks is three lines::

            for name in privbench.ATTACKS.names():
                found = privbench.attack(observation, name, preset="quick")
                found.save(f"found/{name}")

    Args:
        observation: What the attacker sees, or a file that `Observation.save` wrote. Features are attacked by
            `feature-matching`, or by `feature-decoder`, which takes `public`, `[n, 3, height, width]` uint8, besides.
        name: A registered attack.
        preset: A parameter set; `default`, `quick` and `standard` are known to all attacks.
        seed: Of the attack's random choices.
        device: `auto`, `cpu` or `cuda:INDEX`.
        progress: Where the attack reports to.
        **parameters: The attack's own, as `privbench list attacks` shows them.

    Returns:
        The guess, with the share of the update that it explains.

    Raises:
        UserError: There is no such attack or parameter, or the attack does not apply.
        ArithmeticError: The numbers failed: not finite, singular.
    """
    import torch

    from privbench.computing.machine import resolve_device
    from privbench.core import ATTACKS, FeatureObservation, Observation
    from privbench.runner.explained import with_explained_share

    if isinstance(observation, FeatureObservation):
        return _features_attacked(observation, name, seed, parameters)
    seen = observation if isinstance(observation, Observation) else Observation.load(Path(observation))
    built = ATTACKS.get(name).from_preset(preset, parameters)
    generator: torch.Generator = torch.Generator().manual_seed(seed)
    seen = seen.to(resolve_device(device))
    found: Reconstruction = built(seen, generator=generator, progress=progress)
    return with_explained_share(found, seen)


def _features_attacked(
    observation: "FeatureObservation", name: str, seed: int, parameters: Mapping[str, Any]
) -> "Reconstruction":
    import torch

    from privbench.core import UserError
    from privbench.features import FeatureDecoder, feature_attack

    public = parameters.get("public")
    built = feature_attack(name, {key: value for key, value in parameters.items() if key != "public"})
    generator = torch.Generator().manual_seed(seed)
    if not isinstance(built, FeatureDecoder):
        return built.run(observation, generator=generator)
    if public is None:
        raise UserError(f"attack {name} learns from public images; give them as public=, [n, 3, height, width] uint8")
    return built.run(observation, public, generator=generator)


def score(
    originals: "Path | str | torch.Tensor",
    reconstructions: "Path | str | torch.Tensor",
    *,
    batch_size: int = 1,
    patch_size: int | None = None,
    lpips_net: Literal["alex", "vgg", "squeeze"] = "alex",
    lpips_weights: Path | str | None = None,
    download: bool = False,
    seed: int = 0,
    match: Literal["name", "best"] = "name",
) -> "Scores":
    """Scores the pictures of any tool against the originals.

    Args:
        originals: A folder of images, an array file (`.npz`, `.npy`, `.pt`, `.safetensors`), or `[n, 3, height, width]` in
            [0, 1].
        reconstructions: The same; folders are matched by file name, arrays by order.
        batch_size: So many pictures came out of one gradient in unknown order: they are paired by assignment.
        patch_size: Side of the victim's patches in pixels; without it there are no patch scores.
        lpips_net: Trunk of LPIPS.
        lpips_weights: File with the trunk's weights.
        download: Whether a missing trunk may be fetched.
        seed: Of the bootstrap.
        match: `best` assigns each reconstruction to the original that it is nearest to, whatever the names and numbers are;
            what is left over is left out.

    Raises:
        UserError: Names, numbers or sizes do not match, or a file cannot be read.
    """
    from privbench.analysis.external import as_pictures, score_pictures
    from privbench.scoring import metric_suite

    truth, found = as_pictures(originals), as_pictures(reconstructions)
    suite = metric_suite(
        patch_size=patch_size,
        image_size=min(truth.images.shape[-2:]),
        lpips_net=lpips_net,
        lpips_weights=None if lpips_weights is None else Path(lpips_weights),
        download=download,
    )
    return score_pictures(truth, found, suite, batch_size=batch_size, seed=seed, match=match)

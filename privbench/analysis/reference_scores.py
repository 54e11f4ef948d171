"""Calibration and identification of finished cases: computed from records and their pictures, joined by the leaderboard."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from privbench.analysis.reference_files import calibration_name
from privbench.core import Calibration, Case, Identification, Record, UserError
from privbench.data import ImageSet, open_images
from privbench.models import Victim, load_prior
from privbench.models.prior_cnn import PriorCnn
from privbench.runner.context import load_case
from privbench.runner.pictures import read_picture
from privbench.runner.suites import Suites
from privbench.scoring import CALIBRATION_ROWS, MetricSuite, calibration_pictures, from_uint8, score_batch, summarise

__all__ = ["calibrate", "calibrations", "identifications", "identify"]

_MEAN_OF = 1000
"""So many other images at most make the mean image."""
_CANDIDATES = 100
_FEATURES = "cnn_mini_32"


def calibrations(cases: Sequence[tuple[str, Path, Record]], suites: Suites) -> Iterator[tuple[str, Calibration]]:
    """Calibrates each selection of images among some cases once.

    Args:
        cases: Name, folder and record of each.
        suites: What to measure.

    Yields:
        The name of the file that it belongs into, and the calibration.

    Raises:
        UserError: As `calibrate`, a model has no patches, or LPIPS's trunk is not that of a record.
    """
    seen = set[str]()
    for _, _, record in cases:
        suites.require_trunk(record.lpips_weights_sha256)
        name = calibration_name(record)
        if name in seen:
            continue
        seen.add(name)
        context = load_case(record.case, torch.device("cpu"))
        if context.victim.patch_size is None:
            raise UserError(f"case {record.case_id} has a model without patches; calibration shuffles patches")
        yield name, calibrate(record.case, patch_size=context.victim.patch_size, suite=suites.suite(context))


def calibrate(case: Case, *, patch_size: int, suite: MetricSuite) -> Calibration:
    """Scores the calibration pictures of a case's images.

    Args:
        case: Which images.
        patch_size: Side of the patches that are shuffled, in pixels.
        suite: What to measure.

    Raises:
        UserError: The images are not at hand, or the data set has no other image.
    """
    size, indices = case.victim.model.image_size, case.data.indices
    images = open_images(case.data.source, split=case.data.split).for_classes(case.victim.model.num_classes)
    generator = torch.Generator().manual_seed(case.seed)
    truth, _ = images.load(indices, size)
    others = [index for index in range(len(images)) if index not in set(indices)]
    if not others:
        raise UserError(f"{case.data.source} has no image besides those of the case; calibration needs others: lower --limit")
    drawn = [others[place] for place in torch.randperm(len(others), generator=generator)[:_MEAN_OF].tolist()]
    pictures = calibration_pictures(
        truth,
        mean=images.load(drawn, size)[0].mean(0),
        same_class=images.load([_same_class(images, index, others, generator) for index in indices], size)[0],
        patch_size=patch_size,
        generator=generator,
    )
    rows = {}
    for name in CALIBRATION_ROWS:
        scored = [
            score_batch(picture[None], original[None], suite)[0]
            for picture, original in zip(pictures[name], truth, strict=True)
        ]
        rows[name] = summarise([one.scores for one in scored], case.seed)
    return Calibration(
        data=case.data,
        image_size=size,
        patch_size=patch_size,
        lpips=case.lpips,
        lpips_weights_sha256=suite.lpips_weights_sha256,
        seed=case.seed,
        rows=rows,
    )


def _same_class(images: ImageSet, index: int, others: list[int], generator: torch.Generator) -> int:
    """Another image with the same label, any other image where there is none (photos have labels of their own each)."""
    same = [other for other in others if images.label(other) == images.label(index)] or others
    return same[int(torch.randint(len(same), (1,), generator=generator))]


# Identification


def identifications(
    cases: Sequence[tuple[str, Path, Record]], suites: Suites, *, candidates: int | None
) -> Iterator[tuple[str, Identification]]:
    """Identifies the images of some cases.

    Args:
        cases: Name, folder and record of each.
        suites: What to measure.
        candidates: As of `identify`.

    Yields:
        The name of each case, and how its images ranked.

    Raises:
        UserError: As `identify`, or LPIPS's trunk is not that of a record.
    """
    for name, folder, record in cases:
        suites.require_trunk(record.lpips_weights_sha256)
        suite = suites.suite(load_case(record.case, torch.device("cpu")))
        yield name, identify(record, folder, candidates=candidates, suite=suite)


def identify(record: Record, folder: Path, *, candidates: int | None, suite: MetricSuite) -> Identification:
    """Ranks each true image among candidates of the same data set, by distance to its saved reconstruction.

    The other candidates are drawn from the images that the case does not have, the same for all its images. Distances are
    the mean squared error of pixels, LPIPS where its weights are here, and one minus the cosine of the embedded CNN's last
    features. That CNN is also the prior of some attacks, and sensitive to noise: a low share there is no protection.

    Args:
        record: A finished case.
        folder: Its folder.
        candidates: How many, the true image included; None: 100, or as many as the data set has.
        suite: The case's metrics.

    Raises:
        UserError: Data or pictures of the case are gone, or the data set is too small.
    """
    case = record.case
    size = case.victim.model.image_size
    images = open_images(case.data.source, split=case.data.split)
    others = [index for index in range(len(images)) if index not in set(case.data.indices)]
    candidates = min(_CANDIDATES, len(others) + 1) if candidates is None else candidates
    if candidates < 2 or len(others) < candidates - 1:
        raise UserError(
            f"{candidates} candidates of {case.data.source}: accepted: 2 to {max(len(others) + 1, 2)}, "
            "the true image and images that the case does not have"
        )
    generator = torch.Generator().manual_seed(case.seed)
    drawn = [others[place] for place in torch.randperm(len(others), generator=generator)[: candidates - 1].tolist()]
    rivals, _ = images.load(drawn, size)
    truth, _ = images.load(case.data.indices, size)
    lpips = next((metric for metric in suite.metrics if metric.name == "lpips"), None)
    names = ["pixel", *(["lpips"] if lpips else []), "feature"]
    ranks: dict[str, list[int]] = {name: [] for name in names}
    for image, original in zip(record.images, truth, strict=True):
        if image.reconstruction is None:
            for name in names:
                ranks[name].append(candidates)
            continue
        found = from_uint8(torch.from_numpy(read_picture(folder / image.reconstruction).copy()).permute(2, 0, 1))
        against = torch.cat([original[None], rivals])
        distances = {"pixel": (against - found).square().mean((1, 2, 3)), "feature": _feature_distance(against, found)}
        if lpips is not None:
            distances["lpips"] = lpips.compute(found.expand_as(against).contiguous(), against)
        for name in names:
            ranks[name].append(_rank(distances[name]))
    return Identification(
        case_id=record.case_id,
        candidates=candidates,
        lpips_weights_sha256=suite.lpips_weights_sha256,
        seed=case.seed,
        ranks={name: tuple(values) for name, values in ranks.items()},
    )


def _rank(distances: Tensor) -> int:
    """Rank of the first entry; where others are equally near, the worst that it can have."""
    return int((distances[1:] <= distances[0]).sum()) + 1


@torch.no_grad()
def _feature_distance(images: Tensor, found: Tensor) -> Tensor:
    prior = _prior()
    size = prior.image_size
    both = torch.cat([images, found[None]])
    if both.shape[-1] != size:
        both = torch.nn.functional.interpolate(both, (size, size), mode="bilinear", antialias=True)
    network = prior.network
    if not isinstance(network, PriorCnn):
        raise TypeError(f"the embedded prior is a {type(network).__name__}")
    features = network.features((both - prior.mean) / prior.std).mean((2, 3))
    return 1 - torch.nn.functional.cosine_similarity(features[:-1], features[-1:], dim=1)


@lru_cache(maxsize=1)
def _prior() -> Victim:
    return load_prior(_FEATURES)

"""The front door: what notebooks call, and the command line too.

`run` attacks private images and scores what comes back, `attack` takes one observation, `score` judges pictures of any tool,
`load_results` reads what was computed before. All of them are imported lazily by `import privbench`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

from privbench.runner.options import OPTIONS, CaseOptions, RunOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from privbench.core import Case, FeatureObservation, Observation, Progress, Reconstruction
    from privbench.results import Results
    from privbench.runner.external import Scores
    from privbench.runner.listener import Listener
    from privbench.store.base import Store

__all__ = ["CASE_OPTIONS", "PlannedCase", "attack", "load_results", "plan", "run", "score"]

CASE_OPTIONS = tuple(OPTIONS)
"""What of a case `run` and `plan` take by keyword."""

FOLDER_OF_RUNS = Path("results") / "runs"
"""Where the cases of `run` go if nobody says otherwise."""


def run(
    *,
    model: "str | nn.Module | None" = None,
    config: "Path | str | None" = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    output: "Path | str | Store" = FOLDER_OF_RUNS,
    device: str = "auto",
    compile: Literal["auto", "on", "off"] = "auto",  # noqa: A002 (the option's name)
    group: int | None = None,
    precision: Literal["fp32", "tf32"] = "fp32",
    threads: int | None = None,
    checkpoint_interval: float = 20.0,
    lpips_weights: Path | str | None = None,
    download: bool = True,
    force: bool = False,
    isolate: bool = False,
    listener: "Listener | None" = None,
    **options: Unpack[CaseOptions],
) -> "Results":
    """Attacks private images under one or several defenses and scores what comes back.

    A finished case is not computed again, and an interrupted one continues: call it again with the same arguments.

    Example:
        >>> results = privbench.run(defense="none,mjp", attack="closed-form", limit=2)  # doctest: +SKIP

    Args:
        model: The victim: an embedded or timm model by name, or a classifier of your own, a `torch.nn.Module` that maps images
            `[batch, 3, size, size]` in [0, 1] to logits (`image_size` says the size where the module does not).
        config: A resolved case (`case.yaml`) to start from; the other arguments change it.
        settings: Any field of the case, as `{"attack.steps": 300}` or `["attack.steps=300"]`.
        output: Folder of all cases, or its URL (`s3://`, `sftp://`, ...).
        device: `auto`, `cpu`, `cuda` (all of them) or `cuda:INDEX`.
        compile: Whether the optimisation step is compiled; `auto` where that saves more time than it takes.
        group: Client batches attacked together; None: what suits attack and device.
        precision: Of matrix products in the attack on CUDA.
        threads: CPU threads; None: 1 for inputs up to 64 pixels, else torch's choice. Equal results need equal threads.
        checkpoint_interval: Seconds between checkpoints.
        lpips_weights: File with the trunk of LPIPS.
        download: Whether a missing trunk may be fetched.
        force: Compute finished cases again.
        isolate: Run each attack in a process of its own, which has the saved observation and nothing else; without progress
            and checkpoints.
        listener: Who watches.
        **options: What to run: `defense`, `attack`, `preset`, `weights`, `data`, `split`, `limit`, `indices`, `batch_size`,
            `labels`, `model_mode`, `adversary`, `local`, `training`, `lpips_net`, `seed`, ... as the options of
            `privbench run`; comma lists of defenses and attacks make one case each.

    Returns:
        The finished cases, attack after attack, each with its defenses in the order given.

    Raises:
        UserError: A name or a value is not accepted, or something does not fit.
        AttackError: An attack broke.
        Interrupted: Stopped by a signal; what is needed to continue is saved.
    """
    from privbench.core import ComputeOptions
    from privbench.plots.drawing import draw_case, draw_defenses
    from privbench.results import Results
    from privbench.runner.listener import Listener
    from privbench.runner.machine import cpu_threads, resolve_devices
    from privbench.runner.series import CaseSeries
    from privbench.runner.suites import Suites
    from privbench.store.places import store_at

    devices = tuple(resolve_devices(device))
    cases = _cases(model, config, settings, options)
    place = store_at(output)
    place.check()
    compute = ComputeOptions(
        devices=devices,
        group=group,
        compile=compile,
        precision=precision,
        threads=threads,
        checkpoint_interval=checkpoint_interval,
        isolate=isolate,
    )
    suites = Suites(None if lpips_weights is None else Path(lpips_weights), download=download)
    series = CaseSeries(cases, place, compute, suites, draw_case)
    with cpu_threads(threads, max(case.victim.model.image_size for case in cases)):
        records = series.run(force=force, listener=listener or Listener())
        results = Results(tuple(records), place, tuple(record.case.folder for record in records))
        if len(records) == 1:
            return results
        picture = draw_defenses([series.shown(record) for record in records], results.labels)
    results = replace(results, comparison=picture)
    place.write({str(results.comparison_name): picture})
    return results


@dataclass(frozen=True)
class PlannedCase:
    """A case that `run` would compute.

    Attributes:
        case: The case, with everything resolved.
        place: Its folder, or the URL of it.
        state: `finished`, `begun` or `new`.
    """

    case: "Case"
    place: str
    state: str


def plan(
    *,
    model: "str | nn.Module | None" = None,
    config: "Path | str | None" = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    output: "Path | str | Store" = FOLDER_OF_RUNS,
    **options: Unpack[CaseOptions],
) -> list[PlannedCase]:
    """Resolves the cases of a run without computing anything; arguments as of `run`.

    Raises:
        UserError: A name or a value is not accepted, or something does not fit.
    """
    from privbench.runner.series import CaseSeries
    from privbench.store.places import store_at

    cases = _cases(model, config, settings, options)
    series = CaseSeries(cases, store_at(output))
    return [PlannedCase(case, str(series.output / case.folder), series.state(case)) for case in cases]


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

    from privbench.core import ATTACKS, FeatureObservation, Observation
    from privbench.runner.explained import with_explained_share
    from privbench.runner.machine import resolve_device

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
    from privbench.runner.external import as_pictures, score_pictures
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


def load_results(place: "Path | str | Store") -> "Results":
    """Reads all finished cases below a folder or URL.

    Args:
        place: Where to look, subfolders included.

    Raises:
        UserError: There is no record, or one cannot be read.
    """
    from privbench.analysis.leaderboard import read_record
    from privbench.results import Results
    from privbench.store.layout import find_records
    from privbench.store.places import store_at

    found = store_at(place)
    with found.open(everything=False) as folder:
        paths = find_records(folder)
        folders = tuple(path.parent.relative_to(folder).as_posix() for path in paths)
        return Results(tuple(map(read_record, paths)), found, folders, whole=True)


def _cases(
    model: "str | nn.Module | None",
    config: "Path | str | None",
    settings: Mapping[str, Any] | Sequence[str],
    options: CaseOptions,
) -> "list[Case]":
    from privbench.runner.resolve import resolve_cases

    pairs = [f"{key}={value}" for key, value in settings.items()] if isinstance(settings, Mapping) else list(settings)
    given = cast(RunOptions, {**options, "config": None if config is None else Path(config), "settings": tuple(pairs)})
    if isinstance(model, str):
        given["model"] = model
    elif model is not None:
        from privbench.models import register_module

        size, classes = options.get("image_size"), options.get("num_classes")
        name, weights = register_module(
            model, image_size=None if size is None else int(size), num_classes=None if classes is None else int(classes)
        )
        given["model"] = name
        given["weights"] = options.get("weights") or str(weights)
    return resolve_cases(given)

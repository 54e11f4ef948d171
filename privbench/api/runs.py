"""Private images attacked and what comes back scored: `run` computes the cases that a user asks for, `plan` only names them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

from privbench.resolving.options import OPTIONS, CaseOptions, RunOptions

if TYPE_CHECKING:
    from torch import nn

    from privbench.core import Case
    from privbench.results import Results
    from privbench.runner.listener import Listener
    from privbench.store.base import Store

__all__ = ["CASE_OPTIONS", "FOLDER_OF_RUNS", "PlannedCase", "plan", "run"]

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
    live: bool | None = None,
    log: str | Sequence[str] = (),
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
        config: A case to start from, which the other arguments change: `case.yaml`, `record.json`, a case's folder, its URL,
            or its place in a pack (`PACK/CASE`).
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
        live: Keep a page in each case's folder, `live.html`, that shows the attack while it runs. In a notebook that is the
            default, and the cell shows it too.
        log: Experiment trackers to report to, by name: `tensorboard`, `wandb`, `mlflow` or a plug-in's.
        listener: Who watches; in a notebook where nobody does, a line of progress.
        **options: What to run: `defense`, `attack`, `preset`, `weights`, `data`, `split`, `limit`, `indices`, `batch_size`,
            `labels`, `model_mode`, `adversary`, `local`, `trains`, `training`, `lpips_net`, `seed`, ... as the options of
            `privbench run`; lists of defenses and attacks, in Python or with commas, make one case each.

    Returns:
        The finished cases, attack after attack, each with its defenses in the order given.

    Raises:
        UserError: A name or a value is not accepted, or something does not fit.
        AttackError: An attack broke.
        Interrupted: Stopped by a signal; what is needed to continue is saved.
    """
    from privbench.computing.machine import cpu_threads, resolve_devices
    from privbench.core import ComputeOptions
    from privbench.plots.case_pictures import draw_case, draw_defenses
    from privbench.results import Results
    from privbench.runner.series import CaseSeries
    from privbench.runner.suites import Suites
    from privbench.store.places import store_at
    from privbench.watch import watching
    from privbench.watch.logs import require_loggers

    loggers = (log,) if isinstance(log, str) else tuple(log)
    require_loggers(loggers)
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
    watched = watching(place.working, listener, live=live, loggers=loggers)
    with cpu_threads(threads, max(case.victim.model.image_size for case in cases)), watched as everyone:
        records = series.run(force=force, listener=everyone)
        results = Results(place, tuple((record.case.folder, record) for record in records))
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
    from privbench.store.places import store_at

    cases = _cases(model, config, settings, options)
    place = store_at(output)
    return [PlannedCase(case, str(place / case.folder), _state(place, case)) for case in cases]


def _state(place: "Store", case: "Case") -> str:
    from privbench.core import Record
    from privbench.store.case_folder import CaseFolder

    if isinstance(place.find(case), Record):
        return "finished"
    return "begun" if CaseFolder(place.working, case).has_progress() else "new"


def _cases(
    model: "str | nn.Module | None",
    config: "Path | str | None",
    settings: Mapping[str, Any] | Sequence[str],
    options: CaseOptions,
) -> "list[Case]":
    from privbench.resolving.config import config_at
    from privbench.resolving.resolve import resolve_cases

    pairs = [f"{key}={value}" for key, value in settings.items()] if isinstance(settings, Mapping) else list(settings)
    given = cast(RunOptions, {**options, "settings": tuple(pairs)})
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
    with config_at(None if config is None else str(config)) as file:
        return resolve_cases({**given, "config": file})

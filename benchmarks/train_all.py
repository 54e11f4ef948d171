"""Trains the embedded victims and the victims behind every utility report, on one device, from parquet files.

    python -m benchmarks.train_all --parts victims utility --train train-*.parquet --test test-*.parquet --budget 480

Jobs are ordered by what they are worth and run in several processes that share the device. What a job gives is written as soon
as it is done: weights in half precision, a card, and the utility report (`privbench evaluate --measure jigsaw --draws 3`). A
second call with the same output goes on with what is missing. At the end everything is packed in tar files of at most 15 MB.
"""

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shlex
import tarfile
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.command import one_line
from benchmarks.victim_jobs import CNN, Job, utility_jobs, victim_jobs
from privbench.core import Training, UserError, build_defense, resolve_defense
from privbench.models import file_sha256, load_victim, resolve_victim
from privbench.training import EpochReport, LabelledImages, MeasureOptions, TrainingPlan, measure_utility, train

_LARGEST_PACK = 15_000_000
_JIGSAW = "mjp:mask_ratio=0.5"
_DRAWS = 3
"""Of layers that are random at inference, for each image."""


# Data


def _decoded(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    import pandas

    table = pandas.read_parquet(path)
    cells = table["img" if "img" in table else "image"]
    images = [
        np.asarray(Image.open(BytesIO(cell["bytes"] if isinstance(cell, dict) else cell)).convert("RGB")) for cell in cells
    ]
    return np.stack(images).transpose(0, 3, 1, 2), table["label"].to_numpy().astype(np.int64)


def decode(paths: list[Path], cache: Path) -> list[Path]:
    """Decodes parquet files, several at a time, into arrays `NAME.npz` of the cache; those that are there stay."""
    cache.mkdir(parents=True, exist_ok=True)
    targets = [cache / f"{path.stem}.npz" for path in paths]
    missing = [(path, target) for path, target in zip(paths, targets, strict=True) if not target.exists()]
    with ProcessPoolExecutor(min(len(missing) or 1, os.cpu_count() or 1), multiprocessing.get_context("spawn")) as pool:
        for (_, target), (images, labels) in zip(missing, pool.map(_decoded, [path for path, _ in missing]), strict=True):
            partial = target.with_name(f".{target.name}")
            np.savez(partial, images=images, labels=labels)
            partial.replace(target)
    return targets


def _loaded(files: list[Path], limit: int | None) -> LabelledImages:
    parts = [np.load(path) for path in files]
    images, labels = (torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in ("images", "labels"))
    return LabelledImages(images[:limit], labels[:limit])


# One job


def _command(plan: TrainingPlan) -> str:
    """The command that repeats a job; the teacher is the embedded network of its name."""
    given = plan.recipe | {"epochs": plan.epochs, "model": plan.model}
    words = ["privbench", "train", "--defense", "+".join(map(str, plan.defense))]
    for name, value in given.items():
        words += [f"--{name.replace('_', '-')}", str(value).split(" ")[0] if name == "teacher" else str(value)]
    return shlex.join(words)


def do(job: Job, data: tuple[LabelledImages, LabelledImages], device: torch.device) -> dict[str, Any]:
    """Trains one victim in the folder of its name below the working folder, and measures its utility."""
    folder = Path(job.name)
    teacher, settings = None, dict(job.settings)
    generator = torch.Generator().manual_seed(0)
    if job.has_teacher:
        path = Path("prior") / f"{CNN}.none.safetensors"
        none = build_defense(resolve_defense("none"))
        teacher = load_victim(resolve_victim(CNN, str(path), none), none, generator=generator).requires_grad_(False)
        settings["teacher"] = f"{CNN} (sha256 {file_sha256(path)[:12]})"
    else:
        settings.pop("teacher_weight", None)
    specs = resolve_defense(job.defense)
    plan = TrainingPlan.model_validate(
        {"model": job.model, "defense": specs, "dataset": "cifar10", "num_classes": 10} | settings
    )
    started = time.monotonic()
    ends: list[float] = []

    def report(now: EpochReport) -> None:
        if now.batch == now.batches:
            ends.append(time.monotonic())
            _say(job, now)

    card = train(
        plan,
        *data,
        output=folder,
        device=device,
        command=_command(plan),
        report=report,
        teacher=teacher,
        compiled=job.compiled and device.type == "cuda",
        checkpoint_seconds=20.0,
        snapshots=job.snapshots,
    )
    found = {"job": job.name, "seconds": time.monotonic() - started, "training_seconds": card.seconds}
    # Without the first epoch, in which the step is compiled.
    speed = (len(ends) - 1) * len(data[0].images) / max(ends[-1] - ends[0], 1e-9) if ends else 0.0
    found |= {"epochs": plan.epochs, "images_per_second": round(speed)}
    found |= {"accuracy": card.accuracy, "defended": card.defended_accuracy, "training_accuracy": card.training_accuracy}
    if job.has_report:
        weights = folder / f"{plan.model}.{plan.defense_name}.safetensors"
        built = build_defense(specs)
        spec = resolve_victim(job.model, str(weights), built)
        utility = measure_utility(
            load_victim(spec, built, generator=generator).to(device),
            spec,
            built,
            specs,
            *(data[1].images.cpu(), data[1].labels.cpu()),
            dataset="cifar10",
            options=MeasureOptions(
                build_defense(resolve_defense(_JIGSAW)), _JIGSAW, measures=frozenset({"jigsaw"}), draws=_DRAWS
            ),
            training=Training(defense=card.defense, dataset="cifar10", epochs=card.epochs, recipe=dict(card.recipe)),
        )
        text = utility.to_json()
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        (folder / f"utility--{plan.defense_name}--{plan.model}--{digest}.json").write_text(text, encoding="utf-8")
    next(folder.glob("*.checkpoint.pt")).unlink()
    (folder / "done.json").write_text(json.dumps(found | dataclasses.asdict(job), indent=1) + "\n", encoding="utf-8")
    return found


def _say(job: Job, now: EpochReport) -> None:
    if now.epoch % max(1, now.epochs // 5) == 0:
        print(f"  {job.name}: epoch {now.epoch}/{now.epochs}, loss {now.loss:.3f}", flush=True)


def end_with_parent() -> None:
    """Ends this process once the one that started it is gone: nobody would take its result, and it would train on unseen."""
    parent = cast(BaseProcess, multiprocessing.parent_process())

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _work(link: Any, files: tuple[list[Path], list[Path]], limits: tuple[int | None, int | None], device: str) -> None:
    """A process that does what comes through the link, one job after another."""
    end_with_parent()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 8))
    chosen = torch.device(device)
    data = cast(
        tuple[LabelledImages, LabelledImages],
        tuple(_loaded(each, limit).to(chosen) for each, limit in zip(files, limits, strict=True)),
    )
    if chosen.type == "cuda":
        torch.backends.cudnn.benchmark = True
    while True:
        job = link.recv()
        # A compiled function may be compiled anew only a few times in one process.
        torch._dynamo.reset()
        try:
            link.send((job, do(job, data, chosen)))
        except Exception as error:  # one job that fails must not cost the others
            text = str(error) if isinstance(error, UserError) else traceback.format_exc()
            link.send((job, {"job": job.name, "failed": text}))


# All jobs


class Crew:
    """Processes and the jobs that they are given, the worthiest that is ready first."""

    def __init__(self, jobs: list[Job], arguments: argparse.Namespace, files: tuple[list[Path], list[Path]]) -> None:
        self.jobs = [job for job in jobs if not (Path(job.name) / "done.json").exists()]
        self.running: dict[str, Job] = {}
        context = multiprocessing.get_context("spawn")
        self.links: list[multiprocessing.connection.Connection] = []
        self.processes: list[BaseProcess] = []
        limits = (arguments.limit, arguments.test_limit)
        for _ in range(min(arguments.workers, len(self.jobs))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, files, limits, arguments.device))
            process.start()
            self.links.append(ours)
            self.processes.append(process)

    def next_job(self, large: int) -> Job | None:
        """The first job that can start: its teacher is there, and no more than `large` large ones run."""
        busy = sum(job.is_large for job in self.running.values())
        for job in self.jobs:
            is_taught = not job.has_teacher or (Path("prior") / "done.json").exists()
            if is_taught and not (job.is_large and busy >= large):
                self.jobs.remove(job)
                self.running[job.name] = job
                return job
        return None

    def run(self, seconds: float, large: int) -> None:
        """Until everything is done or the time is up."""
        end = time.monotonic() + seconds
        idle = list(self.links)
        while (self.jobs or self.running) and self.links and time.monotonic() < end:
            for link in list(idle):
                if job := self.next_job(large):
                    link.send(job)
                    idle.remove(link)
            ready = multiprocessing.connection.wait([one for one in self.links if one not in idle], timeout=0.5)
            for link in cast(list[multiprocessing.connection.Connection], ready):
                try:
                    job, found = link.recv()
                except EOFError:  # its process is gone, and what it was doing stays in `running`
                    self.links.remove(link)
                    continue
                self.running.pop(job.name)
                idle.append(link)
                print(f"[{seconds - end + time.monotonic():6.1f} s] {json.dumps(found)}", flush=True)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        for left in [*self.running, *(job.name for job in self.jobs)]:
            print(f"not done: {left}", flush=True)


def pack(output: Path, target: Path, most: int) -> None:
    """Finished jobs in tar files `part0.tar`, ...: cards, reports of all, weights in order until `most` bytes are reached."""
    target.mkdir(parents=True, exist_ok=True)
    done = sorted(output.glob("*/done.json"), key=lambda path: (path.parent.name.startswith("utility-"), path.stat().st_mtime))
    small = [path for one in done for path in sorted(one.parent.glob("*.json"))]
    large = [path for one in done for path in sorted(one.parent.glob("*.safetensors"))]
    groups: list[list[Path]] = []
    size, total = _LARGEST_PACK + 1, 0
    for path in [*small, *large]:
        total += path.stat().st_size
        if total > most:
            print(f"not packed: {path.relative_to(output)}", flush=True)
            continue
        if size + path.stat().st_size > _LARGEST_PACK:
            groups.append([])
            size = 0
        groups[-1].append(path)
        size += path.stat().st_size + 1024
    for number, group in enumerate(groups):
        with tarfile.open(target / f"part{number}.tar", "w") as archive:
            for path in group:
                archive.add(path, str(path.relative_to(output)))


@one_line
def main() -> None:
    """Decodes, trains, packs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=[], choices=["victims", "utility"], help="nothing: decode alone")
    parser.add_argument("--train", nargs="+", type=Path, required=True)
    parser.add_argument("--test", nargs="+", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("victims"))
    parser.add_argument("--cache", type=Path, default=Path("victims") / "data", help="decoded images")
    parser.add_argument("--pack", type=Path, help="folder for the tar files")
    parser.add_argument("--pack-bytes", type=int, default=60_000_000)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--large", type=int, default=2, help="victims of the first part that are trained at a time")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds for all jobs")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--prior-epochs", type=int, default=150)
    parser.add_argument("--utility-epochs", type=int, default=15)
    parser.add_argument("--utility-learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--utility-augmentation", default="flip", choices=["none", "flip", "trivial"])
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--only", nargs="+", help="jobs by the beginning of their names")
    parser.add_argument("--limit", type=int, help="training images")
    parser.add_argument("--test-limit", type=int)
    arguments = parser.parse_args()
    decoded = [path.resolve() for path in decode([*arguments.train, *arguments.test], arguments.cache)]
    files = decoded[: len(arguments.train)], decoded[len(arguments.train) :]
    jobs: list[Job] = []
    if "victims" in arguments.parts:
        jobs += victim_jobs(arguments.epochs, arguments.prior_epochs, arguments.batch_size)
    if "utility" in arguments.parts:
        recipe = {"epochs": arguments.utility_epochs, "batch_size": arguments.batch_size}
        recipe |= {"learning_rate": arguments.utility_learning_rate, "augmentation": arguments.utility_augmentation}
        jobs += utility_jobs(recipe)
    if arguments.only:
        jobs = [job for job in jobs if job.name.startswith(tuple(arguments.only))]
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.pack.resolve() if arguments.pack else None
    os.chdir(arguments.output)
    if jobs:
        Crew(jobs, arguments, files).run(arguments.budget, arguments.large)
    if target:
        pack(Path(), target, arguments.pack_bytes)


if __name__ == "__main__":
    main()

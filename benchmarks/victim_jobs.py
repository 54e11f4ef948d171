"""Which victims are trained, and how: the embedded ones, and those behind every utility report."""

from dataclasses import dataclass
from typing import Any

__all__ = ["CNN", "VIT", "Job", "utility_jobs", "victim_jobs"]

VIT, CNN = "vit_mini_patch4_32", "cnn_mini_32"


@dataclass(frozen=True)
class Job:
    """One victim: how it is trained and whether its utility is measured."""

    name: str
    defense: str
    settings: dict[str, Any]
    model: str = VIT
    has_teacher: bool = False
    snapshots: tuple[int, ...] = ()
    compiled: bool = False
    has_report: bool = True
    is_large: bool = False
    """Whether it fills the device alone, so that it starts while no more than one other large one runs."""


def victim_jobs(epochs: int, prior_epochs: int, batch_size: int) -> list[Job]:
    """The prior CNN, which is the teacher of the others, and the four embedded transformers."""
    shared = {"batch_size": batch_size, "rise": 0.1, "augmentation": "trivial", "erasing": 0.1}
    prior = shared | {"epochs": prior_epochs, "learning_rate": 3e-3, "erasing": 0.0}
    vit = shared | {"epochs": epochs, "learning_rate": 1.5e-3, "mixing": 0.5, "teacher_weight": 0.5}
    early = max(1, epochs // 40)
    return [
        Job("prior", "none", prior, CNN, compiled=True, has_report=False, is_large=True),
        *(
            Job(name, name, vit, has_teacher=True, compiled=True, is_large=True, snapshots=(early,) if name == "none" else ())
            for name in ("none", "mjp", "no-pe", "naive-shuffle")
        ),
    ]


_SEEDED = ("none", "mjp:mask_ratio=0.1", "dpsgd:noise_multiplier=1", "stochastic-layers")
_MEASURED = (
    "nog",
    "mjp:mask_ratio=0.9",
    "naive-shuffle",
    "naive-shuffle:ratio=0.1,selection=blocks",
    "no-pe",
    "dpsgd:noise_multiplier=0.1",
    "gradient-noise:std=0.001",
    "gradient-noise:std=0.01",
    "clipping:max_norm=1",
    "clipping:max_norm=0.1",
    "pruning:p=0.9",
    "pruning:p=0.99",
    "quantization:bits=4",
    "quantization:bits=2",
    "sign",
    "stochastic-layers:mean=zero",
    "precode",
    "precode:beta=0.01",
    "mixup",
    "instahide",
    "instahide:k=2",
    "pixel-shuffle",
    "soteria:p=0.8,directions=2",
    "nog:olr=true",
    "mjp:dal_weight=0",
)
_MORE = (
    # Other strengths of the front, for time that is left.
    "mjp:mask_ratio=0.5",
    "stochastic-layers:spread=3",
    "naive-shuffle+pixel-shuffle",
    "precode:size=64",
)


def utility_jobs(recipe: dict[str, Any]) -> list[Job]:
    """One short recipe for every defense that changes training, without teacher and mixtures; three seeds for four of them.

    Args:
        recipe: Settings of `TrainingPlan`.
    """

    def job(defense: str, seed: int) -> Job:
        short = "".join(one if one.isalnum() or one in ".-" else "_" for one in defense)
        return Job(f"utility-{short}-seed{seed}", defense, recipe | {"seed": seed}, compiled=True)

    # The slowest goes first: it waits for a CPU, and everything else can be done meanwhile.
    once = [job(one, 0) for one in (_MEASURED[0], *_SEEDED, *_MEASURED[1:])]
    # A victim of one epoch, for leakage in the course of training.
    early = Job("utility-early", "none", recipe | {"epochs": 1, "seed": 0}, compiled=True)
    return [*once, early, *(job(one, seed) for seed in (1, 2) for one in _SEEDED), *(job(one, 0) for one in _MORE)]

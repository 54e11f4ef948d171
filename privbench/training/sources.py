"""What a victim is trained and measured on, checked: splits of the same classes, labels that it learnt, measures asked for."""

from collections.abc import Sequence

import torch

from privbench.core import UserError, build_defense, resolve_defense
from privbench.core.utility_report import MEASURED_FIELDS
from privbench.data import ImageSet, open_images
from privbench.data.cifar10 import CIFAR10_CLASSES
from privbench.models import Victim, VictimCard, load_victim, resolve_victim

__all__ = ["Teacher", "chosen_measures", "labelled_splits", "require_labels", "teacher_of"]

Teacher = tuple[Victim, str]
"""A frozen network, and what the card calls it."""


def labelled_splits(data: str) -> tuple[ImageSet, ImageSet]:
    """The images for training and for the test, of the same classes.

    Raises:
        UserError: They cannot be had, or their labels do not mean the same.
    """
    training, test = _split(data, "train"), _split(data, "test")
    if training.nominal_labels or test.nominal_labels:
        raise UserError(f"the images of {data} have no labels; training needs labelled images, such as --data cifar10")
    if training.has_class_names and test.has_class_names and training.class_names != test.class_names:
        odd = sorted(set(training.class_names) ^ set(test.class_names))
        raise UserError(
            f"the splits of {data} have different classes ({odd[0] if odd else 'in another order'}), so labels do not mean the "
            "same; give both the same classes"
        )
    return training, test


def _split(data: str, split: str) -> ImageSet:
    try:
        return open_images(data, split)
    except UserError as error:
        if not str(error).startswith("unknown split"):
            raise
        raise UserError(
            f"training needs the splits train and test, and {data} has no {split} ({error}); "
            "give a folder or a data set that has both"
        ) from None


def teacher_of(name: str, classes: int) -> Teacher:
    """The embedded network of a name.

    Raises:
        UserError: There is none, or it knows other classes.
    """
    none = build_defense(resolve_defense("none"))
    spec = resolve_victim(name, "embedded", none)
    if spec.model.num_classes != classes:
        raise UserError(
            f"the teacher {name} knows {spec.model.num_classes} classes, the data has {classes}; leave out --teacher"
        )
    victim = load_victim(spec, none, generator=torch.Generator()).requires_grad_(False)
    return victim, f"{name} (sha256 {str(spec.weights_sha256)[:12]})"


def require_labels(images: ImageSet, data: str, num_classes: int, card: VictimCard | None) -> None:
    """Refuses images whose labels are not those that the victim learnt: its accuracy on them would say nothing.

    Classes are compared by number, and by name where both are known.

    Raises:
        UserError: They are not.
    """
    if images.flags:
        raise UserError(f"the images of {data} have no labels; utility needs labelled test images, such as --data cifar10")
    if images.nominal_labels:
        raise UserError(
            f"the labels of {data} are assigned and do not name what the images show; utility needs labelled test images, such "
            "as --data cifar10"
        )
    images.for_classes(num_classes)
    if not images.has_class_names:
        return
    remedy = "choose test images of the classes that the victim was trained on"
    if len(images.class_names) != num_classes:
        raise UserError(f"{data} has {len(images.class_names)} classes and the victim {num_classes}; {remedy}")
    learnt = {name.casefold() for name in CIFAR10_CLASSES} if card is not None and card.dataset == "cifar10" else None
    if learnt is not None and learnt.isdisjoint(name.casefold() for name in images.class_names):
        raise UserError(
            f"no class of {data} ({images.class_names[0]}, ...) is one of cifar10, on which the victim was trained; {remedy}"
        )


def chosen_measures(given: str | Sequence[str]) -> frozenset[str]:
    """What is measured beside accuracy and calibration.

    Args:
        given: Names, or one text with commas; `all`, or `accuracy` for nothing else.

    Raises:
        UserError: A name is not known, or `all` stands beside others.
    """
    text = given if isinstance(given, str) else ",".join(given)
    names = [name.strip() for name in text.split(",")]
    if names == ["all"]:
        return frozenset(MEASURED_FIELDS)
    if "all" in names:
        raise UserError(f"--measure {text} names all and more; write all by itself, or leave it out")
    if not all(names):
        raise UserError(f"an empty entry in --measure '{text}'; accepted: all, accuracy, {', '.join(MEASURED_FIELDS)}")
    unknown = [name for name in names if name not in {"accuracy", *MEASURED_FIELDS}]
    if unknown:
        raise UserError(f"--measure {unknown[0]} is not known; accepted: all, accuracy, {', '.join(MEASURED_FIELDS)}")
    return frozenset(names) - {"accuracy"}

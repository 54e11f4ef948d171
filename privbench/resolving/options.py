"""The options of a run, each written once: the Python keyword, the command line's option, the key of `--set`, and its help.

`privbench.run` takes them as keywords, `privbench run` makes its options of them, a study names its axes by them, and
`resolve` turns them into cases. The module imports nothing heavy, so that `--help` answers at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, get_args, get_origin, get_type_hints

__all__ = ["OPTIONS", "SETTINGS", "CaseOptions", "Option", "RunOptions", "choices_of", "is_whole_number", "takes_several"]


@dataclass(frozen=True)
class Option:
    """What is to be known of one option besides its name and type.

    Attributes:
        key: Its place in a case, which is also its key for `--set`; None where a case does not keep it.
        help: One sentence, with the default in square brackets.
    """

    key: str | None
    help: str


class ComponentOptions(TypedDict, total=False):
    """Which attacks and defenses."""

    defense: Annotated[
        str | Sequence[str] | None,
        Option(
            "defense", "Defense, with parameters NAME:KEY=VALUE,...; A+B composes, A,B runs one after another.  [default: mjp]"
        ),
    ]
    attack: Annotated[
        str | Sequence[str] | None,
        Option(
            "attack",
            "Attack, with parameters NAME:KEY=VALUE,..., or an ensemble: standard, fast, rand; A,B runs one after another.  "
            "[default: adjoint-matching]",
        ),
    ]
    preset: Annotated[
        str | None,
        Option(None, "Named parameter set of the attacks; default, quick and standard are known to all.  [default: its first]"),
    ]


class ModelOption(TypedDict, total=False):
    """Which architecture, by name."""

    model: Annotated[
        str | None, Option("victim.model.name", "Victim: an embedded or timm model.  [default: vit_mini_patch4_32]")
    ]


class ClientOptions(TypedDict, total=False):
    """Client, threat model and scores.

    Numbers may still be text, as `--set` and studies give them.
    """

    weights: Annotated[
        str | None, Option("victim.weights", "embedded, random, pretrained (timm's hub), or a file.  [default: embedded]")
    ]
    num_classes: Annotated[
        int | str | None, Option("victim.model.num_classes", "Classes of the victim.  [default: the architecture's]")
    ]
    image_size: Annotated[
        int | str | None, Option("victim.model.image_size", "Height and width in pixels.  [default: the architecture's]")
    ]
    data: Annotated[str | None, Option("data.source", "Private images: a data set, folder or file.  [default: photos]")]
    split: Annotated[str | None, Option("data.split", "Part of the data set.  [default: test]")]
    limit: Annotated[int | str | None, Option("data.limit", "How many images.  [default: 4, in whole batches]")]
    indices: Annotated[str | Sequence[int] | None, Option("data.indices", "Which images, such as 0,3,5-7.")]
    batch_size: Annotated[int | str | None, Option("batch_size", "Images per client update.  [default: 1]")]
    labels: Annotated[
        Literal["recovered", "known"] | None,
        Option("threat_model.labels", "Whether the attacker must find the labels.  [default: recovered]"),
    ]
    model_mode: Annotated[
        Literal["eval", "train"] | None, Option("threat_model.model_mode", "Mode of the client's model.  [default: eval]")
    ]
    adversary: Annotated[
        Literal["unaware", "aware", "oracle"] | None,
        Option("threat_model.adversary", "What the attacker knows of the defense.  [default: unaware; of an ensemble: aware]"),
    ]
    local: Annotated[
        str | None,
        Option("local", "Local training, such as sgd:steps=5,lr=0.01: a weight delta is sent.  [default: one gradient]"),
    ]
    trains: Annotated[
        str | None,
        Option(
            "trains",
            "What is trained and sent: head, attention, embedding, mlp, norms, or wildcards.  [default: all]",
        ),
    ]
    training: Annotated[
        Literal["known", "hidden"] | None,
        Option("threat_model.training", "Whether the attacker is told how the client trained.  [default: known]"),
    ]
    server: Annotated[
        str | None,
        Option("server", "What a malicious server does to the model, such as imprint:bins=256.  [default: honest]"),
    ]
    lpips_net: Annotated[Literal["alex", "vgg", "squeeze"] | None, Option("lpips", "Trunk of LPIPS.  [default: alex]")]
    seed: Annotated[int | str | None, Option("seed", "Seed of every random choice.  [default: 0]")]


class CaseOptions(ComponentOptions, ClientOptions, total=False):
    """What `privbench.run` takes by keyword besides the model, which may also be a module.

    A field of a case that has an option of its own needs its line above and nothing else.
    """


class RunOptions(ComponentOptions, ModelOption, ClientOptions, total=False):
    """What a user asks for; what is left out, or None, is taken from `config` or from the defaults."""

    config: Path | None
    """A resolved case (`case.yaml`) to start from; the other options change it."""
    settings: tuple[str, ...]
    """`KEY=VALUE` texts: the keys above, `attack.PARAMETER` and `defense.PARAMETER`."""


def _options() -> dict[str, Option]:
    hints = get_type_hints(RunOptions, include_extras=True)
    found = {name: get_args(hint)[1] for name, hint in hints.items() if get_origin(hint) is Annotated}
    return {name: option for name, option in found.items() if isinstance(option, Option)}


OPTIONS: Mapping[str, Option] = _options()
"""Keyword to its option, in the order in which `--help` lists them."""

SETTINGS: Mapping[str, str] = {option.key: name for name, option in OPTIONS.items() if option.key is not None}
"""Keys of `--set`, beside `attack.PARAMETER` and `defense.PARAMETER`, and the option that each one means."""


def choices_of(name: str) -> tuple[str, ...]:
    """The words that an option accepts; empty where it takes any text or a number."""
    return tuple(word for part in _parts(name) if get_origin(part) is Literal for word in get_args(part))


def is_whole_number(name: str) -> bool:
    """Whether an option is a whole number."""
    return int in _parts(name)


def takes_several(name: str) -> bool:
    """Whether an option is one value or several."""
    return any(get_origin(part) is Sequence for part in _parts(name))


def _parts(name: str) -> tuple[Any, ...]:
    return get_args(get_type_hints(RunOptions)[name])

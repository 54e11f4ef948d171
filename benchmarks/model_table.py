"""What applies to which architecture of timm: every one that calls itself a transformer, without computing an attack.

    python -m benchmarks.model_table -o docs/reference/models.md        # one of each family
    python -m benchmarks.model_table --all -o models.md                 # all of them

Models are built on torch's meta device, where tensors have shapes and no values, so that the largest cost no memory. For each
the client's update is taken there, the defenses change its architecture, and every attack says whether it takes the update.
"""

import argparse
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import timm
import torch
from timm.models import model_entrypoint
from torch import nn

from benchmarks.command import one_line
from privbench.core import (
    ATTACKS,
    MODELS,
    Attack,
    ModelInput,
    ModelSpec,
    Observation,
    ThreatModel,
    UserError,
    build_defense,
    resolve_defense,
)
from privbench.models import Victim, build_model, client_loss, default_spec
from privbench.models.zoo import architecture, require_classifies

ATTACK_NAMES = ("adjoint-matching", "gradvit", "inverting-gradients", "april-optimisation", "closed-form", "subspace")
DEFENSE_NAMES = ("none", "naive-shuffle", "mjp", "no-pe")
"""Those that ask something of the architecture; what acts on gradients alone takes any."""

_TRANSFORMERS = re.compile(
    r"beit|cait|coat|convit|crossvit|davit|deit|edgenext|eva|former|gcvit|gemma|hiera|levit|maxx?vit|mobilevit|mvit|nest|nextvit"
    r"|pit|pvt|qwen|sam|swin|tiny_vit|tnt|twins|vision_transformer|vit|volo|xcit"
)


def transformers() -> list[str]:
    """The names of timm's architectures whose name or module says that they are transformers."""
    return [name for name in timm.list_models() if _TRANSFORMERS.search(name) or _TRANSFORMERS.search(_module(name))]


def families(names: Iterable[str]) -> dict[str, list[str]]:
    """The names by family, which is a module of timm and the first word of a name; what applies is the same in most."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(f"{_module(name)}:{name.partition('_')[0]}", []).append(name)
    return found


def _module(name: str) -> str:
    return model_entrypoint(name).__module__.rpartition(".")[2]


@dataclass(frozen=True)
class Answer:
    """What one architecture takes.

    Attributes:
        name: timm's.
        refused: What there is instead of an answer: the architecture cannot be a victim at all; one line.
        defenses: Name to the line of refusal; empty where it applies.
        attacks: The same, of updates of the undefended model.
    """

    name: str
    refused: str
    defenses: Mapping[str, str]
    attacks: Mapping[str, str]


def answer(name: str) -> Answer:
    """Asks one architecture at its own size, on the meta device."""
    with _shallow(name):
        return _answer(name)


@contextmanager
def _shallow(name: str) -> Iterator[None]:
    """Timm's architecture with two blocks where its builder can: nothing that is asked depends on how many there are."""
    native = architecture(name)

    def build(num_classes: int, image_size: int) -> nn.Module:
        try:
            network: nn.Module = timm.create_model(name, num_classes=num_classes, depth=2)
        except Exception:  # a builder that has another word for it
            return native.build(num_classes, image_size)
        return network

    MODELS.register(name, replace(native, build=build))
    try:
        yield
    finally:
        MODELS.unregister(name)


def _answer(name: str) -> Answer:
    try:
        spec = default_spec(name)
        require_classifies(spec)
        defenses = {defense: _refusal(partial(_prepared, spec, defense)) for defense in DEFENSE_NAMES}
        observation = _observation(spec)
    except UserError as error:
        return Answer(name, str(error), {}, {})
    attacks = {attack: _refusal(partial(_require, attack, observation)) for attack in ATTACK_NAMES}
    return Answer(name, "", defenses, attacks)


def _refusal(asked: Callable[[], object]) -> str:
    try:
        asked()
    except UserError as error:
        return str(error)
    return ""


def _prepared(spec: ModelSpec, defense: str) -> Victim:
    built = build_defense(resolve_defense(defense))
    with torch.device("meta"):
        victim = build_model(spec).eval()
        built.prepare_model(victim)
        patches = ModelInput(torch.zeros(1, 3, spec.image_size, spec.image_size))
        if victim.patch_size is None and defense == "naive-shuffle":
            built.prepare_batch(victim, patches, torch.Generator())
        victim(patches.images)
    return victim


def _observation(spec: ModelSpec) -> Observation:
    """The update of an undefended client for one image: shapes and no values."""
    with torch.device("meta"):
        victim = build_model(spec).eval()
        parameters = dict(victim.named_parameters())
        given = ModelInput(torch.zeros(1, 3, spec.image_size, spec.image_size))
        loss = client_loss(victim, given, torch.zeros(1, dtype=torch.int64))
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    pairs = zip(parameters.items(), gradients, strict=True)
    sent = {name: torch.zeros_like(value) if found is None else found for (name, value), found in pairs}
    return Observation(update=sent, model=spec, model_state=victim.state_dict(), batch_size=1, threat_model=ThreatModel())


def _require(attack: str, observation: Observation) -> None:
    built: Attack = ATTACKS.get(attack)()
    with torch.device("meta"):
        built.require(observation)


# The page


def page(answers: Sequence[Answer]) -> str:
    """The answers as Markdown: architectures with the same answers in one row."""
    usable = [found for found in answers if not found.refused]
    rows: dict[tuple[str, ...], list[str]] = {}
    for found in usable:
        cells = tuple("" if line else "yes" for line in (*found.defenses.values(), *found.attacks.values()))
        rows.setdefault(cells, []).append(found.name)
    heads = [*DEFENSE_NAMES, *ATTACK_NAMES]
    lines = [
        "# Models: what applies to what",
        "",
        "Written by `python -m benchmarks.model_table -o docs/reference/models.md`, not by hand.",
        "",
        f"timm {timm.__version__} has {len(transformers())} architectures whose name or module says that they are",
        f"transformers. {len(answers)} of them were asked (one of each family, without `--all`), and {len(usable)} can be",
        "victims at their own input size. *yes*: the defense fits the architecture, or the attack takes the update of an",
        "undefended client. Where a cell is empty, `privbench run` says in one line what is missing.",
        "Defenses that act on gradients, and attacks that only match gradients, take every model.",
        "",
        f"| architectures | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
    ]
    for cells, names in sorted(rows.items(), key=lambda item: -len(item[1])):
        lines.append(f"| {len(names)}: {_families(names)} | {' | '.join(cells)} |")
    refused: dict[str, list[str]] = {}
    for found in answers:
        if found.refused:
            refused.setdefault(found.refused.replace(found.name, "NAME"), []).append(found.name)
    if refused:
        lines += ["", "## No victims", "", "| architectures | what is said |", "|---|---|"]
        lines += [f"| {_families(names)} | {reason} |" for reason, names in sorted(refused.items())]
    return "\n".join(lines) + "\n"


def _families(names: Sequence[str]) -> str:
    """A few names, and how many more there are of each module."""
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(_module(name), []).append(name)
    return ", ".join(
        f"`{members[0]}`" + (f" and {len(members) - 1} more of {module}" if len(members) > 1 else "")
        for module, members in sorted(modules.items())
    )


@one_line
def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--all", action="store_true", help="every architecture instead of one of each family")
    given = parser.parse_args()
    names = transformers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asked = names if given.all else [members[0] for members in families(names).values()]
        answers = [answer(name) for name in asked]
    given.output.write_text(page(answers), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Feature privacy: `invert_features` says what the features behind a block give away, with and without a defense."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from privbench.core.threat_model import ADVERSARIES

if TYPE_CHECKING:
    from privbench.features import FeatureResults

__all__ = ["invert_features"]


def invert_features(
    *,
    defense: str = "none,stochastic-layers",
    attack: str = "feature-matching,feature-decoder",
    adversary: str | Sequence[str] = ADVERSARIES,
    block: int = 1,
    model: str = "vit_mini_patch4_32",
    weights: str = "embedded",
    data: str = "photos",
    limit: int = 4,
    public: str | None = None,
    public_limit: int = 5000,
    seed: int = 0,
    device: str = "auto",
    output: Path | str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> "FeatureResults":
    """Inverts the features behind a block: by optimisation, and by a decoder trained on public images.

    Args:
        defense: Defenses, separated by commas.
        attack: Attacks, `NAME:KEY=VALUE,...`; decoders are left out where no public images are named.
        adversary: Adversaries, as a list or separated by commas. The unaware one takes a draw of its own for the client's, the
            aware one averages over draws, the oracle is told the client's.
        block: Behind which block; 0: embedded tokens.
        model: An embedded or timm model.
        weights: `embedded`, `pretrained` (timm's hub), `random`, or a file.
        data: Private images: a data set, folder or file.
        limit: The first so many private images.
        public: Images that decoders learn from: a data set, folder or file.
        public_limit: The first so many of them.
        seed: Of all random choices.
        device: `auto`, `cpu` or `cuda:INDEX`.
        output: CSV file to write too, a row an image.
        report: Told what is computed next.

    Raises:
        UserError: A name or a value is not accepted, nothing is left to run, or the file cannot be written.
    """
    import torch

    from privbench.computing.machine import resolve_device
    from privbench.core import UserError, build_defense, resolve_defense
    from privbench.core.spec import parse_spec
    from privbench.data import open_images
    from privbench.features import FeatureDecoder, FeatureResults, FeatureRow, feature_attack, feature_study
    from privbench.models import load_victim, resolve_victim
    from privbench.resolving.components import split_names
    from privbench.scoring import metric_suite
    from privbench.store.files import check_output, refuse_folder

    if output is not None:
        refuse_folder(Path(output))
        check_output(Path(output).absolute().parent)
    attacks = [feature_attack(spec.name, spec.parameters) for spec in map(parse_spec, split_names(attack, "--attack"))]
    named = adversary.split(",") if isinstance(adversary, str) else adversary
    adversaries = [name.strip() for name in named]
    wrong = [name for name in adversaries if name not in ADVERSARIES]
    if wrong:
        raise UserError(f"adversary '{wrong[0]}'; accepted: {', '.join(ADVERSARIES)}")
    if public is None:
        attacks = [one for one in attacks if not isinstance(one, FeatureDecoder)]
        if not attacks:
            raise UserError("attack feature-decoder learns from public images; name some with --public")
    chosen, rows = resolve_device(device), list[FeatureRow]()
    for text in split_names(defense):
        specs = resolve_defense(text)
        built = build_defense(specs)
        spec = resolve_victim(model, weights, built)
        victim = load_victim(spec, built, generator=torch.Generator().manual_seed(seed)).to(chosen)
        size = spec.model.image_size
        images = open_images(data, "test").as_tensors(size, limit)[0].to(chosen, torch.float32) / 255
        learnt = None if public is None else open_images(public, "train").as_tensors(size, public_limit)[0]
        rows += feature_study(
            victim,
            spec.model,
            built,
            specs,
            images,
            block=block,
            attacks=attacks,
            adversaries=adversaries,  # type: ignore[arg-type]
            public=learnt,
            suite=metric_suite(patch_size=victim.patch_size, image_size=size),
            seed=seed,
            report=lambda what, text=text: report(f"{text}: {what}"),  # type: ignore[misc]
        )
    found = FeatureResults(tuple(rows))
    if output is not None:
        found.save(output)
    return found

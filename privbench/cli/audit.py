"""`privbench audit`: what one client's update gives away."""

from pathlib import Path
from typing import Any

import click

import privbench
from privbench.cli.numeric import SEED, Number, WholeNumber
from privbench.core.errors import UserError

__all__ = ["audit"]

# The first character keeps click from filling the lines.
_EXAMPLES = """\b
Examples:
  privbench audit update.safetensors --model vit_tiny_patch16_224 --weights global.pth
  privbench audit --before w0.pth --after wT.pth --lr 0.01 --local-steps 5 --model vit_tiny_patch16_224
  privbench audit update.pt --model mymodel.py:build --input 224 --mean 0.5 --std 0.5 --photos mine/
  privbench audit --self-test --model vit_mini_patch4_32
  privbench audit update.pt --model vit_mini_patch4_32 --what-if mjp,quantization
"""


def _numbers(context: click.Context, option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in {1, 3}:
        raise click.BadParameter(f"'{value[:60]}' is neither one number nor three, such as 0.485,0.456,0.406.", context, option)
    return numbers


def _labels(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"'{value[:60]}' is no list of classes, such as 3,5.", context, option) from None


@click.command(epilog=_EXAMPLES)
@click.argument("update", required=False, type=click.Path(path_type=Path))
@click.option("--model", help="A timm or embedded name, or FILE.py:FUNCTION; not needed for a saved Observation.")
@click.option("--weights", help="Those that the server sent: a file, embedded, pretrained.  [default: the model's own]")
@click.option("--before", help="The same as --weights.")
@click.option("--after", type=click.Path(path_type=Path), help="The weights that came back, in place of UPDATE.")
@click.option("--kind", type=click.Choice(["auto", "gradient", "delta"]), default="auto", show_default=True, help="Of UPDATE.")
@click.option("--lr", type=Number(min=0), help="Learning rate of the client's local steps.")
@click.option("--local-steps", type=WholeNumber(min=1), help="Number of the client's local steps.")
@click.option("--batches", type=WholeNumber(min=1), default=1, show_default=True, help="Mini-batches of a local epoch.")
@click.option(
    "--optimiser", type=click.Choice(["sgd", "momentum", "adamw"]), default="sgd", show_default=True, help="Of local steps."
)
@click.option("--weight-decay", type=Number(min=0), default=0.0, show_default=True, help="Of local steps.")
@click.option("--batch-size", type=WholeNumber(min=1), default=1, show_default=True, help="Images behind the update.")
@click.option("--labels", callback=_labels, help="Of the images, 3,5,...  [default: read off the update]")
@click.option("--num-classes", type=WholeNumber(min=2), help="Overrides the model's own.")
@click.option("--input", "image_size", type=WholeNumber(min=1), help="Height and width of the input in pixels.")
@click.option("--mean", callback=_numbers, help="Of the client's normalisation, one number or three.")
@click.option("--std", callback=_numbers, help="The same.")
@click.option("--defense", default="none", show_default=True, help="What the client declares.")
@click.option(
    "--lora", help="Adapters that were trained: r=RANK[,alpha=NUMBER][,targets=qkv+proj][,dora=true]; --weights hold them."
)
@click.option("--photos", type=click.Path(path_type=Path), help="Your own images, to compare with by best match.")
@click.option("--what-if", default="", help="Defenses to try on a known photo, A,B:KEY=VALUE,...")
@click.option("--attacks", help="In order, NAME,NAME:KEY=VALUE,...  [default: all that apply, cheapest first]")
@click.option("--preset", default="quick", show_default=True, help="Of the attacks.")
@click.option(
    "--self-test/--no-self-test", default=None, help="Also attack an update of a known photo (on), or alone, without UPDATE."
)
@click.option("--minutes", type=Number(min=0), help="Time limit; the same command continues.  [default: none]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for page, JSON and pictures.  [default: audit]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or cuda:INDEX.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of random choices.")
@click.option("--fail-on-leak", is_flag=True, help="Exit code 3 where something was found.")
def audit(
    update: Path | None,
    before: str | None,
    weights: str | None,
    after: Path | None,
    lr: float | None,
    local_steps: int | None,
    what_if: str,
    attacks: str | None,
    output: Path | None,
    fail_on_leak: bool,
    **options: Any,
) -> None:
    """Say what one client's update gives away.

    UPDATE is a gradient or a weight delta: .safetensors, a torch file that loads with weights_only=True, or .npz; names are
    those of timm, torchvision or Hugging Face. Without UPDATE and --after, the set-up alone is tested on a known photo.
    Attacks run cheapest first and stop when one explains the update. "Not found" is never "safe".
    """
    from privbench.cli.audit_progress import AuditLine
    from privbench.cli.console import notes_console, say

    if before is not None and weights is not None:
        raise UserError("--before and --weights mean the same; give one")
    notes, place = notes_console(), output or Path("audit")
    with AuditLine(notes) as line:
        report = privbench.audit(
            update=update,
            weights=weights or before,
            after=after,
            learning_rate=lr,
            steps=local_steps,
            what_if=what_if,
            attacks=attacks,
            output=place,
            say=line.say,
            step=line.step,
            **options,
        )
    for text in report.lines():
        say(text)
    pictures = len(report.pictures)
    click.echo(f"{place}: index.html, audit.json, {pictures} picture{'' if pictures == 1 else 's'}")
    if fail_on_leak and report.leaks:
        raise click.exceptions.Exit(3)

"""Parts of a model that a client trains and sends while the rest is frozen: by name, or by a pattern of parameter names."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from privbench.core import UserError
from privbench.core.parameter_names import short_name
from privbench.models.victim import Victim

__all__ = ["PARTS", "trained_names"]

PARTS: Mapping[str, tuple[str, ...]] = {
    "attention": ("*.attn.*",),
    "embedding": ("*patch_embed*", "*pos_embed*", "*cls_token*", "*reg_token*"),
    "head": (),
    "mlp": ("*.mlp.*",),
    "norms": ("*norm*",),
}
"""Part to patterns of timm's names; the head is whatever the victim classifies with."""


def trained_names(victim: Victim, text: str) -> tuple[str, ...]:
    """The names of the parameters that a text chooses, in the model's order.

    Args:
        victim: The client's model.
        text: Parts or patterns joined by `+`: `head`, `attention+norms`, `blocks.0.attn.*`.

    Raises:
        UserError: A part or pattern chooses no parameter of the model.
    """
    names = [name for name, _ in victim.named_parameters()]
    chosen: set[str] = set()
    for part in text.split("+"):
        patterns = PARTS.get(part, (part,))
        found = {name for name in names if any(fnmatchcase(short_name(name), pattern) for pattern in patterns)}
        if part == "head":
            found = {name for name in names if name in victim.classifier_names()}
        if not found:
            raise UserError(
                f"no parameter of the model is called '{part[:200]}'; accepted: all, {', '.join(PARTS)}, or names with *, such "
                f"as {short_name(names[-1]).partition('.')[0]}.*; `+` joins several"
            )
        chosen |= found
    return tuple(name for name in names if name in chosen)

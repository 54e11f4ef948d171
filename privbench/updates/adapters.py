"""Names of adapters, as peft saves them and as a model has them.

A model's names hold that of the adapter (`...ia3_l.default`), a saved file's do not (`...ia3_l`). Layers that are trained whole
beside adapters (`modules_to_save`) are saved by their plain name (`head.weight`).
"""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

__all__ = ["in_names_of_adapters"]


def in_names_of_adapters(tensors: Mapping[str, Tensor], network: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """The same tensors by the names that a model with adapters has; unchanged where it has none.

    Args:
        tensors: Weights, or an update of them, by the victim's names or by those of a file that peft saved.
        network: The victim's; peft keeps there which adapters it has.
        names: Of the victim's state.
    """
    adapters = set(getattr(network, "peft_config", ()))
    saved = {short: name for name in names for short in _saved_names(name, adapters)} if adapters else {}
    return {saved.get(name, name): value for name, value in tensors.items()}


def _saved_names(name: str, adapters: set[str]) -> Iterable[str]:
    """What peft calls a parameter of a model in a file; empty of those that belong to no adapter."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        if part not in adapters:
            continue
        before = parts[:place]
        if before[-1:] == ["modules_to_save"]:
            yield ".".join(before[:-1] + parts[place + 1 :])
        else:
            yield ".".join(before + parts[place + 1 :])
            if before[-1:] == ["lora_magnitude_vector"]:
                yield ".".join(before)

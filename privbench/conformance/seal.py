"""Whether an object leads to a private image: a walk over everything that it refers to."""

import gc
import types
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from privbench.core import Secret

__all__ = ["holds_image", "reachable"]


def reachable(root: object) -> list[object]:
    """Every object that attributes, containers, bound methods, closures and autograd graphs lead to.

    Classes and modules end the walk, and so do a function's globals: through them everything leads to everything.
    """
    seen: dict[int, object] = {}
    pending = [root]
    while pending:
        item = pending.pop()
        if id(item) in seen or isinstance(item, type | types.ModuleType):
            continue
        seen[id(item)] = item
        pending.extend(_behind(item))
    return list(seen.values())


def _behind(item: object) -> Iterable[object]:
    if isinstance(item, types.FunctionType):
        return [cell.cell_contents for cell in item.__closure__ or ()] + [item.__defaults__, item.__kwdefaults__, item.__dict__]
    if isinstance(item, Tensor):
        # Held in C++, where the garbage collector does not look.
        held = [item.grad_fn, item.grad if item.is_leaf else None, item._base]
        return [*gc.get_referents(item), *(thing for thing in held if thing is not None)]
    if isinstance(item, torch.autograd.graph.Node):
        saved = [getattr(item, name, None) for name in dir(item) if name.startswith("_saved_")]
        return [*(node for node, _ in item.next_functions), getattr(item, "variable", None), *saved]
    return gc.get_referents(item)


def holds_image(found: Iterable[object] | Mapping[str, Tensor], secret: Secret) -> bool:
    """True where the secret itself, a private image, or its memory is among the objects.

    A tensor holds an image if its elements contain all of the image's in order, whatever its shape, or up to a linear map.
    """
    things = list(found.values() if isinstance(found, Mapping) else found)
    if any(isinstance(thing, Secret) for thing in things):
        return True
    private = [image for batch in (secret.images, secret.fed) for image in batch]
    memory = {batch.untyped_storage().data_ptr() for batch in (secret.images, secret.fed)}
    tensors = [thing for thing in things if isinstance(thing, Tensor) and thing.numel()]
    return any(tensor.untyped_storage().data_ptr() in memory or _resembles(tensor, private) for tensor in tensors)


def _resembles(tensor: Tensor, private: list[Tensor]) -> bool:
    size = private[0].numel()
    if tensor.numel() % size:
        return False
    rows = _standardised(tensor.detach().reshape(-1, size).double())
    images = _standardised(torch.stack(private).reshape(-1, size).double())
    return bool((rows @ images.T).abs().max() > 0.95)


def _standardised(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(1, keepdim=True)
    return nn.functional.normalize(centred, dim=1)

"""A bridge to Flower: a client mod that keeps what the client sends, as an `Observation`, next to training.

    keep = keep_update("updates", model="vit_tiny_patch16_224", training=LocalTraining(steps=5, learning_rate=0.01))
    app = ClientApp(mods=[keep])

    privbench audit updates/client-2-round-2.safetensors

Nothing of Flower is imported here: messages are used by what they offer (`content`, `array_records`, `config_records`), so
that the package works without it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from privbench.core import LocalTraining, Normalisation, UserError
from privbench.updates.assemble import UpdateSource, observation_of

__all__ = ["Mod", "keep_update"]

Mod = Callable[[Any, Any, Callable[[Any, Any], Any]], Any]
"""Flower's: `(message, context, call_next) -> message`."""


def keep_update(
    folder: Path | str,
    *,
    model: str,
    training: LocalTraining,
    batch_size: int = 1,
    num_classes: int | None = None,
    image_size: int | None = None,
    normalisation: Normalisation | None = None,
    defense: str = "none",
) -> Mod:
    """A mod that writes one file for every round of training: `client-N-round-M.safetensors`.

    The message's arrays are the weights that the server sent, the reply's those after training, both by name or in the order of
    the model's state. N is the node's partition, or its number where it has none; M the server's round.

    Args:
        folder: Where to; made if need be.
        model: A timm name, or `FILE.py:FUNCTION`.
        training: What the client does.
        batch_size: Images behind an update.
        num_classes: Overrides the architecture's own.
        image_size: The same.
        normalisation: The same.
        defense: What the client declares.

    Returns:
        The mod, for `ClientApp(mods=[...])`.
    """

    def mod(message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        sent = _arrays(message)
        reply = call_next(message, context)
        returned = _arrays(reply)
        if sent is None or returned is None:
            return reply
        source = UpdateSource(
            model=model,
            weights=sent,
            after=returned,
            kind="delta",
            training=training,
            batch_size=batch_size,
            num_classes=num_classes,
            image_size=image_size,
            normalisation=normalisation,
            defense=defense,
        )
        observation, _ = observation_of(source)
        path = Path(folder) / f"client-{_client(context)}-round-{_round(message)}.safetensors"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            observation.save(path)
        except OSError as error:
            raise UserError(f"cannot keep an update in {folder}: {error.strerror or error}; choose another folder") from None
        return reply

    return mod


def _arrays(message: Any) -> Mapping[str, Tensor] | None:
    """The first table of arrays of a message; None where it has none, as in evaluation."""
    records = getattr(message.content, "array_records", {}) if message.has_content() else {}
    record = next(iter(records.values()), None)
    return None if record is None else record.to_torch_state_dict()


def _client(context: Any) -> Any:
    return context.node_config.get("partition-id", context.node_id)


def _round(message: Any) -> Any:
    for record in getattr(message.content, "config_records", {}).values():
        if "server-round" in record:
            return record["server-round"]
    return message.metadata.group_id or 0

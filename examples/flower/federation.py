"""A federation of four clients with a small vision transformer in Flower, three rounds in this process, every update kept.

    python federation.py updates/             # then: privbench audit updates/client-2-round-2.safetensors
    python federation.py private/ --dpsgd     # clients clip and add noise in every step

Every client has one photo and takes three steps of SGD. The client app and its mod are Flower's; a real deployment runs the
same app under `flwr run`. The loop below stands for the server: it sends weights, and averages what comes back.
"""

import argparse
from collections import OrderedDict

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from privbench.client import observe
from privbench.core import LocalTraining, ThreatModel, build_defense, resolve_defense
from privbench.data import open_images
from privbench.models import load_victim, resolve_victim
from privbench.updates import keep_update

MODEL, CLIENTS, ROUNDS = "vit_mini_patch4_32", 4, 3
TRAINING = LocalTraining(steps=3, learning_rate=0.01)


def client_app(folder: str, defense: str) -> ClientApp:
    """A client that trains on its own photo, and keeps what it sends."""
    specs = resolve_defense(defense)
    built = build_defense(specs)
    spec = resolve_victim(MODEL, "embedded", built)
    photos = open_images("photos")
    app = ClientApp(mods=[keep_update(folder, model=MODEL, training=TRAINING, defense=defense)])

    @app.train()  # type: ignore[untyped-decorator]
    def train(message: Message, context: Context) -> Message:
        victim = load_victim(spec, built, generator=torch.Generator().manual_seed(0))
        weights = next(iter(message.content.array_records.values())).to_torch_state_dict()
        victim.network.load_state_dict(weights)
        number = int(context.node_config["partition-id"])
        images, labels = photos.load([number], spec.model.image_size)
        # The same steps as any training loop: privbench's client, so that the defense acts in every one of them.
        update, _ = observe(
            victim,
            spec.model,
            built,
            images,
            labels,
            declared=specs,
            threat_model=ThreatModel(),
            generator=torch.Generator().manual_seed(number),
            training=TRAINING,
        )
        after = {name: value + update.update[f"network.{name}"] for name, value in weights.items()}
        return Message(RecordDict({"arrays": ArrayRecord(OrderedDict(after))}), reply_to=message)

    return app


def federate(folder: str, defense: str = "none") -> dict[str, Tensor]:
    """Runs all rounds; returns the final weights by name."""
    # What `flwr run` sets for a server; messages bear it.
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    app = client_app(folder, defense)
    built = build_defense(resolve_defense(defense))
    victim = load_victim(resolve_victim(MODEL, "embedded", built), built, generator=torch.Generator().manual_seed(0))
    weights = {name: value.detach() for name, value in victim.network.state_dict().items()}
    for number in range(1, ROUNDS + 1):
        replies = []
        for client in range(CLIENTS):
            content = RecordDict(
                {"arrays": ArrayRecord(OrderedDict(weights)), "config": ConfigRecord({"server-round": number})}
            )
            message = Message(content, dst_node_id=client + 1, message_type="train")
            context = Context(
                run_id=1, node_id=client + 1, node_config={"partition-id": client}, state=RecordDict(), run_config={}
            )
            reply = app(message, context)
            replies.append(next(iter(reply.content.array_records.values())).to_torch_state_dict())
        weights = {name: torch.stack([reply[name] for reply in replies]).mean(0) for name in weights}
    return weights


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--dpsgd", action="store_true")
    given = parser.parse_args()
    federate(given.folder, "dpsgd:noise_multiplier=0.1,max_grad_norm=1.0" if given.dpsgd else "none")

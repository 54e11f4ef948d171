"""A federation of four clients with a small vision transformer in Flower, three rounds in this process, every update kept.

    python federation.py updates/             # then: privbench audit updates/client-2-round-2.safetensors
    python federation.py private/ --dpsgd     # clients clip and add noise in every step
    python federation.py updates/ --ray       # the same by Flower's own simulation, in processes of Ray

Every client has one photo and takes three steps of SGD. The client app and its mod are Flower's. By default a loop in this
process stands for the server: it sends weights, and averages what comes back. With `--ray` Flower's server app and FedAvg do.
"""

import argparse
import os
from collections import OrderedDict
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
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
        weight = MetricRecord({"num-examples": len(images)})  # by which FedAvg weighs its mean
        return Message(RecordDict({"arrays": ArrayRecord(OrderedDict(after)), "metrics": weight}), reply_to=message)

    return app


def first_weights(defense: str) -> dict[str, Tensor]:
    """Of the model before the first round, by name."""
    built = build_defense(resolve_defense(defense))
    victim = load_victim(resolve_victim(MODEL, "embedded", built), built, generator=torch.Generator().manual_seed(0))
    return {name: value.detach() for name, value in victim.network.state_dict().items()}


def federate(folder: str, defense: str = "none") -> dict[str, Tensor]:
    """Runs all rounds in this process; returns the final weights by name."""
    # What `flwr run` sets for a server; messages bear it.
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    app, weights = client_app(folder, defense), first_weights(defense)
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


def simulate(folder: str, defense: str = "none") -> dict[str, Tensor]:
    """The same by Flower's simulation: server app, FedAvg, and clients in processes of Ray."""
    from flwr.simulation import run_simulation

    # Ray starts its workers at niceness 15: beside other work on the machine's cores they would get next to no time.
    os.environ.setdefault("RAY_worker_niceness", "0")
    server, final = ServerApp(), dict[str, Tensor]()

    @server.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, _context: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
        arrays = ArrayRecord(OrderedDict(first_weights(defense)))
        final.update(strategy.start(grid=grid, initial_arrays=arrays, num_rounds=ROUNDS).arrays.to_torch_state_dict())

    run_simulation(
        server_app=server,
        client_app=client_app(str(Path(folder).resolve()), defense),
        num_supernodes=CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1}},
    )
    return final


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--dpsgd", action="store_true", help="clients clip and add noise in every step")
    parser.add_argument("--ray", action="store_true", help="Flower's own simulation; needs privbench[ray]")
    given = parser.parse_args()
    run = simulate if given.ray else federate
    run(given.folder, "dpsgd:noise_multiplier=0.1,max_grad_norm=1.0" if given.dpsgd else "none")

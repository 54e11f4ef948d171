"""An attack in a process of its own, which is given a saved observation and nothing else of the run.

In one process the seal of the secret is a convention: Python code can read everything. Here the attack's process has no secret
to read. It may still read files and the network, which only a sandbox of the operating system can take away.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from privbench.core import (
    ATTACKS,
    AttackError,
    ComponentSpec,
    ComputeOptions,
    Failure,
    InferredChoices,
    Observation,
    Reconstruction,
    UserError,
)

__all__ = ["attack_isolated"]

_TASK, _RESULT = "task.json", "result.pt"


def attack_isolated(
    spec: ComponentSpec, observations: Sequence[Observation], *, seeds: Sequence[int], compute: ComputeOptions
) -> Sequence[Reconstruction | Failure] | None:
    """Attacks a group in another process. It reports no progress and keeps no checkpoints.

    Args:
        spec: The attack, with all parameters; built in or of an installed package.
        observations: What it sees.
        seeds: Of the random source of each.
        compute: How to compute; where is where the observations lie.

    Returns:
        As `attacking.attack_group`.

    Raises:
        UserError: The attack does not apply, or is not known to another process.
        AttackError: It broke, or its process died.
    """
    with tempfile.TemporaryDirectory(prefix="privbench-isolated-") as name:
        folder = Path(name)
        for number, observation in enumerate(observations):
            observation.to(torch.device("cpu")).save(folder / f"{number}.safetensors")
        task = {
            "attack": spec.model_dump(mode="json"),
            "seeds": list(seeds),
            "device": str(observations[0].device),
            "compile": compute.compile,
            "precision": compute.precision,
            "threads": torch.get_num_threads(),
        }
        (folder / _TASK).write_text(json.dumps(task), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", "privbench.computing.isolated", name]
        done = subprocess.run(command, cwd=name, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        if not (folder / _RESULT).exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
            raise AttackError(f"the isolated process of attack {spec.name} ended with code {done.returncode}: {last}")
        content = torch.load(folder / _RESULT, map_location=observations[0].device, weights_only=True)
    if "user_error" in content:
        raise UserError(content["user_error"])
    if "attack_error" in content:
        raise AttackError(content["attack_error"])
    return None if content["results"] is None else [_result(one) for one in content["results"]]


def _result(content: dict[str, Any]) -> Reconstruction | Failure:
    if "reason" in content:
        return Failure(content["reason"])
    inferred = InferredChoices(**content.pop("inferred"))
    return Reconstruction(**{**content, "flags": tuple(content["flags"]), "inferred": inferred})


def _plain(result: Reconstruction | Failure) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"reason": result.reason}
    content = {field.name: getattr(result, field.name) for field in fields(result)}
    content["losses"] = {key: float(value) for key, value in result.losses.items()}
    content["flags"] = list(result.flags)
    content["inferred"] = {field.name: getattr(result.inferred, field.name) for field in fields(result.inferred)}
    return content


def _main(folder: Path) -> None:
    """The isolated process."""
    from privbench.computing.attacking import attack_group
    from privbench.core import Progress

    task = json.loads((folder / _TASK).read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    device = torch.device(task["device"])
    content: dict[str, Any]
    try:
        spec = ComponentSpec.model_validate(task["attack"])
        attack = ATTACKS.get(spec.name).configured(spec.parameters)
        seen = [Observation.load(folder / f"{number}.safetensors").to(device) for number in range(len(task["seeds"]))]
        results = attack_group(
            attack,
            seen,
            generators=[torch.Generator().manual_seed(seed) for seed in task["seeds"]],
            progress=Progress(),
            compute=ComputeOptions(devices=(device,), compile=task["compile"], precision=task["precision"]),
        )
        content = {"results": None if results is None else [_plain(result) for result in results]}
    except UserError as error:
        content = {"user_error": str(error)}
    except AttackError as error:
        content = {"attack_error": str(error)}
    torch.save(content, folder / f"{_RESULT}.part")
    (folder / f"{_RESULT}.part").rename(folder / _RESULT)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))

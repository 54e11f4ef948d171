"""A `Case` is the resolved description of one cell of the benchmark; its content hash is its identity.

The hash names the folder, seeds every random choice, and decides whether a cell was computed before. Anything that changes
the numbers belongs in here; anything that does not (device, output folder, verbosity) stays out.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field, ValidationError

from privbench.core.component import one_line
from privbench.core.errors import UserError
from privbench.core.local_training import LocalTraining
from privbench.core.model_spec import ModelSpec
from privbench.core.spec import ComponentSpec
from privbench.core.stored import StrictPart, yaml_fields
from privbench.core.threat_model import ThreatModel

if TYPE_CHECKING:
    import torch

__all__ = ["CASE_SCHEMA", "Case", "DataSpec", "VictimSpec", "base_name", "generator_for"]

CASE_SCHEMA: Literal[1] = 1
"""Version of the case's fields; a file of another version is refused by name."""


class VictimSpec(StrictPart):
    """The client's model and where its weights come from."""

    model: ModelSpec
    weights: str = "embedded"
    """`embedded`, `random`, `pretrained` (timm's hub) or the name of a file."""
    weights_sha256: str | None = None
    """Content of the weights, None for random ones (they follow from the seed)."""

    def without_paths(self) -> "VictimSpec":
        """The same with weights by name alone; beside the name is a hash."""
        return self.model_copy(update={"weights": base_name(self.weights)})


class DataSpec(StrictPart):
    """Which private images."""

    source: str = "photos"
    """A registered data set or the name of a folder or file."""
    split: str = "test"
    indices: tuple[int, ...] = Field(min_length=1)
    """Positions in the data set, in the order in which batches are formed."""
    sha256: str
    """Content of the selected images after resizing, and of their labels."""


class Case(StrictPart):
    """One cell: defense x attack x victim x data x threat model x seed."""

    schema_version: Literal[1] = CASE_SCHEMA
    attack: ComponentSpec
    defense: tuple[ComponentSpec, ...] = Field(min_length=1)
    victim: VictimSpec
    data: DataSpec
    batch_size: int = Field(default=1, gt=0)
    threat_model: ThreatModel = ThreatModel()
    local: LocalTraining | None = None
    """How the client trains before it sends a weight delta; None: it sends the gradient of one step."""
    trains: str | None = Field(default=None, min_length=1, max_length=1000)
    """Which parameters the client trains and sends, as parts or patterns of names; None: all of them."""
    server: ComponentSpec | None = None
    """What the server does to the model before it sends it; None: it is honest."""
    prior_weights: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the weights behind the attack's image priors, by what its parameters call them; timm's hub is left out."""
    lpips: Literal["alex", "vgg", "squeeze"] = "alex"
    seed: int = Field(default=0, ge=0, lt=2**31)

    @property
    def identity(self) -> str:
        """Content hash: 12 hexadecimal digits."""
        return hashlib.sha256(_canonical(self).encode()).hexdigest()[:12]

    @property
    def defense_text(self) -> str:
        """The composed defense as a user would write it, all parameters shown."""
        return "+".join(str(part) for part in self.defense)

    @property
    def defense_name(self) -> str:
        """The names of the composed defenses, without parameters."""
        return "+".join(part.name for part in self.defense)

    @property
    def folder(self) -> str:
        """Folder name: what the case is, readable, and its identity."""
        data = base_name(self.data.source)
        words = (self.defense_name, self.attack.name, self.threat_model.adversary, self.victim.model.name, data)
        readable = "--".join(re.sub(r"[^A-Za-z0-9.+_-]+", "-", word) for word in words)
        return f"{readable}--{self.identity}"

    def without_paths(self) -> "Case":
        """The same case with data set and weights by name alone, as a record has it; beside the names is a hash."""
        changed = {
            "data": self.data.model_copy(update={"source": base_name(self.data.source)}),
            "victim": self.victim.without_paths(),
        }
        if self.prior_weights:
            parameters = _without_folders(self.attack.parameters, self.prior_weights)
            changed["attack"] = self.attack.model_copy(update={"parameters": parameters})
            changed["prior_weights"] = _without_folders(self.prior_weights, self.prior_weights)
        return self.model_copy(update=changed)

    def to_yaml(self) -> str:
        """The case as YAML, to be fed back with `--config`."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, path: Path) -> "Case":
        """Reads a resolved case.

        Raises:
            UserError: The file cannot be read, is of another schema version, or a field is wrong.
        """
        content = yaml_fields(path, "case", "is not a case", cls.model_fields)
        version = content.get("schema_version")
        if version != CASE_SCHEMA:
            raise UserError(f"{path} has case schema {version!r}, this version reads {CASE_SCHEMA}; write it again")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise UserError(f"{path}: {one_line(error)}") from None


@lru_cache(maxsize=4096)
def base_name(path: str) -> str:
    """The last part of a path, by which a record calls data and weights."""
    return Path(path).name


def _without_folders(value: Any, priors: Collection[str]) -> Any:
    """A value in which image priors are called by their files' names alone, wherever they stand."""
    if isinstance(value, Mapping):
        return {_without_folders(key, priors): _without_folders(one, priors) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(one, priors) for one in value]
    if isinstance(value, str) and value in priors:
        network, colon, file = value.partition(":")
        return f"{network}{colon}{base_name(file)}" if file else value
    return value


_ATTACKER_SIDE = {"attack": True, "threat_model": {"labels", "adversary", "training"}, "lpips": True}
"""What the client's random choices must not depend on."""

_LATER_FIELDS: dict[str, Any] = {"local": None, "trains": None, "server": None, "prior_weights": {}}
_LATER_THREATS = {"training": "known", "server": "honest"}

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))

_SELECTION = {"indices", "sha256"}
"""Which other images a case has, on which nothing random may depend."""
_NEVER_RANDOM = {"data": _SELECTION, "prior_weights": True}
"""What no random choice depends on; an attack starts from the same noise whatever its prior has learnt."""


def _canonical(case: Case, leave_out: Mapping[str, Any] | None = None) -> str:
    content = case.model_dump(mode="json", exclude=dict(leave_out) if leave_out else None)
    # Where a file lies does not change the numbers; its content does, and that is hashed beside it.
    content["data"]["source"] = base_name(case.data.source)
    content["victim"]["weights"] = base_name(case.victim.weights)
    if case.prior_weights:
        priors = case.prior_weights
        content |= {key: _without_folders(content[key], priors) for key in ("attack", "prior_weights") if key in content}
    # What came later is left out where it is as it was before, so that cases of earlier versions keep their identity.
    for part, defaults in (
        (content, _LATER_FIELDS),
        (content.get("threat_model", {}), _LATER_THREATS),
    ):
        for name, default in defaults.items():
            if part.get(name, default) == default:
                part.pop(name, None)
    return _ENCODER.encode(content)


def generator_for(case: Case, role: Literal["client", "attack"], batch: int) -> "torch.Generator":
    """The random source of one side for one batch of a case.

    The two sides are separate streams, so that an attack cannot replay the client's random choices. The client's stream
    depends on nothing of the attacker, so that all attacks and adversaries face the same masks, orders and noise. Neither
    depends on which other images the case has: a batch is the same client and the same attack in a case of any size.

    Returns:
        A CPU generator; equal arguments give equal streams on every machine.
    """
    described = _canonical(case, {**_NEVER_RANDOM, **(_ATTACKER_SIDE if role == "client" else {})})
    indices = case.data.indices[batch * case.batch_size : (batch + 1) * case.batch_size]
    digest = hashlib.sha256(f"{described}|{role}|{','.join(map(str, indices))}".encode()).digest()
    import torch  # reading a case needs none

    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

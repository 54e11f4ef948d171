"""The contract of a server that cheats: it changes the model that it sends, so that the client's update shows more."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from privbench.core.component import Component
from privbench.core.registry import SERVERS
from privbench.core.spec import ComponentSpec

__all__ = ["Server", "build_server"]


class Server(Component, ABC):
    """Base class of malicious servers; an attack that reads what it planted belongs to each."""

    kind: ClassVar[str] = "server"
    attack: ClassVar[str]
    """Registered name of the attack that reads the update."""

    def prepare_model(self, model: nn.Module) -> None:
        """Adds to the architecture, in place; called before weights are loaded, and by attackers too.

        Raises:
            UserError: It does not fit this model.
        """

    @abstractmethod
    def poison(self, model: nn.Module, generator: torch.Generator, public: Tensor | None = None) -> None:
        """Changes weights, in place; called once they are loaded.

        Args:
            model: The victim.
            generator: Source of random choices.
            public: `[n, 3, height, width]` in [0, 1], images like the private ones that the server has; None: it has none.

        Raises:
            UserError: It does not fit this model.
        """


def build_server(spec: ComponentSpec | None) -> Server | None:
    """The server that a resolved specification stands for; None is an honest one.

    Raises:
        UserError: A name or a parameter is not accepted.
    """
    if spec is None:
        return None
    server: Server = SERVERS.get(spec.name).configured(spec.parameters)
    return server

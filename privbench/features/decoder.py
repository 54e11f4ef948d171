"""Inversion of features by a decoder that is trained on public images (after Dosovitskiy and Brox, CVPR 2016), kept small.

What the decoder learns from depends on the adversary. The unaware takes features with one draw of its own, for all images. The
aware simulates the client with a new draw for every batch, and so learns to average. The oracle starts there and goes on with
the draw that it was told.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.core import Component, FeatureObservation, Reconstruction, UserError
from privbench.features.client import FeatureSimulation, simulate_features

__all__ = ["FeatureDecoder", "TokenDecoder"]


class TokenDecoder(nn.Module):
    """From tokens to an image: each patch from its token, then corrected by its neighbours.

    Args:
        width: Of a token.
        grid: Rows and columns of patches.
        patch_size: Side of a patch in pixels.
        channels: Of the hidden layers.
        prefix: Tokens before the first patch.
    """

    def __init__(self, width: int, grid: tuple[int, int], patch_size: int, channels: int, prefix: int) -> None:
        super().__init__()
        self.grid, self.prefix = grid, prefix
        self.norm = nn.LayerNorm(width)
        self.patches = nn.Sequential(
            nn.Conv2d(width, channels, 1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, 3 * patch_size**2, 1),
            nn.PixelShuffle(patch_size),
        )
        self.correction = nn.Sequential(nn.Conv2d(3, 24, 5, padding=2), nn.GELU(), nn.Conv2d(24, 3, 5, padding=2))

    def forward(self, features: Tensor) -> Tensor:
        """`[batch, tokens, width]` to `[batch, 3, height, width]`, about in [0, 1]."""
        tokens = self.norm(features[:, self.prefix :]).mT.unflatten(2, self.grid)
        image = 0.5 + self.patches(tokens)
        corrected: Tensor = image + self.correction(image)
        return corrected


class FeatureDecoder(Component):
    """A decoder trained on public images, whose features the attacker computes itself."""

    name: ClassVar[str] = "feature-decoder"
    kind: ClassVar[str] = "attack"

    steps: Annotated[int, Field(gt=0)] = 1500
    """Training steps."""
    told_steps: Annotated[int, Field(ge=0)] = 200
    """Further steps of the oracle, with the client's draw."""
    batch_size: Annotated[int, Field(gt=0)] = 64
    """Public images in a step."""
    channels: Annotated[int, Field(gt=0)] = 96
    """Width of the decoder."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """AdamW's largest learning rate; falls to 0 along a cosine."""

    def train(
        self, observation: FeatureObservation, public: Tensor, *, generator: torch.Generator
    ) -> tuple[FeatureSimulation, TokenDecoder]:
        """A decoder for clients like this one; it depends on the observation's model, defense and adversary alone.

        Args:
            observation: Of one client.
            public: `[n, 3, height, width]` uint8, images of anybody.
            generator: Source of start and batches.

        Returns:
            The simulated client, and the decoder.

        Raises:
            UserError: The model has no patches.
        """
        simulation = simulate_features(observation)
        model = simulation.model
        if model.patch_size is None or model.grid is None:
            raise UserError(f"attack {self.name} needs a vision transformer with patches; choose a timm vit_* or deit_* model")
        prefix = observation.features.shape[1] - model.patch_count
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            decoder = TokenDecoder(observation.features.shape[2], model.grid, model.patch_size, self.channels, prefix)
        decoder.to(observation.device)
        self._fit(
            simulation,
            decoder,
            public,
            self.steps,
            self.learning_rate,
            drawn=observation.threat_model.knows_defense,
            generator=generator,
        )
        return simulation, decoder

    def run(self, observation: FeatureObservation, public: Tensor, *, generator: torch.Generator) -> Reconstruction:
        """Trains a decoder and applies it; `decode` applies one that was trained before."""
        _, decoder = self.train(observation, public, generator=generator)
        return self.decode(observation, decoder, public, generator=generator)

    def decode(
        self, observation: FeatureObservation, decoder: TokenDecoder, public: Tensor, *, generator: torch.Generator
    ) -> Reconstruction:
        """What a trained decoder makes of the features; an oracle first goes on training with the draw that it was told.

        Args:
            observation: What the attacker saw.
            decoder: From `train`.
            public: As there.
            generator: Source of batches.

        Raises:
            UserError: An oracle was told draws of several images: a decoder is fitted to one.
        """
        simulation, steps = simulate_features(observation), 0
        if observation.disclosed and self.told_steps:
            if observation.batch_size > 1:
                raise UserError(f"attack {self.name} as an oracle takes one image, given {observation.batch_size}")
            steps, rate = self.told_steps, self.learning_rate / 4
            self._fit(simulation, decoder, public, steps, rate, drawn=False, generator=generator)
        with torch.no_grad():
            images = decoder(observation.features).clamp(0, 1)
        flags = simulation.view.flags(simulation.view.inferred)
        return Reconstruction(images, steps=self.steps + steps, flags=flags)

    def _fit(
        self,
        simulation: FeatureSimulation,
        decoder: TokenDecoder,
        public: Tensor,
        steps: int,
        rate: float,
        *,
        drawn: bool,
        generator: torch.Generator,
    ) -> None:
        optimiser = torch.optim.AdamW(decoder.parameters(), lr=rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps + 1)
        for _ in range(steps):
            chosen = torch.randint(len(public), (self.batch_size,), generator=generator)
            images = public[chosen].to(simulation.observation.device, torch.float32) / 255
            with torch.no_grad():
                features = simulation.drawn_features(images, generator) if drawn else simulation.features(images)
            optimiser.zero_grad()
            nn.functional.mse_loss(decoder(features), images).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()

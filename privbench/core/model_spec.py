"""What a model is: `ModelSpec`."""

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ModelSpec"]


class ModelSpec(BaseModel):
    """The architecture that the server sent, enough to rebuild the module; the weights travel as `Observation.model_state`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    num_classes: int = Field(gt=1, le=1_000_000)
    image_size: int = Field(gt=0, le=4096)
    """Height and width of the input in pixels."""

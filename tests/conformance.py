"""What tests share with the rules of `privbench check`: small client updates, and the walk that looks for a private image."""

from privbench.conformance.harness import Update, client_update, round_trip, simulated_gradients, some_images
from privbench.conformance.seal import holds_image, reachable

__all__ = ["Update", "client_update", "holds_image", "reachable", "round_trip", "simulated_gradients", "some_images"]

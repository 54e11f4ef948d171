"""The order of shuffled patches from their borders, and of pixels permuted inside patches."""

from privbench.jigsaw.pixel_order import unscrambled
from privbench.jigsaw.reassembly import Assembly, reassemble, reassembled

__all__ = [
    "Assembly",
    "reassemble",
    "reassembled",
    "unscrambled",
]

"""All patches of a batch together, from the whole update: Gauss-Newton on every pixel.

Where a token's own gradient is small, a closed form of the first block gives its patch badly, and through the attention its
error spreads to the other patches of its image. The gradients of all layers depend on all patches, and are far more equations
than there are pixels. What the rounding of the client's softmax may have changed is left out of them: of a label that the model
is sure of it is most of what float32 loses. Each step is solved by LSQR (Paige and Saunders, ACM TOMS 1982), preconditioned by
a random sketch of the derivative (Avron, Maymounkov and Toledo, SIAM J. Sci. Comput. 2010) where the pixels are few enough for
a matrix, else with pixels in units of how badly their patch is known, so that what is known well moves least. Ours.
"""

from privbench.refinement.solve import refined
from privbench.refinement.update import rest_of, unexplained

__all__ = ["refined", "rest_of", "unexplained"]

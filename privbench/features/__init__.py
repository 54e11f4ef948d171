"""Feature privacy: what the features behind a block give away of an image, the claim of stochastic layers (arXiv 2112.15111).

`observe_features` is the client, `FeatureMatching` and `FeatureDecoder` attack it, `feature_study` scores them side by side.
"""

from privbench.features.client import FeatureSimulation, block_features, observe_features, simulate_features
from privbench.features.decoder import FeatureDecoder
from privbench.features.matching import FeatureMatching
from privbench.features.study import FEATURE_ATTACKS, FeatureResults, FeatureRow, feature_attack, feature_study

__all__ = [
    "FEATURE_ATTACKS",
    "FeatureDecoder",
    "FeatureMatching",
    "FeatureResults",
    "FeatureRow",
    "FeatureSimulation",
    "block_features",
    "feature_attack",
    "feature_study",
    "observe_features",
    "simulate_features",
]

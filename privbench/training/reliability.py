"""Whether a classifier's confidence can be relied on, as ImageNet-A and -O measure it (Hendrycks et al., CVPR 2021).

Of any labelled images: RMS calibration error and AURRA. Of images of none of the classes beside images of them: AUPR.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from privbench.core import UserError

__all__ = ["LEAST_IMAGES", "area_under_response_rate", "detection_precision", "rms_calibration_error"]

_BIN = 100
"""Images in a bin of the calibration error; the last one takes the rest."""
LEAST_IMAGES = 2 * _BIN
"""With fewer there is one bin, in which too sure and too unsure cancel."""


def rms_calibration_error(confidence: Tensor, correct: Tensor, bin_size: int = _BIN) -> float:
    """The root of the mean squared gap between confidence and accuracy, in bins of equally many images (adaptive bins).

    The released code of the data sets leaves its last bin out of the sum; here it counts.

    Args:
        confidence: `[n]` in [0, 1], of the predicted class.
        correct: `[n]` bool.
        bin_size: Images in a bin.

    Returns:
        In [0, 1]; 0 for a classifier that is right as often as it says.
    """
    order = _array(confidence).argsort(kind="stable")
    sure, right = _array(confidence)[order], _array(correct)[order]
    starts = np.arange(max(1, len(sure) // bin_size)) * bin_size
    counts = np.diff(np.append(starts, len(sure)))
    gaps = (np.add.reduceat(sure, starts) - np.add.reduceat(right, starts)) / counts
    return float(np.sqrt((counts * gaps**2).sum() / len(sure)))


def area_under_response_rate(confidence: Tensor, correct: Tensor) -> float:
    """AURRA: the accuracy on the images of which the classifier is surest, averaged over how many are asked.

    Args:
        confidence: `[n]` in [0, 1], of the predicted class.
        correct: `[n]` bool.

    Returns:
        In [0, 1]; the accuracy itself where confidence tells nothing.
    """
    order = (-_array(confidence)).argsort(kind="stable")
    right = _array(correct)[order].cumsum()
    return float((right / np.arange(1, len(right) + 1)).mean())


def detection_precision(known: Tensor, unknown: Tensor) -> float:
    """AUPR: how well low confidence finds images that belong to none of the classes; needs scikit-learn (extra `utility`).

    Args:
        known: `[n]` confidence of images of the classes.
        unknown: `[m]` confidence of images of none of them, which are what is to be found.

    Returns:
        Average precision in [0, 1]; `m / (n + m)` by chance.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import average_precision_score
    except ImportError as error:
        raise UserError(f"AUPR needs scikit-learn ({error}); pip install 'privbench[utility]'") from None
    strange = np.concatenate([np.zeros(len(known)), np.ones(len(unknown))])
    return float(average_precision_score(strange, -np.concatenate([_array(known), _array(unknown)])))


def _array(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()

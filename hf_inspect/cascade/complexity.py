"""An image -> how much there is in it, in [0, 1]: SAEC's five terms on a 192 x 192 grey copy.

Each term is divided by the largest value it can take, so none saturates and none outweighs its weight.
"""

import numpy as np
from numpy.typing import NDArray

from hf_inspect.errors import DataError

SIDE = 192
WEIGHTS = {"entropy": 0.30, "edges": 0.25, "laplacian": 0.20, "gradient": 0.15, "jpeg": 0.10}
CANNY_LOW, CANNY_HIGH = 64, 128
JPEG_QUALITY = 30
LARGEST_RESPONSE = 4 * 255  # of the 3 x 3 Laplacian (1, 1, -4, 1, 1) and of either 3 x 3 Sobel on 8-bit grey


def complexity(rgb: NDArray[np.uint8]) -> float:
    """Weighted sum of `complexity_terms`, in [0, 1]; 0 for a flat image."""
    terms = complexity_terms(rgb)
    return float(sum(weight * terms[name] for name, weight in WEIGHTS.items()))


def complexity_terms(rgb: NDArray[np.uint8]) -> dict[str, float]:
    """The five terms of an RGB image (h, w, 3) uint8, each in [0, 1].

    entropy: of the 256 grey levels / log 256. edges: share of Canny(64, 128) pixels. laplacian: log(1 + variance)
    / log(1 + 1020^2), the largest variance that responses of +-1020 can have; SAEC's / 8 leaves [0, 1] on fine
    texture. gradient: mean of |Sobel x| and |Sobel y| / 1020. jpeg: mean |x - JPEG30(x)| / 255.
    """
    grey = _grey(rgb)
    return {
        "entropy": _entropy(grey),
        "edges": _edges(grey),
        "laplacian": _laplacian(grey),
        "gradient": _gradient(grey),
        "jpeg": _jpeg_residual(grey),
    }


def _grey(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise DataError(f"Complexity got {rgb.dtype} of shape {rgb.shape}; RGB uint8 (h, w, 3) is wanted.")
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _entropy(grey: NDArray[np.uint8]) -> float:
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    share = share[share > 0]
    return min(1.0, max(0.0, float(-(share * np.log(share)).sum() / np.log(256))))  # rounding may leave 1 + 1e-16


def _edges(grey: NDArray[np.uint8]) -> float:
    import cv2

    return float(cv2.Canny(grey, CANNY_LOW, CANNY_HIGH).mean() / 255)


def _laplacian(grey: NDArray[np.uint8]) -> float:
    import cv2

    variance = float(cv2.Laplacian(grey, cv2.CV_64F).var())
    return float(np.log1p(variance) / np.log1p(LARGEST_RESPONSE**2))


def _gradient(grey: NDArray[np.uint8]) -> float:
    import cv2

    across, down = cv2.Sobel(grey, cv2.CV_64F, 1, 0), cv2.Sobel(grey, cv2.CV_64F, 0, 1)
    return float((np.abs(across).mean() + np.abs(down).mean()) / (2 * LARGEST_RESPONSE))


def _jpeg_residual(grey: NDArray[np.uint8]) -> float:
    import cv2

    _, coded = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), dtype=np.float64)
    return float(np.abs(grey - decoded).mean() / 255)

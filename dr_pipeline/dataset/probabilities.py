"""Sparse class probabilities: of each view the K largest, the largest first, and whose classes they are.

The rest of a view's probability belongs to the classes that are not stored.

Shapes: N views, K probabilities, M classes.
"""

import numpy as np


def find_fault(values_NK: np.ndarray, indices_NK: np.ndarray, num_classes: int | None, tolerance: float) -> str | None:
    """A sentence about the first row that holds no probabilities; None where all do.

    `num_classes`: M, where it is known; `tolerance`: how far rounding may take a sum above 1.
    """
    sorted_NK = np.sort(indices_NK, axis=1)
    faults = {
        "holds NaN, or a probability below 0": ~(values_NK >= 0).all(axis=1),
        "sums to more than 1": values_NK.sum(axis=1, dtype=np.float64) > 1 + tolerance,
        "is not sorted, the largest first": (np.diff(values_NK, axis=1) > 0).any(axis=1),
        "names a class twice": (np.diff(sorted_NK, axis=1) == 0).any(axis=1),
        f"names a class that is none of the {num_classes or ''} there are": (indices_NK < 0).any(axis=1)
        | (indices_NK >= (num_classes or np.inf)).any(axis=1),
    }
    for fault, is_at_fault_N in faults.items():
        if is_at_fault_N.any():
            return f"row {int(is_at_fault_N.argmax())} {fault}"
    return None


def densified(
    stored: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], num_classes: int
) -> np.ndarray:
    """Values and indices [N, K] → probabilities [N, M], as near to `other`'s as what is stored allows.

    Of a class that is stored on the other side alone no more is known than that it has at most the smallest stored
    probability; of one that is stored on neither side nothing is, and it is 0.
    """
    values_NK, indices_NK = stored
    dense_NM = np.zeros((len(values_NK), num_classes), np.float32)
    np.put_along_axis(dense_NM, other[1], np.minimum(other[0], values_NK[:, -1:]), axis=1)
    np.put_along_axis(dense_NM, indices_NK, values_NK, axis=1)
    return dense_NM

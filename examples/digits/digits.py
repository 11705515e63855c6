"""The handlers of the digits pipeline: an image of a handwritten digit in, what it shows out.

A message starts as `{"name": ..., "data": <64 bytes>}`, as `asya send` makes it of a file: an 8x8 image, one byte a
pixel. Binary parts are views of shared memory: `.numpy()` looks at them where they lie.
"""

from __future__ import annotations

import numpy as np

SIDE = 8
# The largest value of a pixel in this data set.
WHITE = 16


def prepare(payload: dict) -> dict:
    """Scale the pixels to 0..1: the array travels on as binary."""
    image = payload["data"].numpy()
    if image.size != SIDE * SIDE:
        raise ValueError(f"{payload['name']} has {image.size} pixels, not {SIDE * SIDE}")
    return {"name": payload["name"], "pixels": image.astype(np.float32).reshape(SIDE, SIDE) / WHITE}


class Classifier:
    """Trains once, when its worker starts, on the first half of the data. It never sees a label of the second half."""

    def __init__(self) -> None:
        # Here and not above: the other two actors need no scikit-learn.
        from sklearn.datasets import load_digits
        from sklearn.svm import SVC

        digits = load_digits()
        half = len(digits.target) // 2
        self.model = SVC(C=10).fit(digits.data[:half] / WHITE, digits.target[:half])

    def classify(self, payloads: list[dict]) -> list[dict]:
        """One call for a whole batch: one product of matrices instead of many."""
        images = np.stack([payload["pixels"].numpy().reshape(-1) for payload in payloads])
        scores = self.model.decision_function(images)
        best = np.sort(scores, axis=1)
        margins = best[:, -1] - best[:, -2]
        digits = self.model.classes_[scores.argmax(axis=1)]
        return [
            {"name": payload["name"], "digit": int(digit), "margin": float(margin)}
            for payload, digit, margin in zip(payloads, digits, margins)
        ]


def report(payload: dict) -> dict:
    """Plain JSON for whoever reads the results."""
    return {"name": payload["name"], "digit": payload["digit"], "sure": payload["margin"] > 0.5}

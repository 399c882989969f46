"""Write digits.npz: scikit-learn's handwritten digits as 8-bit pixels, in a fixed split.

The 1,797 images of 8x8 pixels are the test part of the UCI data set "Optical Recognition of
Handwritten Digits" (E. Alpaydin and C. Kaynak, CC BY 4.0), which scikit-learn carries in its wheel.
Its pixels run from 0 to 16; here they are spread over 0 to 255, as a camera would give them.

Run: python examples/digits/data.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TEST_IMAGES = 500
SPLIT_SEED = 0


def load_split() -> dict[str, npt.NDArray[np.uint8]]:
    """The split, stratified by digit.

    Returns:
        x_train (1297, 1, 8, 8) and x_test (500, 1, 8, 8), uint8 pixels 0..255, and the digits
        y_train (1297,) and y_test (500,).
    """
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = digits.target.astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(
        pixels, labels, test_size=TEST_IMAGES, random_state=SPLIT_SEED, stratify=labels
    )
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def main() -> None:
    """Write digits.npz beside this file."""
    path = Path(__file__).with_name("digits.npz")
    np.savez_compressed(path, **load_split())
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

"""Changed copies of training records, on which a student of cross-distillation is trained in their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tfmiaq._checks import check_fields, real

Change = Callable[[np.ndarray, int], np.ndarray]


def _uniform(number: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(number).random(shape, np.float32)


@dataclasses.dataclass(frozen=True)
class FeaturesDropped:
    """Sets some features of each record to 0: for binary records, in which 0 is the absence of something.

    Example:
        >>> copies = tfmiaq.training.FeaturesDropped(0.3)(x, 0)

    Attributes:
        part: Part of the features that is set to 0, above 0 and below 1.

    Raises:
        InvalidArgumentError: A part out of its range.
    """

    part: float = 0.3

    def __post_init__(self) -> None:
        check_fields(self, part=real(0, 1, closed="neither"))

    def __call__(self, x: np.ndarray, number: int) -> np.ndarray:
        """Returns the copies of records with a number, of their shape and type; another number gives other ones."""
        return np.where(_uniform(number, x.shape) < self.part, np.zeros((), x.dtype), x)


@dataclasses.dataclass(frozen=True)
class FeaturesExchanged:
    """Exchanges some features of each record with those of another one: for tables of any numbers.

    Example:
        >>> copies = tfmiaq.training.FeaturesExchanged(0.2)(x, 0)

    Attributes:
        part: Part of the features that comes from another record, above 0 and below 1.

    Raises:
        InvalidArgumentError: A part out of its range.
    """

    part: float = 0.2

    def __post_init__(self) -> None:
        check_fields(self, part=real(0, 1, closed="neither"))

    def __call__(self, x: np.ndarray, number: int) -> np.ndarray:
        """Returns the copies of records with a number, of their shape and type; another number gives other ones."""
        others = np.random.default_rng([number, len(x)]).permutation(len(x))
        return np.where(_uniform(number, x.shape) < self.part, x[others], x)


@dataclasses.dataclass(frozen=True)
class ImagesShifted:
    """Shifts each image by some pixels, and mirrors half of them where that is asked for; what comes in is 0.

    With `mirror` it is what `flips_and_shifts` does as Keras layers, for the `augment` of a recipe.

    Example:
        >>> copies = tfmiaq.training.ImagesShifted(mirror=True)(images, 0)

    Attributes:
        distance: Largest shift, a part of height and of width, from 0 to 1.
        mirror: Whether half of the images are mirrored: for photos, not for digits.

    Raises:
        InvalidArgumentError: A distance out of its range.
        ValueError: Records that are no images, shape (n, height, width, channels).
    """

    distance: float = 0.125
    mirror: bool = False

    def __post_init__(self) -> None:
        check_fields(self, distance=real(0, 1))

    def __call__(self, x: np.ndarray, number: int) -> np.ndarray:
        """Returns the copies of images with a number, of their shape and type; another number gives other ones."""
        if x.ndim != 4:
            raise ValueError(
                f"ImagesShifted: Expected images, shape (n, height, width, channels). Received shape {x.shape}."
            )
        generator = np.random.default_rng(number)
        height, width = x.shape[1:3]
        down, right = (int(self.distance * size) for size in (height, width))
        padded = np.pad(x, ((0, 0), (down, down), (right, right), (0, 0)))
        tops = generator.integers(0, 2 * down + 1, len(x))
        lefts = generator.integers(0, 2 * right + 1, len(x))
        mirrored = (generator.random(len(x)) < 0.5) & self.mirror
        copies = np.empty_like(x)
        for copy, image, top, left, mirror in zip(copies, padded, tops, lefts, mirrored):
            moved = image[top : top + height, left : left + width]
            copy[...] = moved[:, ::-1] if mirror else moved
        return copies


def change_for(x: np.ndarray) -> Any:
    """Returns how records are changed where nothing else is said, by their shape and values.

    Images are shifted; of binary records features are dropped; of all others they are exchanged.
    """
    if x.ndim == 4:
        return ImagesShifted()
    return FeaturesDropped() if np.all((x == 0) | (x == 1)) else FeaturesExchanged()

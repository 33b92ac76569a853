"""Changed copies of training records, on which a student of cross-distillation is trained in their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tfmiaq._checks import InvalidArgumentError, check_fields, real

Change = Callable[[np.ndarray, int], np.ndarray]


def _chosen(owner: str, x: np.ndarray, part: float, number: int) -> np.ndarray:
    """Returns which features of which records are changed: shape (n, ...), bool."""
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{owner}: Expected records of numbers. Received records of type {x.dtype}.")
    return np.random.default_rng(number).random(x.shape, np.float32) < part


def are_bits(x: np.ndarray) -> bool:
    """Returns whether records hold nothing but 0 and 1."""
    return x.dtype.kind in "biuf" and bool(np.all((x == 0) | (x == 1)))


@dataclasses.dataclass(frozen=True)
class FeaturesDropped:
    """Sets some features of each record to 0: for binary records, in which 0 is the absence of something.

    Example:
        >>> copies = tfmiaq.training.FeaturesDropped(0.3)(x, 0)

    Attributes:
        part: Part of the features that is set to 0, above 0 and below 1.

    Raises:
        InvalidArgumentError: A part out of its range.
        ValueError: Records that are no numbers.
    """

    part: float = 0.3

    def __post_init__(self) -> None:
        check_fields(self, part=real(0, 1, closed="neither"))

    def __call__(self, x: np.ndarray, number: int) -> np.ndarray:
        """Returns the copies of records with a number, of their shape and type; another number gives other ones."""
        return np.where(_chosen("FeaturesDropped", x, self.part, number), np.zeros((), x.dtype), x)


@dataclasses.dataclass(frozen=True)
class FeaturesExchanged:
    """Exchanges some features of each record, each with that of a record of its own: for tables of any numbers.

    The other records are members too, and the record's teachers have seen most of them: so each feature comes from
    another one. How much such copies leak is not measured.

    Example:
        >>> copies = tfmiaq.training.FeaturesExchanged(0.2)(x, 0)

    Attributes:
        part: Part of the features that comes from other records, above 0 and up to 0.5.

    Raises:
        InvalidArgumentError: A part out of its range.
        ValueError: Records that are no numbers, or of fewer than two features.
    """

    part: float = 0.2

    def __post_init__(self) -> None:
        check_fields(self, part=real(0, 0.5, closed="right"))

    def __call__(self, x: np.ndarray, number: int) -> np.ndarray:
        """Returns the copies of records with a number, of their shape and type; another number gives other ones."""
        if x.ndim < 2 or x[:1].size < 2:
            raise ValueError(
                "FeaturesExchanged: Expected records of two features or more, shape (n, ...). Received shape "
                f"{x.shape}."
            )
        exchanged = _chosen("FeaturesExchanged", x, self.part, number)
        others = np.random.default_rng([number, len(x)]).integers(len(x), size=x.shape)
        return np.where(exchanged, np.take_along_axis(x, others, axis=0), x)


@dataclasses.dataclass(frozen=True)
class ImagesShifted:
    """Shifts each image by some pixels, and mirrors half of them where that is asked for; what comes in is 0.

    With `mirror` it is what `flips_and_shifts` does as Keras layers, for the `augment` of a recipe.

    Example:
        >>> copies = tfmiaq.training.ImagesShifted(mirror=True)(images, 0)

    Attributes:
        distance: Largest shift, a part of height and of width, from 0 to 1; above 0 it is a pixel at least.
        mirror: Whether half of the images are mirrored: for photos, not for digits.

    Raises:
        InvalidArgumentError: A distance out of its range, or a mirror that is neither True nor False.
        ValueError: Records that are no images, shape (n, height, width, channels).
    """

    distance: float = 0.125
    mirror: bool = False

    def __post_init__(self) -> None:
        check_fields(self, distance=real(0, 1))
        if not isinstance(self.mirror, (bool, np.bool_)):
            raise InvalidArgumentError(
                f"ImagesShifted: Expected mirror to be True or False. Received {self.mirror!r:.99}."
            )

    def __call__(self, x: np.ndarray, number: int) -> np.ndarray:
        """Returns the copies of images with a number, of their shape and type; another number gives other ones."""
        if x.ndim != 4:
            raise ValueError(
                f"ImagesShifted: Expected images, shape (n, height, width, channels). Received shape {x.shape}."
            )
        generator = np.random.default_rng(number)
        height, width = x.shape[1:3]
        down, right = (max(int(self.distance * size), self.distance > 0) for size in (height, width))
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
    return FeaturesDropped() if are_bits(x) else FeaturesExchanged()

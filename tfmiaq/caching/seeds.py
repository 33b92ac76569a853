"""A secret that a folder keeps, and the seeds of a call."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import secrets
import tempfile
from typing import Any, Optional

from tfmiaq.loading.limits import read_text

_BITS = 128
_LONGEST = 64


def kept_secret(folder: Any) -> int:
    """Returns the secret that a folder keeps in its file `secret`, below 2**128, or draws one at the first call.

    Args:
        folder: Path of the folder, which exists.

    Raises:
        ValueError: A file that holds no such number.
    """
    path = pathlib.Path(folder) / "secret"
    if not path.exists():
        # Nobody else may read it, and of two calls at once one wins.
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{secrets.randbits(_BITS)}\n")
        try:
            os.link(unfinished, path)
        except FileExistsError:
            pass  # Another call was first.
        except OSError:
            os.replace(unfinished, path)  # Not all file systems have links.
        finally:
            pathlib.Path(unfinished).unlink(missing_ok=True)
    text = read_text(path, "A folder's secret", _LONGEST).strip()
    if not text.isascii() or not text.isdigit() or int(text) >= 2**_BITS:
        raise ValueError(
            f"A folder's secret: Expected a number of {_BITS} bits in {str(path)!r}. Received {text!r}. Remove the "
            "file: then another one is drawn, and what was trained by the old one is trained again."
        )
    return int(text)


@dataclasses.dataclass(frozen=True)
class Seeds:
    """The seeds of a call that trains a model to ship.

    An attacker who knows the seed of a training starts reference models from the target's own first weights, and finds
    more. A seed of Keras has 32 bits, and trained weights are still like their first ones: who holds the model can try
    all of them. So there is a secret beside it.

    Attributes:
        told: Seed of splits and audits, which reports tell.
        trainings: Seed of the model's own trainings.
        secret: What its first weights are shuffled by too, or None.
    """

    told: int
    trainings: int
    secret: Optional[int] = None

    @classmethod
    def of(cls, seed: Optional[int], folder: Any) -> Seeds:
        """Returns a given seed for all of it; without one those of the secret that a folder keeps."""
        if seed is not None:
            return cls(seed, seed)
        secret = kept_secret(folder)
        return cls(0, secret % 2**32, secret)

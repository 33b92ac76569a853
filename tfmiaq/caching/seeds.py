"""A seed that nobody knows, which a folder keeps."""

from __future__ import annotations

import pathlib
import secrets
from typing import Any

from tfmiaq._checks import SEED
from tfmiaq.caching.store import write_text
from tfmiaq.loading.limits import read_text

_LONGEST = 32


def secret_seed(folder: Any) -> int:
    """Returns the seed that a folder keeps in its file `seed`, or draws one at the first call.

    An attacker who knows the seed of a training starts reference models from the target's own first weights, and finds
    more (docs/defence.md). Whoever gets the file knows it.

    Args:
        folder: Path of the folder.

    Raises:
        ValueError: A file that holds no seed.
    """
    path = pathlib.Path(folder) / "seed"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, str(secrets.randbits(32)))
    text = read_text(path, "A folder's seed", _LONGEST).strip()
    if not text.isascii() or not text.isdigit() or int(text) not in SEED:
        raise ValueError(
            f"A folder's seed: Expected {SEED} in {str(path)!r}. Received {text!r}. Remove the file: then another one "
            "is drawn, and what was trained by the old one is trained again."
        )
    return int(text)

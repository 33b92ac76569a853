"""An extension of griffe, which reads the docstrings of the site: "Example:" is the section that Google style has."""

from __future__ import annotations

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section in each docstring before it is parsed."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Called once for each object whose source has been read."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")

"""Reports as HTML: a page that a browser shows without any other file, or a part of a notebook."""

from __future__ import annotations

from typing import Any


def render(template: str, **values: Any) -> str:
    """Returns a template of this package filled with values; text is escaped.

    Args:
        template: Name of a file in `templates/`.
        **values: What the template shows: text, rows of text, and svg elements.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tfmiaq.auditing.reporting"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)

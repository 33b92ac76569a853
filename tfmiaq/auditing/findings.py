"""What a look at the audited sets found, before any attack ran."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault of the audited sets, or of how the target reads them, that a report tells first.

    Attributes:
        kind: Its short name, such as "shared records": one kind has one name, in reports and in saved files.
        text: What was found, in one or two plain sentences with its numbers and the way out.
        invalid: Whether the audit cannot be believed for it. Such a report has no verdict of its own, and no release
            gate passes it. Other findings are told beside the verdict.
    """

    kind: str
    text: str
    invalid: bool

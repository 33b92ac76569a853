"""Stops with one line where this Python is not among those that the pinned packages support.

Runs on any Python 3.6 or later, so that an unsuitable one gets the line and no traceback.
"""

import sys

first, last, goal = sys.argv[1], sys.argv[2], " ".join(sys.argv[3:]) or "demo"
version = sys.version_info[:2]
if not tuple(map(int, first.split("."))) <= version <= tuple(map(int, last.split("."))):
    sys.exit(
        f"tfmiaq needs Python {first} to {last}, and {sys.executable} is Python {version[0]}.{version[1]}. "
        f"Point at another one: make {goal} PYTHON=python{last}"
    )

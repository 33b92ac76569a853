"""Prints and draws the layers of the package from its imports, and finds imports that go up or round in a circle.

    python tools/draw_architecture.py
    python tools/draw_architecture.py --svg=docs/figures/architecture.svg

Imports under `if TYPE_CHECKING`, inside functions and in .pyi stubs count as all others. Exits with 1 if it finds a
fault.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from imports import read_imports

ROOT = pathlib.Path(__file__).resolve().parents[1]
# From the ground up. A module imports from layers below its own and from its own package, and from nothing else.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("_version", "_checks", "_tables", "_privacy_suite", "_backend"),
    ("loading",),
    ("policy", "metrics", "losses", "datasets", "caching"),
    ("quantization",),
    ("tflite",),
    ("edgetpu",),
    ("signals",),
    ("attacks",),
    ("auditing",),
    ("training",),
    ("callbacks",),
    ("defence",),
    ("cli",),
    ("__main__",),
)


@dataclasses.dataclass(frozen=True)
class Edge:
    """An import of one module of the package by another, both by dotted names without the package's own."""

    source: str
    target: str
    place: str  # file:line
    type_only: bool


def part(module: str) -> str:
    """Returns the module or subpackage of the top level that holds a module: "tflite" for "tflite.conversion"."""
    return module.partition(".")[0]


class Architecture:
    """The modules of a package and their imports of one another.

    Args:
        folder: The package's folder.
        layers: Names of its top level, from the ground up.
    """

    def __init__(self, folder: pathlib.Path, layers: Sequence[Sequence[str]] = LAYERS) -> None:
        self.package = folder.name
        self.layers = layers
        self.level = {name: number for number, layer in enumerate(layers) for name in layer}
        # A stub has its module's name: both speak for the same module.
        self.files: dict[str, list[pathlib.Path]] = {}
        for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.pyi")]):
            names = path.relative_to(folder).with_suffix("").parts
            module = ".".join(names[:-1] if names[-1] == "__init__" else names)
            self.files.setdefault(module, []).append(path)
        self.edges = [edge for module in self.files for edge in self._edges_of(module, folder.parent)]

    def _edges_of(self, module: str, root: pathlib.Path) -> Iterator[Edge]:
        for path in self.files[module]:
            package = ".".join(path.relative_to(root).parts[:-1])
            for found in read_imports(path, package):
                names = [found.module, *([f"{found.module}.{found.name}"] if found.name else [])]
                inside = [name for name in names if name == self.package or name.startswith(f"{self.package}.")]
                if not inside:
                    continue
                known = [name[len(self.package) + 1 :] for name in inside]
                # The longest name that is a module; a name of a module that does not exist stays, to be told.
                target = next((name for name in reversed(known) if name in self.files), known[0])
                if target != module:
                    place = f"{path.relative_to(root).as_posix()}:{found.line}"
                    yield Edge(module, target, place, found.type_only)

    def faults(self) -> list[str]:
        """Returns a line with file and line number for each import that breaks the order; none if all is well."""
        told = [fault for edge in self.edges for fault in [self._fault(edge)] if fault]
        lost = sorted({part(module) for module in self.files if module} - set(self.level))
        return [*(f"{self.package}/{name}: stands in no layer" for name in lost), *told, *self._circles()]

    def _fault(self, edge: Edge) -> Optional[str]:
        kind = "imports for types only" if edge.type_only else "imports"
        if edge.source == "":
            return None  # The top of the package hands everything out.
        if edge.target == "" or edge.source.startswith(f"{edge.target}."):
            face = ".".join(filter(None, [self.package, edge.target]))
            return f"{edge.place}: {edge.source} {kind} {face}, the face of the package that it is in"
        if edge.target not in self.files:
            return f"{edge.place}: {edge.source} {kind} {edge.target}, which does not exist"
        source, target = part(edge.source), part(edge.target)
        if source == target or source not in self.level or target not in self.level:
            return None
        if self.level[target] > self.level[source]:
            return f"{edge.place}: {edge.source} {kind} {edge.target}, which is above it"
        if self.level[target] == self.level[source]:
            return f"{edge.place}: {edge.source} {kind} {edge.target}, which is beside it in the same layer"
        return None

    def _circles(self) -> Iterator[str]:
        edges = [edge for edge in self.edges if edge.source and edge.target]
        needs: dict[str, list[str]] = {}
        for edge in edges:
            needs.setdefault(edge.source, []).append(edge.target)
        told: set[frozenset[str]] = set()
        for edge in edges:
            back = _shortest_path(needs, edge.target, edge.source)
            if back and frozenset(back) not in told:
                told.add(frozenset(back))
                yield f"{edge.place}: circle {' -> '.join([edge.source, *back])}"

    def between_parts(self) -> dict[str, set[str]]:
        """Returns what each module or subpackage of the top level imports of the others."""
        needs: dict[str, set[str]] = {part(module): set() for module in self.files if module}
        for edge in self.edges:
            if edge.source and edge.target and part(edge.source) != part(edge.target):
                needs[part(edge.source)].add(part(edge.target))
        return needs

    def __str__(self) -> str:
        """A line for each layer, from the top down."""
        needs = self.between_parts()
        lines = []
        for number, layer in reversed(list(enumerate(self.layers, start=1))):
            there = [name for name in layer if name in needs]
            told = [f"{name} imports {', '.join(self._ordered(needs[name])) or 'nothing'}" for name in there]
            lines.append(f"{number:2}  {'; '.join(told)}")
        return "\n".join(lines)

    def _ordered(self, names: set[str]) -> list[str]:
        return sorted(names, key=lambda name: (self.level.get(name, -1), name))


def _shortest_path(needs: Mapping[str, Sequence[str]], start: str, end: str) -> list[str]:
    """Returns the modules of the shortest way from one module to another, both included; none if there is no way."""
    came_from: dict[str, Optional[str]] = {start: None}
    waiting = [start]
    while waiting and end not in came_from:
        ahead = [(module, target) for module in waiting for target in needs.get(module, ())]
        waiting = []
        for module, target in ahead:
            if target not in came_from:
                came_from[target] = module
                waiting.append(target)
    if end not in came_from:
        return []
    path: list[str] = []
    step: Optional[str] = end
    while step is not None:
        path.insert(0, step)
        step = came_from[step]
    return path


def draw(architecture: Architecture, path: pathlib.Path) -> None:
    """Draws the parts as a stair from the ground up, to an .svg or a .png.

    A dot stands in the row of the part that imports and in the column of the part that is imported. All dots are left
    of the stair where nothing imports upward.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    needs = architecture.between_parts()
    steps = [name for layer in architecture.layers for name in layer if name in needs]
    place = {name: number for number, name in enumerate(steps)}
    ink, paper = "#34506b", "white"
    # The same file for the same imports, whoever draws it.
    with matplotlib.rc_context({"svg.hashsalt": "architecture", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(9, 0.4 * len(steps)))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-1.0, len(steps)), ylim=(-0.6, len(steps) - 0.4))
        axes.axis("off")
        start = 0
        for number, layer in enumerate(architecture.layers):
            count = sum(name in needs for name in layer)
            if number % 2:
                axes.axhspan(start - 0.5, start + count - 0.5, color="#eef2f7", linewidth=0, zorder=0)
            start += count
        for name in steps:
            dots = sorted(place[need] for need in needs[name] if need in place)
            users = sorted(place[user] for user in steps if name in needs[user])
            if dots:
                axes.plot([dots[0], place[name]], [place[name]] * 2, color=ink, linewidth=0.7, zorder=1)
            if users:
                axes.plot([place[name]] * 2, [place[name], users[-1]], color=ink, linewidth=0.7, zorder=1)
            axes.plot(dots, [place[name]] * len(dots), "o", color=ink, markersize=5, zorder=2)
            box = {"boxstyle": "round,pad=0.3", "facecolor": paper, "edgecolor": ink}
            axes.text(place[name], place[name], name, ha="center", va="center", fontsize=8, bbox=box, zorder=3)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Prints the layers and the faults, and draws the picture with --svg; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--svg", type=pathlib.Path, metavar="FILE", help="draw the picture to this .svg or .png")
    parser.add_argument("--package", type=pathlib.Path, default=ROOT / "tfmiaq", help="folder of the package")
    given = parser.parse_args(arguments)
    architecture = Architecture(given.package)
    print(architecture)
    if given.svg:
        draw(architecture, given.svg)
    faults = architecture.faults()
    print("\n".join(faults) if faults else "no circle, no upward import")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

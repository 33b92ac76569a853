"""Bit-width policies: which layer gets how many bits.

A policy is a value. It is hashable, comparable, prints as the call that makes it and travels as JSON.
This module imports neither TensorFlow nor Keras.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional, Union

from tfmiaq._checks import check, check_fields, integer, real
from tfmiaq.loading.json_text import parse_json

_SCHEMA = 1


_BITS = integer(1, 8)
_BITS_OR_FLOAT = integer(1, 8, or_none=True, none_means="float")
_BITS_OR_NO_EXCEPTION = integer(1, 8, or_none=True, none_means="no exception")
_CLIP = real(0, closed="right")


@dataclasses.dataclass(frozen=True)
class LayerBits:
    """Bit-widths of one layer.

    Example:
        >>> LayerBits(weight=2, activation=4)
        LayerBits(weight=2, activation=4)

    Attributes:
        weight: Bits of each weight, 1 to 8, or None to leave the weights float. 1 bit is two levels, 2 bits
            are three, b >= 3 bits are 2^b - 1 levels.
        activation: Bits of the layer's ReLU output, 1 to 8 (2^b levels), or None to leave it float. Outputs
            that no ReLU follows take 8 bits, whatever the value.

    Raises:
        InvalidArgumentError: Bits that are no integers from 1 to 8; a ValueError and a TypeError.
    """

    weight: Optional[int] = 8
    activation: Optional[int] = 8

    def __post_init__(self) -> None:
        check_fields(self, weight=_BITS_OR_FLOAT, activation=_BITS_OR_FLOAT)

    @property
    def is_float(self) -> bool:
        """Whether neither weights nor activations are quantized."""
        return self.weight is None and self.activation is None


FLOAT = LayerBits(weight=None, activation=None)


@dataclasses.dataclass(frozen=True)
class OutputBits:
    """Bit-width of a classifier's outputs: each logit's distance to the largest, clipped and rounded.

    An output is max(z - max(z), -clip), rounded to 2^bits levels from -clip to 0. The largest logit stays the largest,
    and those within half a step of it become its equals. Quantized outputs hide from who can only ask what the network
    has memorized, and take none of it away. Calibration is lost.

    They hide nothing from who holds the file: the tensor in front of the rounding can be read from the .tflite, and
    `audit` of a .tflite reads it (`access="file"`). From who can only ask they hide some: on a cross-distilled
    Location-30 network of a test accuracy of 0.63 the strongest of all attacks has an AUC of 0.664 through outputs of 1
    bit, and of 0.723 with the file (docs/frontier.md, 16 reference models).

    Example:
        >>> BitwidthPolicy.uniform(2, 4, output=OutputBits(bits=2, clip=4.0))

    Attributes:
        bits: 1 to 8.
        clip: Distance to the largest logit beyond which all are equal, in nats, above 0.

    Raises:
        InvalidArgumentError: Bits that are no integer from 1 to 8; a clip that is no finite number above 0.
    """

    bits: int = 4
    clip: float = 8.0

    def __post_init__(self) -> None:
        check_fields(self, bits=_BITS, clip=_CLIP)


_Layers = Union[Mapping[str, LayerBits], Sequence[tuple[str, LayerBits]]]


def _is_pair(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 2


def _freeze_layers(layers: Any) -> tuple[tuple[str, LayerBits], ...]:
    items = layers.items() if isinstance(layers, Mapping) else layers
    if not isinstance(layers, (Mapping, list, tuple)) or not all(_is_pair(item) for item in items):
        raise TypeError(
            f"BitwidthPolicy.layers: Expected a mapping from names or globs to LayerBits, or pairs. Received "
            f"{layers!r:.200}."
        )
    frozen = tuple((pattern, bits) for pattern, bits in items)
    for pattern, bits in frozen:
        if not isinstance(pattern, str):
            raise TypeError(f"BitwidthPolicy.layers: Expected names or globs as keys. Received {pattern!r}.")
        if not isinstance(bits, LayerBits):
            raise TypeError(f"BitwidthPolicy.layers[{pattern!r}]: Expected a LayerBits. Received {bits!r:.200}.")
    return frozen


@dataclasses.dataclass(frozen=True)
class BitwidthPolicy:
    """Bit-widths of every layer of a model.

    A layer takes its bits from, in rising order of precedence: `default`; `first` and `last`, for the first and the
    last layer with weights; the patterns in `layers`, of which the last that matches wins. A ReLU that runs fused
    with the layer before it follows that layer, unless a pattern matches the ReLU's own name.

    Example:
        >>> policy = BitwidthPolicy(
        ...     default=LayerBits(weight=2, activation=4),
        ...     layers={"stem*": LayerBits(weight=8, activation=8)},
        ... )

    Attributes:
        default: Bits of every layer that nothing else names.
        layers: Ordered mapping from a layer's name, or a glob over names (`*`, `?`, `[...]`), to its bits. Kept as
            a tuple of pairs.
        first: Bits of the layers with weights that no other such layer comes before, or None for no exception. In a
            model of one branch that is the first layer.
        last: The same of those that no other such layer comes after.
        output: Bits of the outputs, for models that end in logits or a softmax; None for those of the last layer.

    Raises:
        TypeError: A field of another type than the above.
    """

    default: LayerBits = LayerBits()
    layers: _Layers = ()
    first: Optional[LayerBits] = None
    last: Optional[LayerBits] = None
    output: Optional[OutputBits] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _freeze_layers(self.layers))
        if not isinstance(self.default, LayerBits):
            raise TypeError(f"BitwidthPolicy.default: Expected a LayerBits. Received {self.default!r}.")
        for field in ("first", "last"):
            value = getattr(self, field)
            if value is not None and not isinstance(value, LayerBits):
                raise TypeError(f"BitwidthPolicy.{field}: Expected a LayerBits or None. Received {value!r}.")
        if self.output is not None and not isinstance(self.output, OutputBits):
            raise TypeError(f"BitwidthPolicy.output: Expected an OutputBits or None. Received {self.output!r}.")

    @property
    def rules(self) -> tuple[tuple[str, LayerBits], ...]:
        """The patterns of `layers` and their bits, in order."""
        return self.layers  # type: ignore[return-value]

    @classmethod
    def uniform(
        cls,
        weight: Optional[int] = 2,
        activation: Optional[int] = 4,
        first: Optional[int] = 8,
        last: Optional[int] = 8,
        output: Optional[OutputBits] = None,
        layers: _Layers = (),
    ) -> BitwidthPolicy:
        """Returns the policy of the same bits everywhere, with exceptions for the two ends.

        Example:
            >>> BitwidthPolicy.uniform(2, 4, output=OutputBits(bits=2, clip=4.0), layers={"stem": LayerBits(4, 4)})

        Args:
            weight: Bits of weights, 1 to 8, or None for float.
            activation: Bits of ReLU outputs, 1 to 8, or None for float.
            first: Bits of weights and activations of the first layer with weights; None makes it no exception.
            last: The same for the last layer with weights.
            output: Bits of the outputs, as in `BitwidthPolicy`.
            layers: Bits by name or glob, as in `BitwidthPolicy`.

        Returns:
            The policy.

        Raises:
            InvalidArgumentError: Bits that are no integers from 1 to 8.
        """
        bits = check(
            "BitwidthPolicy.uniform",
            weight=(weight, _BITS_OR_FLOAT),
            activation=(activation, _BITS_OR_FLOAT),
            first=(first, _BITS_OR_NO_EXCEPTION),
            last=(last, _BITS_OR_NO_EXCEPTION),
        )

        def end(bits: Optional[int]) -> Optional[LayerBits]:
            return None if bits is None else LayerBits(bits, bits)

        return cls(LayerBits(bits["weight"], bits["activation"]), layers, end(bits["first"]), end(bits["last"]), output)

    @classmethod
    def mia_default(cls) -> BitwidthPolicy:
        """Returns the default of `quantize_model`: 2-bit weights and 4-bit activations inside, 8 bits at both ends.

        Hidden layers of few bits lower membership leakage most. The two ends hold few weights, and lowering their bits
        costs accuracy.
        """
        return cls.uniform(weight=2, activation=4, first=8, last=8)

    def resolve(
        self,
        names: Sequence[str],
        first: Sequence[str] = (),
        last: Sequence[str] = (),
        followers: Optional[Mapping[str, str]] = None,
        aliases: Optional[Mapping[str, Sequence[str]]] = None,
    ) -> dict[str, LayerBits]:
        """Returns the bits of each layer of one model.

        Args:
            names: Names of all layers, in order.
            first: Names of the layers with weights that no other such layer comes before.
            last: Names of the layers with weights that no other such layer comes after.
            followers: For each ReLU that runs fused with a layer, that layer's name.
            aliases: Other names of layers that patterns may match.

        Returns:
            One LayerBits for each name.

        Raises:
            ValueError: Patterns that match no layer; all of them are listed, each with the nearest names.
        """
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise TypeError(f"BitwidthPolicy.resolve: Expected the names of layers. Received {names!r:.200}.")
        known = {name: (name, *(aliases or {}).get(name, ())) for name in names}
        every = list(dict.fromkeys(alias for group in known.values() for alias in group))
        unmatched = [pattern for pattern, _ in self.rules if not fnmatch.filter(every, pattern)]
        if unmatched:
            raise ValueError(_unmatched_message(unmatched, every))
        followers = followers or {}

        def end(name: str) -> Optional[LayerBits]:
            if self.last is not None and name in last:
                return self.last
            return self.first if name in first else None

        resolved: dict[str, LayerBits] = {}
        for name in names:
            named = self.named(known[name])
            leader = followers.get(name)
            if named is None and leader is not None:
                named = self.named(known[leader]) or end(leader)
            resolved[name] = named or end(name) or self.default
        return resolved

    def named(self, names: Sequence[str]) -> Optional[LayerBits]:
        """Returns the bits in `layers` for a layer of these names: of the last pattern that matches any, or None."""
        found = None
        for pattern, bits in self.rules:
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                found = bits
        return found

    def to_json(self) -> str:
        """Returns the policy as a JSON object; `from_json` reads it back."""

        def bits(value: Optional[LayerBits]) -> Optional[dict[str, Optional[int]]]:
            return None if value is None else dataclasses.asdict(value)

        return json.dumps(
            {
                "schema": _SCHEMA,
                "default": bits(self.default),
                "first": bits(self.first),
                "last": bits(self.last),
                "layers": [[pattern, bits(value)] for pattern, value in self.rules],
                "output": None if self.output is None else dataclasses.asdict(self.output),
            },
            indent=2,
        )

    @classmethod
    def from_json(cls, text: str) -> BitwidthPolicy:
        """Returns the policy that `to_json` wrote.

        Args:
            text: A JSON object.

        Returns:
            A policy equal to the one that was written.

        Raises:
            TypeError: No text.
            ValueError: The text is no JSON, is no policy of this version, or has a field that no policy has.
        """
        data = parse_json(text, _JSON)
        if not isinstance(data, dict) or data.get("schema") != _SCHEMA:
            raise ValueError(f'{_JSON}: Expected a JSON object with "schema": {_SCHEMA}. Received {text[:80]!r}.')
        _check_names(data, (*_FIELDS, "schema"), "the policy")
        if "default" not in data:
            raise ValueError(f"{_JSON} lacks 'default', the bits of layers that nothing else names.")
        layers = data.get("layers", [])
        if not isinstance(layers, list):
            raise ValueError(f"{_JSON}: Expected 'layers' to be a list of pairs. Received {layers!r:.80}.")
        for item in layers:
            if not (_is_pair(item) and isinstance(item[0], str)):
                raise ValueError(f"{_JSON}: 'layers' has {item!r:.80}. Expected pairs of a name or glob and bits.")
        return cls(
            default=_from_object(LayerBits, data["default"], "default"),
            layers=[(pattern, _from_object(LayerBits, value, f"layers[{pattern!r:.80}]")) for pattern, value in layers],
            **{
                name: None if data.get(name) is None else _from_object(kind, data[name], name)
                for name, kind in (("first", LayerBits), ("last", LayerBits), ("output", OutputBits))
            },
        )


_JSON = "A policy's JSON"
_FIELDS = tuple(field.name for field in dataclasses.fields(BitwidthPolicy))
_MOST_TOLD, _MOST_NAMES = 5, 40


def _check_names(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"{_JSON}: {what} has a field {name!r:.80}.{hint} Expected {', '.join(known)}.")


def _from_object(kind: Any, given: Any, name: str) -> Any:
    """Returns the bits that a JSON object holds.

    Raises:
        ValueError: No object, fields that are none, or bits out of their ranges.
    """
    fields = tuple(field.name for field in dataclasses.fields(kind))
    if not isinstance(given, dict):
        raise ValueError(f"{_JSON}: Expected {name!r} to be an object of {', '.join(fields)}. Received {given!r:.80}.")
    _check_names(given, fields, name)
    return kind(**given)


def _unmatched_message(unmatched: Sequence[str], names: Sequence[str]) -> str:
    lines = ["The policy names layers that the model does not have:"]
    for pattern in unmatched[:_MOST_TOLD]:
        nearest = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
        hint = f" Did you mean {', '.join(map(repr, nearest))}?" if nearest else ""
        lines.append(f"  {pattern!r:.200}.{hint}")
    if len(unmatched) > _MOST_TOLD:
        lines.append(f"  and {len(unmatched) - _MOST_TOLD:,} more.")
    more = f", and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    lines.append(f"The model's layers: {', '.join(names[:_MOST_NAMES])}{more}.")
    return "\n".join(lines)

"""Exact and near duplicates among records, found by hash."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from typing import Optional

import numpy as np

from tfmiaq._checks import InvalidArgumentError, check, real
from tfmiaq.signals.inputs import Inputs, concatenate, matrix

# Random projections: in each table a record's hash is the signs of some of them, and one more orders equal hashes.
_TABLES, _SIGNS, _NEIGHBOURS = 10, 12, 4
_CHUNK = 4096
# Records of fewer features lie close by chance.
_FEWEST_FEATURES = 16
# Near duplicates lie within this part of the squared distance at which a record's tenth neighbour lies, typically.
NEAR, _TENTH, _MEASURED, _COMPARED = 0.1, 10, 100, 10_000
# Projected distances are within some 12 % of the distances themselves: what lies farther needs no second look.
_PROJECTED = 1.7


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Pairs of records that are exact or near duplicates, as indices into members and then non-members.

    Attributes:
        exact: Shape (p, 2): records with the same bytes. Of several equal ones, each with the next.
        near: Shape (q, 2): others that are far closer to one another than records are to their tenth neighbours.
        members: Number of members.
    """

    exact: np.ndarray
    near: np.ndarray
    members: int

    def counts(self, pairs: np.ndarray) -> tuple[int, int]:
        """Returns the number of members with a duplicate among the members, and with one among the non-members."""
        sides = pairs < self.members
        within = np.unique(pairs[sides.all(1)])
        across = pairs[sides[:, 0] != sides[:, 1]]
        return len(within), len(np.unique(across[across < self.members]))


def find_duplicates(
    members: np.ndarray, non_members: np.ndarray, groups: Optional[np.ndarray] = None, near: float = NEAR
) -> Duplicates:
    """Returns the duplicates within members, and between members and non-members.

    Exact ones have the same hash of their bytes. Near ones are found by locality-sensitive hashing (signs of random
    projections, Charikar 2002): candidates are records that are neighbours in one of ten tables, and a pair counts if
    its squared distance is less than a part, `near`, of the median one of a record and its tenth nearest. So a few
    changed features, or little noise, are found, and shifted or rotated images are not; with several features changed
    a few pairs in a hundred are missed. Records of fewer than 16 features have no near duplicates.

    Args:
        members: Records, shape (m, ...), or `Inputs`.
        non_members: Records, shape (n, ...), or `Inputs`.
        groups: Shape (m + n,), groups of the records: records of one group are no duplicates. None for none.
        near: The part of that distance, from 0 to 1.

    Raises:
        InvalidArgumentError: No records, or of several shapes; `near` out of its range.
    """
    check("find_duplicates", near=(near, real(0, 1)))
    for name, part in (("members", members), ("non_members", non_members)):
        if not isinstance(part, Inputs) and (not isinstance(part, np.ndarray) or not part.ndim):
            raise InvalidArgumentError(
                f"find_duplicates: Expected {name} as an array of records, shape (n, ...). Received {part!r:.80}."
            )
        if isinstance(part, np.ndarray) and part.shape[1:] != members.shape[1:]:
            raise InvalidArgumentError(
                f"find_duplicates: members are of shape {members.shape[1:]}, and non_members of {part.shape[1:]}."
            )
    x = matrix(concatenate(members, non_members))
    exact = _equal(x)
    close: np.ndarray = np.zeros((0, 2), int)
    if x.shape[1] >= _FEWEST_FEATURES and len(x) > 2 * _TENTH:
        close = _near(np.nan_to_num(x) if x.dtype.kind == "f" else x, near)
    if groups is not None:
        exact, close = (pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]] for pairs in (exact, close))
    return Duplicates(exact, close, len(members))


def warn_of_duplicates(members: np.ndarray, non_members: np.ndarray, groups: Optional[np.ndarray]) -> Duplicates:
    """Warns of duplicates within members, and between members and non-members, with their numbers; returns them."""
    found = find_duplicates(members, non_members, groups)
    told = []
    of = "" if groups is None else " of another group"
    for kind, pairs in (("exact", found.exact), ("near", found.near)):
        for count, others in zip(found.counts(pairs), ("members", "non-members")):
            if count:
                told.append(f"{count} with {kind} duplicates{of} among the {others}")
    if told:
        warnings.warn(
            f"audit: Of {len(members)} members, found {'; '.join(told)}. A duplicate voids defences by folds, and "
            "blurs who is a member: leave it out, or give both records one group (groups=).",
            stacklevel=3,
        )
    return found


def _equal(x: np.ndarray) -> np.ndarray:
    seen: dict[bytes, int] = {}
    pairs = []
    for index, record in enumerate(np.ascontiguousarray(x)):
        key = hashlib.blake2b(record.tobytes(), digest_size=16).digest()
        if key in seen:
            pairs.append((seen[key], index))
        seen[key] = index
    return np.array(pairs, int).reshape(-1, 2)


def _near(x: np.ndarray, part: float) -> np.ndarray:
    generator = np.random.default_rng(0)
    center = x.mean(0, dtype=np.float64).astype(np.float32)
    limit = part * _typical_distance(x, generator)
    directions = generator.normal(size=(x.shape[1], _TABLES * (_SIGNS + 1))).astype(np.float32)
    parts = [(x[i : i + _CHUNK].astype(np.float32) - center) @ directions for i in range(0, len(x), _CHUNK)]
    flat = np.concatenate(parts)
    projected = flat.reshape(len(x), _TABLES, _SIGNS + 1)
    codes = (projected[..., :_SIGNS] > 0) @ (1 << np.arange(_SIGNS))
    found = []
    for table in range(_TABLES):
        order = np.lexsort((projected[:, table, _SIGNS], codes[:, table]))
        for step in range(1, _NEIGHBOURS + 1):
            one, other = order[:-step], order[step:]
            same = codes[one, table] == codes[other, table]
            one, other = one[same], other[same]
            close = _distances(flat, one, other) < _PROJECTED * limit * flat.shape[1]
            found.append(np.sort(np.stack([one[close], other[close]], axis=1), axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    distances = _distances(x, *pairs.T)
    # Exact duplicates are told by themselves.
    return pairs[(distances < limit) & (distances > 0)]


def _distances(x: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns squared distances between pairs of records."""
    starts = range(0, len(one), _CHUNK)
    pieces = [x[one[i : i + _CHUNK]].astype(np.float32) - x[other[i : i + _CHUNK]] for i in starts]
    return np.concatenate([np.zeros(0), *((piece**2).sum(1) for piece in pieces)])


def _typical_distance(x: np.ndarray, generator: np.random.Generator) -> float:
    """Returns the median squared distance of a record to its tenth nearest, over some records."""
    some = x[generator.choice(len(x), min(_MEASURED, len(x)), replace=False)].astype(np.float32)
    others = x[generator.choice(len(x), min(_COMPARED, len(x)), replace=False)].astype(np.float32)
    distances = (some**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * some @ others.T
    return float(np.median(np.partition(distances, _TENTH, axis=1)[:, _TENTH]))

"""Units of records that depend on one another: groups, and records with their duplicates."""

from __future__ import annotations

from typing import Optional

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from tfmiaq._checks import InvalidArgumentError
from tfmiaq.signals.duplicates import Duplicates


def units_of(
    count: int, members: int, groups: Optional[np.ndarray], duplicates: Optional[Duplicates]
) -> Optional[np.ndarray]:
    """Returns the unit of each record: records of one group, and exact or near duplicates, are of one unit.

    No unit is split by halves, folds and reference models, and intervals count the records of one as dependent.

    Args:
        count: Number of records, members first.
        members: Number of members.
        groups: Shape (count,), integers, or None.
        duplicates: Pairs of records that are duplicates, or None where they are not known.

    Returns:
        Shape (count,), integers from 0 on; None where each record is a unit of its own.

    Raises:
        InvalidArgumentError: All members, or all non-members, are of one unit.
    """
    pairs = [] if duplicates is None else [duplicates.exact, duplicates.near]
    if groups is not None:
        order = np.argsort(groups, kind="stable")
        same = groups[order][1:] == groups[order][:-1]
        pairs.append(np.stack([order[:-1][same], order[1:][same]], axis=1))
    edges = np.concatenate(pairs) if pairs else np.zeros((0, 2), int)
    if not len(edges):
        return None
    graph = sparse.coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), (count, count))
    units = np.asarray(csgraph.connected_components(graph, directed=False)[1], int)
    for name, part in (("members", units[:members]), ("non_members", units[members:])):
        if (part == part[0]).all():
            raise InvalidArgumentError(
                f"audit: All {len(part)} {name} are of one group, or duplicates of one another. Expected at least 2 "
                "that are not, so that an attack can learn from some and be tried on others."
            )
    return units

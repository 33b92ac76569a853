"""The flags that say where records come from."""

from __future__ import annotations

from typing import Any

from tfmiaq import datasets
from tfmiaq.cli.flags import integers


def add_records(parser: Any, trains: bool = False) -> None:
    """Adds the flags of members and non-members, which `load_records` reads, and the seed.

    Of a command that trains a model to ship one that nobody knows is the default.
    """
    group = parser.add_argument_group("records")
    group.add_argument(
        "--records",
        help="an .npz with x_train, y_train (members), x_test and y_test (others of their kind), and groups_train and "
        "groups_test where a person or device has several records: no group is split; or one of "
        f"{', '.join(datasets.NAMES)}",
    )
    group.add_argument(
        "--members",
        help="in the place of --records, a .csv with a header, or a folder of images with a folder for each class; "
        "or a number: how many of x_train, from the first on, were trained on (all)",
    )
    group.add_argument("--non_members", metavar="FILE", help="the same of the non-members: a .csv, or a folder")
    group.add_argument("--label", metavar="COLUMN", help="column of the .csv files that holds the labels")
    _add_images(group)
    add_seed(parser, trains)


def add_unlabelled(parser: Any) -> None:
    """Adds the flags of records without labels, which `load_unlabelled` reads."""
    group = parser.add_argument_group("records")
    group.add_argument(
        "--records",
        required=True,
        help="an .npz with x, or with x_train and x_test as the other commands take it; a .csv; a folder of images; or "
        f"one of {', '.join(datasets.NAMES)}. Labels are not read",
    )
    group.add_argument("--label", metavar="COLUMN", help="column of a .csv to leave out")
    _add_images(group)


def _add_images(group: Any) -> None:
    group.add_argument("--raw", action="store_true", help="take images of bytes as they are, not divided by 255")
    group.add_argument(
        "--image_size", type=integers, metavar="HEIGHT,WIDTH", help="resize images of folders (they have one size)"
    )


def add_seed(parser: Any, trains: bool = False) -> None:
    """Adds the seed."""
    text = "seed of all random draws (0; of the model's own trainings one that nobody knows)"
    if not trains:
        text = "seed of all random draws (%(default)s)"
    parser.add_argument("--seed", type=int, default=None if trains else 0, help=text)

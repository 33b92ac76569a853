"""The parser of all commands, which needs no TensorFlow."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Optional

from tfmiaq import datasets
from tfmiaq._version import __version__
from tfmiaq.auditing.canaries import KINDS
from tfmiaq.cli import commands
from tfmiaq.cli.flags import add_fields, format_default, integers
from tfmiaq.cli.inputs import MODEL, POLICY
from tfmiaq.loading import MAX_BYTES
from tfmiaq.policy import OutputBits
from tfmiaq.search.options import SAMPLERS, PolicySearch
from tfmiaq.search.search import SEARCH_RECIPE
from tfmiaq.signals import ACCESS, ReferenceModels
from tfmiaq.training.distillation import CrossDistillation
from tfmiaq.training.recipe import TrainingRecipe, default_recipe

_LONGEST_ERROR = 4000
TARGETS = ("mobile", "edgetpu")
_RECIPE_FIELDS = ("epochs", "learning_rate", "batch_size", "weight_decay", "mixup", "augment")
_SEARCH_FIELDS = (
    "n_trials",
    "max_accuracy_drop",
    "retrained",
    "sampler",
    "weight_bits",
    "activation_bits",
    "sample",
    "storage",
)


def _add_records(parser: Any, with_members: bool = True) -> None:
    group = parser.add_argument_group("records")
    group.add_argument(
        "--records",
        required=not with_members,
        help="an .npz with x_train, y_train (members), x_test and y_test (others of their kind), and groups_train and "
        "groups_test where a person or device has several records: no group is split; or one of "
        f"{', '.join(datasets.NAMES)}",
    )
    group.add_argument("--raw", action="store_true", help="take images of bytes as they are, not divided by 255")
    if with_members:
        group.add_argument(
            "--members",
            help="in the place of --records, a .csv with a header, or a folder of images with a folder for each class; "
            "or a number: how many of x_train, from the first on, were trained on (all)",
        )
        group.add_argument("--non_members", metavar="FILE", help="the same of the non-members: a .csv, or a folder")
        group.add_argument("--label", metavar="COLUMN", help="column of the .csv files that holds the labels")
        group.add_argument(
            "--image_size", type=integers, metavar="HEIGHT,WIDTH", help="resize images of folders (they have one size)"
        )
        parser.add_argument("--seed", type=int, default=0, help="seed of all random draws (%(default)s)")


def _add_folder(parser: Any, folder: str, text: str) -> None:
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(folder), help=f"{text} (%(default)s)")


def _add_conversion(parser: Any) -> None:
    parser.add_argument(
        "--target", choices=TARGETS, default=TARGETS[0], help="float or integer input and output (%(default)s)"
    )
    parser.add_argument("--labels", type=pathlib.Path, help="text file with a class name on each line")


def _add_recipe(parser: Any, title: str, about: str, defaults: Callable[[str], Any]) -> None:
    group = parser.add_argument_group(title, about)
    add_fields(
        group,
        TrainingRecipe,
        _RECIPE_FIELDS,
        defaults=lambda name: "none" if name == "augment" else defaults(name),
        augment={"action": "store_true", "text": "flip and shift the images of each batch"},
    )


def _both_defaults(name: str) -> str:
    alone, crossed = (format_default(getattr(default_recipe(cross), name)) for cross in (False, True))
    return alone if alone == crossed else f"{alone}, with cross-distillation {crossed}"


def _add_search(parser: Any, about: str) -> None:
    group = parser.add_argument_group("search", about)
    add_fields(group, PolicySearch, _SEARCH_FIELDS, sampler={"choices": SAMPLERS, "text": "sampler of Optuna"})


def _add_summary(parser: Any) -> None:
    parser.add_argument("model", help=MODEL)
    parser.add_argument("--policy", help=f"of a float model, what it would become: {POLICY}")


def _add_gate(parser: Any) -> None:
    group = parser.add_argument_group(
        "release gate", "Exits with status 1 above a limit, or where it cannot be judged."
    )
    group.add_argument(
        "--fail_if",
        action="append",
        default=[],
        metavar="CONDITION",
        help="a limit on all attacks, judged on the upper end of the interval: 'auc>0.55', 'accuracy>0.55', "
        "'tpr@0.01>0.02' (the TPR at 1%% FPR) or 'epsilon>1'; may be given again",
    )
    group.add_argument("--allow_unresolved", action="store_true", help="pass limits that too few records can judge")
    group.add_argument("--junit", type=pathlib.Path, metavar="FILE", help="write the limits as JUnit XML")


def _add_audit(parser: Any) -> None:
    parser.add_argument(
        "targets", nargs="+", metavar="target", help=f"a .tflite, {MODEL}, or saved outputs as members.npy,others.npy"
    )
    _add_records(parser)
    parser.add_argument("--attacks", help="names, with commas in between (those that are strongest for their cost)")
    parser.add_argument("--other", help="another version of the target, which the attacker holds too")
    parser.add_argument("--augmented_queries", action="store_true", help="query augmented copies of each record too")
    parser.add_argument(
        "--access",
        choices=ACCESS,
        help="what the attacker has: the outputs alone (query), or the file, with the logits in front of output "
        "rounding and softmax (file: a .tflite or a Keras model, reported beside what the outputs tell) (file for a "
        ".tflite, else query)",
    )
    _add_folder(parser, "audit", "folder of the report")
    parser.add_argument(
        "--exposed",
        action="store_true",
        help="name the most exposed members in the report, by their position among the records",
    )
    parser.add_argument(
        "--slices",
        type=pathlib.Path,
        metavar="FILE.npz",
        help="attributes of the records, such as sex_train and sex_test: each value is a slice of the report",
    )
    _add_gate(parser)
    group = parser.add_argument_group("reference models", "An attacker who adapts trains models like the target.")
    group.add_argument(
        "--train_fn",
        action="append",
        default=[],
        metavar="FILE.py:FUNCTION",
        help="the target's pipeline: from (x, y) to a model; given again, from (model, x, y)",
    )
    group.add_argument(
        "--canaries", metavar="KIND", help=f"train models on canaries too, and attack these: {', '.join(KINDS)}"
    )
    add_fields(
        group,
        ReferenceModels,
        ("count", "minutes", "n_jobs", "cache"),
        defaults={"cache": "FOLDER/cache", "n_jobs": "1"}.get,
        count={"flag": "reference_models", "text": "number of models, at least 2"},
        minutes={"text": "train as many models as this time allows, and at least --reference_models"},
        n_jobs={"text": "processes that train models side by side, -1 for all cores"},
    )


def _add_search_command(parser: Any) -> None:
    parser.epilog = "Bits are chosen on x_test: audit on records that are not among them."
    parser.add_argument("model", help=f"a trained float model: {MODEL}")
    _add_records(parser)
    _add_folder(parser, "search", "folder of the result, whose folder cache keeps finished work")
    _add_search(parser, "How bits are searched.")
    _add_recipe(
        parser,
        "recipe",
        "How the shared model, and each retrained candidate, is trained.",
        lambda name: format_default(getattr(SEARCH_RECIPE, name)),
    )


def _add_defend(parser: Any) -> None:
    parser.add_argument(
        "model", help=f"FILE.py:FUNCTION from (x, y) to a trained model, so that the attacker adapts; or {MODEL}"
    )
    _add_records(parser)
    _add_folder(parser, "defended", "folder of everything, whose folder cache keeps finished work")
    parser.add_argument("--policy", default="default", help=f"{POLICY}, or 'search' (%(default)s)")
    add_fields(
        parser,
        OutputBits,
        ("bits", "clip"),
        defaults=lambda name: "outputs are not rounded",
        bits={"flag": "output_bits", "text": "bits of the outputs, 1 to 8, which hide from who can only ask"},
        clip={"flag": "output_clip"},
    )
    parser.add_argument(
        "--reference_models", type=int, default=16, help="reference models of each audit; 0 for none (%(default)s)"
    )
    parser.add_argument("--n_jobs", type=int, help="processes that train reference models (1)")
    _add_conversion(parser)
    _add_recipe(
        parser,
        "recipe",
        "How the quantized model is trained. With any of these flags the float model is trained on, unless a flag of "
        "cross-distillation is given too.",
        _both_defaults,
    )
    group = parser.add_argument_group(
        "cross-distillation",
        "Teachers that were not trained on a record label it. Without any flag of this group or of the recipe it is "
        "used where the float model has memorized its records.",
    )
    add_fields(group, CrossDistillation, ("folds", "repeats", "teacher_weight"))
    group.add_argument("--no_cross_distillation", action="store_true", help="train the float model on")
    _add_search(parser, "How bits are searched, with --policy=search.")


def _add_convert(parser: Any) -> None:
    parser.add_argument("model", help=MODEL)
    parser.add_argument("file", type=pathlib.Path, help="the .tflite to write")
    _add_conversion(parser)
    parser.add_argument("--io_type", choices=("int8", "uint8"), help="type of input and output for edgetpu (int8)")
    parser.add_argument(
        "--pack",
        action="store_true",
        help="two weights of up to 4 bits in a byte, for mobile; runs from TensorFlow 2.21 or LiteRT 2.1 on",
    )


def _add_verify(parser: Any) -> None:
    parser.add_argument("model", help=MODEL)
    parser.add_argument("file", type=pathlib.Path, help="the .tflite")
    _add_records(parser, with_members=False)
    parser.add_argument("--count", type=int, default=500, help="records of x_test to compare outputs on (%(default)s)")


def _add_check(parser: Any) -> None:
    parser.add_argument("file", type=pathlib.Path, help="a .tflite")


_COMMANDS = (
    ("summary", commands.summary, _add_summary, "bits, sizes and multiply-adds, layer by layer"),
    ("audit", commands.audit, _add_audit, "membership inference attacks, as a report with figures"),
    ("search", commands.search, _add_search_command, "bits of least membership leakage at an accuracy that you set"),
    (
        "defend",
        commands.defend,
        _add_defend,
        "the whole way from a model to a .tflite, with audits",
    ),
    ("convert", commands.convert, _add_convert, "a .tflite of a trained quantized model"),
    (
        "verify",
        commands.verify,
        _add_verify,
        "whether a .tflite is the trained model, level by level; else exits with status 1",
    ),
    ("check", commands.check, _add_check, "what the Edge TPU compiler will map; exits with status 1 if not all of it"),
)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    top = argparse.ArgumentParser("tfmiaq", description="Quantization against membership inference.")
    top.add_argument("--version", action="version", version=__version__)
    subparsers = top.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, run, add, text in _COMMANDS:
        made = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        made.set_defaults(run=run)
        made.add_argument("--traceback", action="store_true", help="show where an error comes from")
        made.add_argument(
            "--trust", action="store_true", help="open model files as Keras does, with the code that they may run"
        )
        made.add_argument(
            "--max_bytes", type=int, help=f"bytes that the arrays of one file may take in memory ({MAX_BYTES:,})"
        )
        add(made)
    return top


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]} ... (--traceback shows all of it)"


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Runs a command, and exits: with 0; with 1 if what was checked is not as required; with 2 on bad input."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = parser().parse_args(arguments)
    try:
        sys.exit(given.run(given))
    except (ImportError, MemoryError, OSError, TypeError, ValueError) as error:
        if given.traceback:
            raise
        print(f"tfmiaq: {_cut(str(error) or type(error).__name__)}", file=sys.stderr)
        sys.exit(commands.BAD_INPUT)

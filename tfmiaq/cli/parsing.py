"""The parser of all commands, which needs no TensorFlow."""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, Optional

from tfmiaq._version import __version__
from tfmiaq.auditing.canaries import KINDS
from tfmiaq.cli import commands, judging, post_training
from tfmiaq.cli.flags import add_fields, format_default
from tfmiaq.cli.inputs import MODEL, POLICY
from tfmiaq.cli.record_flags import add_records, add_seed, add_unlabelled
from tfmiaq.cli.suggesting import SuggestingParser
from tfmiaq.loading import MAX_BYTES, MAX_SECONDS
from tfmiaq.policy import OutputBits
from tfmiaq.signals import ACCESS, ReferenceModels
from tfmiaq.training.distillation import CrossDistillation
from tfmiaq.training.recipe import TrainingRecipe, default_recipe

_LONGEST_ERROR = 4000
TARGETS = ("mobile", "edgetpu")
ROUNDING = ("learned", "nearest")
_RECIPE_FIELDS = ("epochs", "learning_rate", "batch_size", "weight_decay", "mixup", "augment")


def _add_folder(parser: Any, folder: str, text: str) -> None:
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(folder), help=f"{text} (%(default)s)")


def _add_conversion(parser: Any) -> None:
    parser.add_argument("--target", choices=TARGETS, default=TARGETS[0], help="what the .tflite is for (%(default)s)")
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
    parser.add_argument(
        "--format",
        choices=judging.FORMATS,
        default=judging.TEXT,
        help="what is printed: the report as text, reports and gate as JSON, or the gate as JUnit XML (%(default)s)",
    )


def _add_audit(parser: Any) -> None:
    parser.add_argument(
        "targets", nargs="+", metavar="target", help=f"a .tflite, {MODEL}, or saved outputs as members.npy,others.npy"
    )
    add_records(parser)
    parser.add_argument(
        "--attacks", help="names, with commas in between, or all (those that are strongest for their cost)"
    )
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
        ("count", "minutes", "known_seed", "n_jobs", "cache"),
        defaults={"cache": "FOLDER/cache", "n_jobs": "1", "known_seed": "unknown"}.get,
        count={"flag": "reference_models", "text": "number of models, at least 2"},
        minutes={"text": "train as many models as this time allows, and at least --reference_models"},
        known_seed={"text": "the seed that the target was trained by, for an attacker who knows it"},
        n_jobs={"text": "processes that train models side by side, -1 for all cores"},
    )


def _add_defend(parser: Any) -> None:
    parser.add_argument(
        "model", help=f"FILE.py:FUNCTION from (x, y) to a trained model, so that the attacker adapts; or {MODEL}"
    )
    add_records(parser, trains=True)
    _add_folder(parser, "defended", "folder of everything, whose folder cache keeps finished work")
    parser.add_argument("--policy", default="default", help=f"{POLICY} (%(default)s)")
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
    parser.add_argument(
        "--minutes",
        type=float,
        help="train as many as this allows for each audit, and at least --reference_models",
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
    add_fields(group, CrossDistillation, ("folds", "repeats", "teacher_weight", "copies"))
    group.add_argument("--no_cross_distillation", action="store_true", help="train the float model on")


def _add_convert(parser: Any) -> None:
    parser.add_argument("model", help=MODEL)
    parser.add_argument("file", type=pathlib.Path, help="the .tflite to write")
    _add_conversion(parser)
    _add_file_format(parser)


def _add_file_format(parser: Any) -> None:
    parser.add_argument(
        "--io_type", choices=("int8", "uint8"), help="integer input and output (int8 for edgetpu, float for mobile)"
    )
    parser.add_argument(
        "--pack",
        action="store_true",
        help="two weights of up to 4 bits in a byte, for mobile; runs from TensorFlow 2.21 or LiteRT 2.1 on",
    )


def _add_quantize(parser: Any) -> None:
    parser.add_argument("model", help=f"a trained float model: {MODEL}")
    add_unlabelled(parser)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="the .tflite to write")
    parser.add_argument("--policy", default="w4a8", help=f"{POLICY} (%(default)s)")
    parser.add_argument(
        "--count", type=int, default=500, help="records to calibrate on, and to compare outputs on (%(default)s)"
    )
    parser.add_argument(
        "--rounding",
        choices=ROUNDING,
        default=ROUNDING[0],
        help="weights to levels that keep the outputs of each layer, or to the nearest (%(default)s)",
    )
    parser.add_argument("--iterations", type=int, default=500, help="steps of learned rounding by layer (%(default)s)")
    parser.add_argument("--save", type=pathlib.Path, metavar="FILE.keras", help="write the quantized Keras model too")
    _add_conversion(parser)
    _add_file_format(parser)
    add_seed(parser)


def _add_report(parser: Any) -> None:
    parser.add_argument(
        "reports", nargs="+", type=pathlib.Path, metavar="report", help="a report.json of an audit, or its folder"
    )
    _add_folder(parser, "report", "folder of the pages")
    _add_gate(parser)


def _add_verify(parser: Any) -> None:
    parser.add_argument("model", help=MODEL)
    parser.add_argument("file", type=pathlib.Path, help="the .tflite")
    add_unlabelled(parser)
    parser.add_argument("--count", type=int, default=500, help="records of x_test to compare outputs on (%(default)s)")


def _add_check(parser: Any) -> None:
    parser.add_argument("file", type=pathlib.Path, help="a .tflite")


_COMMANDS = (
    (
        "summary",
        commands.summary,
        _add_summary,
        "bits, sizes and multiply-adds, layer by layer",
        "model.keras --policy=w2a4",
    ),
    (
        "quantize",
        post_training.quantize,
        _add_quantize,
        "a .tflite of a trained float model, without training; exits with status 1 if it is not the quantized model",
        "model.keras --records=own.npz --policy=w4a8 -o model.tflite",
    ),
    (
        "audit",
        commands.audit,
        _add_audit,
        "membership inference attacks, as a report with figures",
        "model.tflite --records=own.npz --folder=audit --fail_if auc>0.6",
    ),
    (
        "report",
        commands.report,
        _add_report,
        "the page of a saved report, or several compared",
        "audit/report.json earlier/report.json --folder=compared",
    ),
    (
        "defend",
        commands.defend,
        _add_defend,
        "the whole way from a model to a .tflite, with audits",
        "pipeline.py:train --records=own.npz --policy=w2a4 --reference_models=8 --folder=defended",
    ),
    (
        "convert",
        commands.convert,
        _add_convert,
        "a .tflite of a trained quantized model",
        "quantized.keras model.tflite --target=edgetpu --labels=labels.txt",
    ),
    (
        "verify",
        commands.verify,
        _add_verify,
        "whether a .tflite is the trained model, level by level; else exits with status 1",
        "quantized.keras model.tflite --records=own.npz",
    ),
    (
        "check",
        commands.check,
        _add_check,
        "what the Edge TPU compiler will map; exits with status 1 if not all of it",
        "model.tflite",
    ),
)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    top = SuggestingParser(
        "tfmiaq",
        description="Quantization against membership inference.",
        epilog="tfmiaq COMMAND --help has the options of a command, and an example.",
    )
    top.add_argument("--version", action="version", version=__version__)
    subparsers = top.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, run, add, text, example in _COMMANDS:
        made = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        made.set_defaults(run=run)
        made.add_argument("--traceback", action="store_true", help="show where an error comes from")
        made.add_argument(
            "--trust", action="store_true", help="open model files as Keras does, with the code that they may run"
        )
        made.add_argument(
            "--max_bytes", type=int, help=f"bytes that the arrays of one file may take in memory ({MAX_BYTES:,})"
        )
        made.add_argument(
            "--max_seconds", type=float, help=f"seconds that it may take to open a Keras model ({MAX_SECONDS:g})"
        )
        add(made)
        made.epilog = "\n\n".join([*([made.epilog] if made.epilog else []), f"example:\n  {_line(name, example)}"])
    return top


def _line(command: str, arguments: str) -> str:
    """Returns a command line as a shell takes it."""
    return f"tfmiaq {command} {shlex.join(arguments.split())}"


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
        sys.exit(judging.BAD_INPUT)

"""The command line: what the functions of the same names do, for files."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Optional

import tfmiaq
from tfmiaq import datasets
from tfmiaq.policy import BitwidthPolicy, OutputBits
from tfmiaq.tflite.flatbuffer import read_model

Arguments = argparse.Namespace
_FAILED, _BAD_INPUT = 1, 2
_MODEL = "a .keras or .h5 file, or the folder of a SavedModel"
_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")
_POLICY = (
    "bit-widths: 'default', or weights and activations between ends of 8 bits, such as w2a4, or the path of a policy's "
    "JSON"
)


def policy_of(text: str) -> BitwidthPolicy:
    """A policy by name ("default"), by bits ("w2a4"), or from a JSON file.

    Raises:
        ValueError: None of these, or bits outside 1 to 8.
    """
    bits = re.fullmatch(r"w(\d)a(\d)", text)
    if bits:
        return BitwidthPolicy.uniform(int(bits[1]), int(bits[2]))
    if text == "default":
        return BitwidthPolicy.mia_default()
    if not pathlib.Path(text).is_file():
        raise ValueError(
            f"Expected 'default', bits such as w2a4, or the path of a policy's JSON as policy. Received {text!r}."
        )
    return BitwidthPolicy.from_json(pathlib.Path(text).read_text(encoding="utf-8"))


def function_of(text: str) -> Callable[..., Any]:
    """The function that FILE.py:NAME names. Its folder goes to where Python looks for modules, as for `python FILE.py`.

    Raises:
        ValueError: No such file, or no such function in it.
    """
    found = _FUNCTION.fullmatch(text)
    path = pathlib.Path(found["file"]).absolute() if found else None
    if found is None or path is None or not path.is_file():
        raise ValueError(f"Expected FILE.py:FUNCTION of a file that exists. Received {text!r}.")
    sys.path.insert(0, str(path.parent))
    module = importlib.import_module(path.stem)
    if not path.samefile(module.__file__ or ""):
        raise ValueError(f"{path.name} has the name of another module ({module.__file__}). Give it a name of its own.")
    function = getattr(module, found["name"], None)
    if not callable(function):
        raise ValueError(f"{path.name} has no function {found['name']!r}.")
    return function


def _records(given: Arguments) -> tuple[Any, Any]:
    """Members and non-members."""
    data = datasets.load(given.records, rescale=not given.raw)
    count = len(data.x_train) if given.members is None else given.members
    if not 1 <= count <= len(data.x_train):
        raise ValueError(f"{data.name} has {len(data.x_train)} training records. Received --members={count}.")
    return (data.x_train[:count], data.y_train[:count]), (data.x_test, data.y_test)


def _load(path: str) -> Any:
    try:
        return tfmiaq.load_model(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path!r} is no Keras model that can be loaded ({_MODEL}): {error}") from error


def _target(text: str) -> Any:
    """What `audit` takes: a .tflite, a pair of saved outputs, or a model that is loaded."""
    if "," in text:
        return tuple(text.split(","))
    return read_model(text) if text.endswith(".tflite") else _load(text)


def _summary(given: Arguments) -> int:
    print(tfmiaq.summary(_load(given.model), policy_of(given.policy) if given.policy else None))
    return 0


def _audit(given: Arguments) -> int:
    names = [pathlib.Path(target.split(",")[0]).name for target in given.targets]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected targets of different names. Received {', '.join(names)}.")
    if len(names) > 1 and given.train:
        raise ValueError("Reference models go through one target's pipeline (--train): audit the targets one by one.")
    pipeline = [function_of(text) for text in given.train]
    members, non_members = _records(given)
    # All of them are read before the first is audited.
    targets = {name: _target(text) for name, text in zip(names, given.targets)}
    other = None if given.other is None else _target(given.other)
    reports = {}
    for name, target in targets.items():
        reports[name] = report = tfmiaq.audit(
            target,
            members,
            non_members,
            given.attacks.split(",") if given.attacks else None,
            reference_models=tfmiaq.ReferenceModels(
                pipeline, given.references, cache=given.out / "reference_models", n_jobs=given.jobs
            )
            if pipeline
            else None,
            other=other,
            augmented_queries=given.queries,
            seed=given.seed,
        )
        report.save(given.out / name if len(names) > 1 else given.out)
    if len(reports) > 1:
        compared = tfmiaq.compare(reports)
        compared.save(given.out)
        print(compared)
    else:
        print(report)
    print(f"\nWritten to {given.out}")
    limit = 1.0 if given.max_auc is None else given.max_auc
    above = {name: report.auc for name, report in reports.items() if report.auc > limit}
    for name, auc in above.items():
        print(f"{name}: an AUC of {auc:.3f}, above --max_auc={limit}.", file=sys.stderr)
    return _FAILED if above else 0


def _search(given: Arguments) -> int:
    train, validation = _records(given)
    found = tfmiaq.search_policy(
        _load(given.model),
        train,
        validation,
        max_accuracy_drop=given.max_accuracy_drop,
        n_trials=given.trials,
        sampler=given.sampler,
        epochs=given.epochs,
        finalists=given.finalists,
        folder=given.out,
        storage=given.storage,
        seed=given.seed,
    )
    print(f"{found}\n\nWritten to {given.out}; the best is {given.out / 'best.json'}")
    return 0


def _recipe(given: Arguments) -> Optional[Any]:
    """The recipe of the flags, on the ground of a whole training or of fine-tuning; None without any."""
    from tfmiaq.training import recipe

    names = ("epochs", "learning_rate", "batch_size", "weight_decay", "mixup")
    fields = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    if given.augment:
        fields["augment"] = recipe.flips_and_shifts()
    return (
        dataclasses.replace(recipe.FROM_SCRATCH if given.folds else recipe.TrainingRecipe(), **fields)
        if fields
        else None
    )


def _defend(given: Arguments) -> int:
    if (given.output_bits is None) != (given.output_clip is None):
        raise ValueError("Expected both of --output_bits and --output_clip, or neither.")
    if given.output_bits is not None and given.policy == "search":
        raise ValueError("Answers are no knob of the search: find a policy first, then defend with it and the answers.")
    policy: Any = given.policy
    if policy != "search":
        policy = policy_of(policy)
        if given.output_bits is not None:
            policy = dataclasses.replace(policy, output=OutputBits(given.output_bits, given.output_clip))
    train, test = _records(given)
    defence = tfmiaq.defend(
        function_of(given.model) if _FUNCTION.fullmatch(given.model) else _load(given.model),
        train,
        test,
        policy=policy,
        recipe=_recipe(given),
        folds=given.folds,
        share=given.share,
        repeats=given.repeats,
        n_reference=given.references,
        target=given.target,
        labels=_labels(given),
        folder=given.out,
        n_trials=given.trials,
        max_accuracy_drop=given.max_accuracy_drop,
        n_jobs=given.jobs,
        seed=given.seed,
    )
    print(defence)
    return 0


def _labels(given: Arguments) -> Optional[list[str]]:
    return None if given.labels is None else given.labels.read_text(encoding="utf-8").splitlines()


def _convert(given: Arguments) -> int:
    given.file.parent.mkdir(parents=True, exist_ok=True)
    buffer = tfmiaq.convert(_load(given.model), given.target, io_type=given.io_type, labels=_labels(given))
    given.file.write_bytes(buffer)
    print(f"{given.file}: {len(buffer):,} bytes")
    return 0


def _verify(given: Arguments) -> int:
    x = datasets.load(given.records, rescale=not given.raw).x_test[: given.count]
    verification = tfmiaq.verify(_load(given.model), str(given.file), x)
    print(verification)
    return 0 if verification.exact else _FAILED


def _check(given: Arguments) -> int:
    found = tfmiaq.edgetpu.check(str(given.file))
    print(found)
    return 0 if found.mapped else _FAILED


def _add_records(parser: argparse.ArgumentParser, more: bool = True) -> None:
    group = parser.add_argument_group("records")
    group.add_argument(
        "--records",
        required=True,
        help="an .npz with x_train, y_train (members), x_test and y_test (others of their kind), or one of "
        f"{', '.join(datasets.NAMES)}",
    )
    group.add_argument("--raw", action="store_true", help="take images of bytes as they are, not divided by 255")
    if more:
        group.add_argument("--members", type=int, help="how many of x_train, from the first on, were trained on")
        parser.add_argument("--seed", type=int, default=0, help="seed of all that is drawn (0)")


def _add_adaptive(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--references", type=int, default=4, help="reference models of an adaptive attacker (4)")
    parser.add_argument("--jobs", type=int, help="processes that train them (1)")


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=100, help="allocations that a search scores (100)")
    parser.add_argument("--max_accuracy_drop", type=float, default=0.01, help="what a search may lose (0.01)")


def _add_conversion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target", choices=("mobile", "edgetpu"), default="mobile", help="float or integer ends (mobile)"
    )
    parser.add_argument("--labels", type=pathlib.Path, help="text file with a class name on each line")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "recipe of the quantized model",
        "Without any of these defend chooses: cross-distillation where the float model has learnt its records by "
        "heart. With them the float model is trained on, unless --folds are given.",
    )
    group.add_argument("--epochs", type=int, help="epochs (24 with --folds, else 10)")
    group.add_argument("--learning_rate", type=float, help="peak (0.1 with --folds, else 0.02)")
    group.add_argument("--batch_size", type=int, help="records in a batch (64)")
    group.add_argument("--weight_decay", type=float, help="weight decay (5e-4 with --folds, else none)")
    group.add_argument("--mixup", type=float, help="alpha of mixup (0)")
    group.add_argument("--augment", action="store_true", help="flip and shift the images of every batch")
    group.add_argument("--folds", type=int, help="teachers of cross-distillation; 0 trains the float model on")
    group.add_argument("--repeats", type=int, default=1, help="how often folds are drawn anew (1)")
    group.add_argument("--share", type=float, default=1.0, help="the teachers' share of the labels (1.0)")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser("tfmiaq", description="Quantization against membership inference.")
    top.add_argument("--version", action="version", version=tfmiaq.__version__)
    commands = top.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[Arguments], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        made.set_defaults(run=run)
        made.add_argument("--traceback", action="store_true", help="show where an error comes from")
        return made

    made = command("summary", _summary, "bits, sizes and multiply-adds, layer by layer")
    made.add_argument("model", help=_MODEL)
    made.add_argument("--policy", help=f"of a float model, what it would become: {_POLICY}")

    made = command("audit", _audit, "membership inference attacks, as a report with figures")
    made.add_argument(
        "targets", nargs="+", metavar="target", help=f"a .tflite, {_MODEL}, or saved outputs as members.npy,others.npy"
    )
    _add_records(made)
    made.add_argument("--attacks", help="names, with commas in between, or all (those strongest for their cost)")
    made.add_argument(
        "--train",
        action="append",
        default=[],
        metavar="FILE.py:FUNCTION",
        help="the target's pipeline, for reference models: from (x, y) to a model; given again, from (model, x, y)",
    )
    _add_adaptive(made)
    made.add_argument("--other", help="another version of the target, which the attacker holds too")
    made.add_argument("--queries", action="store_true", help="ask for changed copies of each record too")
    made.add_argument("--out", type=pathlib.Path, default=pathlib.Path("audit"), help="folder of the report (audit)")
    made.add_argument("--max_auc", type=float, help="exit with status 1 if the AUC is above this")

    made = command("search", _search, "bits that tell least at an accuracy that is asked for")
    made.epilog = "Bits are chosen on x_test: audit on records that are not among them."
    made.add_argument("model", help=f"a trained float model: {_MODEL}")
    _add_records(made)
    _add_search(made)
    made.add_argument("--sampler", choices=("tpe", "nsga2", "random"), default="tpe", help="Optuna's sampler (tpe)")
    made.add_argument("--epochs", type=int, default=5, help="epochs of the shared model and of each finalist (5)")
    made.add_argument("--finalists", type=int, default=4, help="allocations that are trained by themselves (4)")
    made.add_argument("--storage", help="URL of a database for the study, which several machines may share")
    made.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("search"), help="folder of what is found (search)"
    )

    made = command("defend", _defend, "the whole way: audit, bits, training, audit, .tflite, verification, audit")
    made.add_argument(
        "model", help=f"FILE.py:FUNCTION from (x, y) to a trained model, so that the attacker adapts; or {_MODEL}"
    )
    _add_records(made)
    made.add_argument("--policy", default="default", help=f"{_POLICY}, or 'search'")
    made.add_argument("--output_bits", type=int, help="bits of the answers")
    made.add_argument("--output_clip", type=float, help="distance to the largest logit at which coarse answers end")
    _add_recipe(made)
    _add_adaptive(made)
    _add_search(made)
    _add_conversion(made)
    made.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("defended"), help="folder of all of it (defended)"
    )

    made = command("convert", _convert, "a .tflite of a trained quantized model")
    made.add_argument("model", help=_MODEL)
    made.add_argument("file", type=pathlib.Path, help="the .tflite to write")
    _add_conversion(made)
    made.add_argument("--io_type", choices=("int8", "uint8"), help="type of the ends for edgetpu (int8)")

    made = command(
        "verify", _verify, "whether a .tflite is the trained model, level by level; else exits with status 1"
    )
    made.add_argument("model", help=_MODEL)
    made.add_argument("file", type=pathlib.Path, help="the .tflite")
    _add_records(made, more=False)
    made.add_argument("--count", type=int, default=500, help="how many of x_test to compare answers on (500)")

    made = command("check", _check, "what the Edge TPU compiler will map; exits with status 1 if not all of it")
    made.add_argument("file", type=pathlib.Path, help="a .tflite")
    return top


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Runs a command, and exits: with 0; with 1 if what was checked is not as asked; with 2 on bad input."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = parser().parse_args(arguments)
    try:
        sys.exit(given.run(given))
    except (OSError, TypeError, ValueError) as error:
        if given.traceback:
            raise
        print(f"tfmiaq: {error}", file=sys.stderr)
        sys.exit(_BAD_INPUT)


if __name__ == "__main__":
    main()

"""What each command does. TensorFlow loads when a command runs, after its options are checked."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any, Optional

from tfmiaq.cli.flags import given_fields
from tfmiaq.cli.inputs import (
    FUNCTION,
    fitted,
    function_of,
    load_labels,
    load_model,
    load_records,
    load_target,
    load_unlabelled,
    policy_of,
)
from tfmiaq.cli.judging import FAILED, SUCCEEDED, conditions_of, show
from tfmiaq.policy import OutputBits
from tfmiaq.training.distillation import CrossDistillation
from tfmiaq.training.recipe import TrainingRecipe, default_recipe, flips_and_shifts

Arguments = argparse.Namespace
_OF_REFERENCES = ("minutes", "known_seed", "cache", "n_jobs")


def summary(given: Arguments) -> int:
    """Prints the layers of a model."""
    policy = policy_of(given.policy) if given.policy else None
    from tfmiaq.quantization import summary

    print(summary(load_model(given.model, given), policy))
    return SUCCEEDED


def audit(given: Arguments) -> int:
    """Audits targets, and compares several of them."""
    names = [pathlib.Path(target.split(",")[0]).name for target in given.targets]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected targets of different names. Received {', '.join(names)}.")
    if len(names) > 1 and given.train_fn:
        raise ValueError("Reference models go through one target's pipeline (--train_fn): audit targets one by one.")
    conditions = conditions_of(given)
    reference_models = _reference_models(given)
    canaries = _canaries(given)
    members, non_members, groups = load_records(given)
    slices = None if given.slices is None else _slices(given, len(members[1]), len(non_members[1]))
    # All of them are read before the first is audited.
    targets = {name: load_target(text, given) for name, text in zip(names, given.targets)}
    other = None if given.other is None else load_target(given.other, given)
    from tfmiaq import auditing

    reports = {}
    for text, (name, target) in zip(given.targets, targets.items()):
        report = auditing.audit(
            target,
            (fitted(members[0], target), members[1]),
            (fitted(non_members[0], target), non_members[1]),
            given.attacks if given.attacks in (None, "all") else given.attacks.split(","),
            reference_models=reference_models,
            other=other,
            augmented_queries=given.augmented_queries,
            groups=groups,
            slices=slices,
            canaries=canaries,
            access=given.access,
            seed=given.seed,
        )
        about = report.about if "," in text else report.about.of_file(text)
        reports[name] = dataclasses.replace(report, about=about)
        reports[name].save(given.folder / name if len(names) > 1 else given.folder, given.exposed)
    shown: Any = reports[names[0]]
    if len(reports) > 1:
        shown = auditing.compare(reports)
        shown.save(given.folder)
    return show(given, conditions, reports, shown)


def report(given: Arguments) -> int:
    """Writes the pages of saved reports again, and compares several."""
    conditions = conditions_of(given)
    names = [_name_of_report(path) for path in given.reports]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected reports in folders of different names. Received {', '.join(names)}.")
    from tfmiaq import auditing

    reports = {name: auditing.AuditReport.load(path) for name, path in zip(names, given.reports)}
    shown: Any = reports[names[0]] if len(reports) == 1 else auditing.compare(reports)
    shown.save(given.folder)
    return show(given, conditions, reports, shown)


def _name_of_report(path: pathlib.Path) -> str:
    """Returns the name of a report's folder, or of a file that was named otherwise than report.json."""
    return path.absolute().parent.name if path.name == "report.json" else path.name.removesuffix(".json")


def _slices(given: Arguments, members: int, non_members: int) -> dict[str, Any]:
    """Returns the attributes of a file: for each NAME its arrays NAME_train, as far as members go, and NAME_test."""
    import numpy as np

    from tfmiaq.loading.arrays import read_npz

    found = {name: np.atleast_1d(values) for name, values in read_npz(given.slices, given.max_bytes).items()}
    names = sorted({name.removesuffix("_train").removesuffix("_test") for name in found})
    missing = [name for base in names for name in (f"{base}_train", f"{base}_test") if name not in found]
    if missing or not names:
        raise ValueError(
            f"--slices: Expected arrays NAME_train and NAME_test of each attribute in {given.slices}. Missing: "
            f"{', '.join(missing) or 'all'}."
        )
    for base in names:
        if len(found[f"{base}_train"]) < members or len(found[f"{base}_test"]) != non_members:
            raise ValueError(
                f"--slices: Expected {members} values of {base}_train or more, and {non_members} of {base}_test. "
                f"Received {len(found[f'{base}_train'])} and {len(found[f'{base}_test'])}."
            )
    return {base: np.concatenate([found[f"{base}_train"][:members], found[f"{base}_test"]]) for base in names}


def _reference_models(given: Arguments) -> Optional[Any]:
    """Returns the reference models of the flags, or None without a pipeline."""
    flags = {"count": given.reference_models, **{name: getattr(given, name) for name in _OF_REFERENCES}}
    flags = {name: value for name, value in flags.items() if value is not None}
    if not given.train_fn:
        if flags:
            raise ValueError(
                "--reference_models, --minutes, --known_seed, --cache and --n_jobs need the target's pipeline: give "
                "--train_fn."
            )
        return None
    from tfmiaq.signals import ReferenceModels

    return ReferenceModels([function_of(text) for text in given.train_fn], **{"cache": given.folder / "cache", **flags})


def _canaries(given: Arguments) -> Optional[Any]:
    """Returns the canaries of the flag, or None without it."""
    if given.canaries is None:
        return None
    if not given.train_fn:
        raise ValueError("--canaries are trained on through the target's pipeline: give --train_fn.")
    from tfmiaq.auditing import Canaries

    return Canaries(given.canaries)


def _recipe(given: Arguments, base: TrainingRecipe) -> Optional[TrainingRecipe]:
    """Returns a recipe with the fields of the flags; None without any."""
    fields = given_fields(given, TrainingRecipe)
    if fields.pop("augment", None):
        fields["augment"] = flips_and_shifts()
    return dataclasses.replace(base, **fields) if fields else None


def defend(given: Arguments) -> int:
    """Takes a model the whole way."""
    policy, cross = _policy(given), _cross_distillation(given)
    recipe = _recipe(given, default_recipe(bool(cross)))
    train, test, groups = load_records(given)
    model = function_of(given.model) if FUNCTION.fullmatch(given.model) else load_model(given.model, given)
    from tfmiaq.defence import defend

    defence = defend(
        model,
        (fitted(train[0], model), train[1]),
        (fitted(test[0], model), test[1]),
        policy=policy,
        recipe=recipe,
        cross_distillation=cross,
        reference_models=given.reference_models,
        minutes=given.minutes,
        groups=groups,
        target=given.target,
        labels=load_labels(given),
        folder=given.folder,
        n_jobs=given.n_jobs,
        seed=given.seed,
    )
    print(defence)
    return SUCCEEDED


def _policy(given: Arguments) -> Any:
    """Returns the policy of the flags."""
    if (given.output_bits is None) != (given.output_clip is None):
        raise ValueError("Expected both of --output_bits and --output_clip, or neither.")
    policy = policy_of(given.policy)
    if given.output_bits is None:
        return policy
    return dataclasses.replace(policy, output=OutputBits(given.output_bits, given.output_clip))


def _cross_distillation(given: Arguments) -> Any:
    """Returns the options of the flags; False if it is turned off, and None if neither is given."""
    fields = given_fields(given, CrossDistillation)
    if given.no_cross_distillation and fields:
        raise ValueError(f"--no_cross_distillation goes without {', '.join(f'--{name}' for name in fields)}.")
    if given.no_cross_distillation:
        return False
    return CrossDistillation(**fields) if fields else None


def convert(given: Arguments) -> int:
    """Converts a quantized model."""
    model, labels = load_model(given.model, given), load_labels(given)
    from tfmiaq.caching.store import write_whole
    from tfmiaq.tflite.conversion import convert
    from tfmiaq.tflite.stored import stored_weights

    buffer = convert(model, given.target, io_type=given.io_type, labels=labels, pack=given.pack)
    write_whole(given.file, lambda path: path.write_bytes(buffer))
    if given.pack:
        print(stored_weights(buffer))
    print(f"{given.file}: {len(buffer):,} bytes")
    return SUCCEEDED


def verify(given: Arguments) -> int:
    """Compares a .tflite with the model that it comes from."""
    from tfmiaq._checks import AT_LEAST_ONE, check

    count = check("verify", count=(given.count, AT_LEAST_ONE))["count"]
    x = load_unlabelled(given)[1][:count]
    model = load_model(given.model, given)
    from tfmiaq.tflite.verification import verify

    verification = verify(model, str(given.file), fitted(x, model))
    print(verification)
    return SUCCEEDED if verification.exact else FAILED


def check(given: Arguments) -> int:
    """Prints what the Edge TPU compiler will map."""
    from tfmiaq import edgetpu

    found = edgetpu.check(str(given.file))
    print(found)
    return SUCCEEDED if found.mapped else FAILED

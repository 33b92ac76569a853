"""The whole way in one call: audit, bits, quantization-aware training, .tflite, verification, and audits of both."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, Optional, Union

import numpy as np

from tfmiaq import signals
from tfmiaq._backend import keras
from tfmiaq._checks import N_JOBS, SEED, Choice, InvalidArgumentError, Where, check, instance, integer
from tfmiaq.attacks.suite import SMALLEST_SET
from tfmiaq.auditing import AuditReport, Comparison, audit, compare
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.seeds import Seeds
from tfmiaq.caching.store import Store, check_space, keras_model, write_text, write_whole
from tfmiaq.loading.keras_files import open_keras_model
from tfmiaq.policy import BitwidthPolicy
from tfmiaq.quantization import get_policy
from tfmiaq.signals import ReferenceModels, half_splits
from tfmiaq.signals.reference_models import MINUTES
from tfmiaq.tflite.conversion import TARGETS, convert, numbers_of_labels
from tfmiaq.tflite.verification import Verification, verify
from tfmiaq.training.distillation import CrossDistillation
from tfmiaq.training.out_of_fold import TrainFloat
from tfmiaq.training.recipe import TrainingRecipe, check_recipe, default_recipe
from tfmiaq.training.stages import CrossDistilledTraining, QuantizedTraining

# docs/frontier.md: where the gap is wide, cross-distillation leaks less than every other row of its accuracy. Where it
# is narrow, teachers of fewer records cost accuracy.
_MEMORIZED_GAP = 0.2
_MODELS = keras_model(functools.partial(open_keras_model, imported=True))


@dataclasses.dataclass(frozen=True, repr=False)
class Defence:
    """What `defend` made; prints as the comparison of its audits.

    Attributes:
        model: The quantized model.
        buffer: The .tflite.
        policy: The bits of each layer.
        reports: Audits of "float", "quantized" and ".tflite".
        verification: The file against the model.
        folder: Folder of everything.
    """

    model: Any
    buffer: bytes
    policy: BitwidthPolicy
    reports: dict[str, AuditReport]
    verification: Verification
    folder: pathlib.Path

    @property
    def comparison(self) -> Comparison:
        """The audits side by side."""
        return compare(self.reports)

    def __str__(self) -> str:
        return f"{self.comparison}\nWritten to {self.folder}"

    def __repr__(self) -> str:
        aucs = ", ".join(f"{name} {float(report.auc):.3f}" for name, report in self.reports.items())
        return f"Defence(AUC: {aucs}; {len(self.buffer):,} bytes in {str(self.folder)[-80:]!r})"

    def _repr_html_(self) -> str:
        return self.comparison._repr_html_()


@dataclasses.dataclass(frozen=True)
class _Run:
    """The checked arguments of a call of `defend`, and its records by their part.

    `choosing` and `non_members` are the two halves of the test records: for choices, and for audits. `groups` has
    the groups of each part's records by the name of the part, or is None.
    """

    model: Any
    members: signals.Records
    choosing: signals.Records
    non_members: signals.Records
    groups: Optional[dict[str, np.ndarray]]
    policy: BitwidthPolicy
    recipe: Optional[TrainingRecipe]
    cross_distillation: Union[CrossDistillation, Literal[False], None]
    reference_models: int
    minutes: Optional[float]
    target: str
    labels: Optional[Sequence[str]]
    folder: pathlib.Path
    n_jobs: Optional[int]
    seeds: Seeds
    verbose: bool

    @property
    def is_function(self) -> bool:
        """Whether the float model is trained here, so that reference models can be trained like it."""
        return not isinstance(self.model, keras.Model)

    @property
    def cache(self) -> pathlib.Path:
        """Folder that keeps finished work."""
        return self.folder / "cache"

    @property
    def key(self) -> str:
        """Hash of what the float model is made of."""
        source = self.model if self.is_function else [self.model.to_json(), *self.model.get_weights()]
        return fingerprint("float", source, *self.members, self.seeds.trainings)

    def stored_model(self, name: str, key: str, make: Callable[[], Any]) -> Any:
        """Returns a finished model, or makes it, and writes it to a file of a name of its own that is never read."""
        store = Store(self.cache)
        model = store.get_or_make(key, make, _MODELS)
        store.export(key, _MODELS, self.folder / name)
        return model


def defend(
    model: Union[Any, TrainFloat],
    train: Any,
    test: Any,
    *,
    policy: Optional[BitwidthPolicy] = None,
    recipe: Optional[TrainingRecipe] = None,
    cross_distillation: Union[CrossDistillation, Literal[False], None] = None,
    reference_models: int = 16,
    minutes: Optional[float] = None,
    groups: Optional[Any] = None,
    target: str = "mobile",
    labels: Optional[Sequence[str]] = None,
    folder: Any = "defended",
    n_jobs: Optional[int] = None,
    seed: Optional[int] = None,
    verbose: bool = True,
) -> Defence:
    """Takes a model the whole way: audit, bits, quantization-aware training, audit, .tflite, verification, audit.

    A float model that has memorized its records is not trained on: there the quantized model starts from random weights
    and learns from teachers that were not trained on a record (`cross_distill`); where all layers of weights are dense,
    in large clipped batches and without BatchNormalization. docs/defence.md has figures. A second record of the same
    person voids that where `groups` do not tell of it.

    Output bits hide from who can only ask. The audit of the .tflite has both attackers: its own figures are of who
    holds the file, which reads the logits in front of the rounding; `query` has the others.

    The test records are split: one half shows whether the float model has memorized its records, and the other is
    audited, so that no audited record had a part in a choice. Where the recipe augments, or the policy has `output`,
    the audits make augmented queries of each record too. All finished work is kept in the folder `cache` under its own
    hash, so that a call that was stopped goes on with the same arguments, and one with other arguments takes nothing
    that is not its own.

    Example:
        >>> policy = tfmiaq.BitwidthPolicy.uniform(2, 4)
        >>> defence = tfmiaq.defend(train_float, (x_train, y_train), (x_test, y_test), policy=policy)
        >>> print(defence)

    Args:
        model: A trained Keras model, or a function from (x, y) to one. Only with a function can the attacker adapt:
            then reference models go through it and through the same quantization.
        train: Pair (x, y) of training records: the members.
        test: Pair (x, y) of records of the same distribution that were not trained on.
        policy: Bit-widths. None for `BitwidthPolicy.mia_default()`.
        recipe: How the quantized model is trained. None for what `tfmiaq.training.default_recipe` gives: with
            cross-distillation `CLIPPED` for dense layers, else `FROM_SCRATCH`; without it `FINE_TUNING`.
        cross_distillation: How teachers label the records, if `model` is a function. False trains the quantized model
            on from the float model, on the true labels. None for `CrossDistillation()` if `model` is a function, no
            recipe is given, and the float model is right on its members in at least 0.2 more than on the other half of
            the test records; else for False.
        reference_models: Number of reference models of each audit, if `model` is a function: at least 2, or 0 for none.
        minutes: As of `ReferenceModels`, for each audit. None for `reference_models` of them.
        groups: Pair of arrays, (groups of the training records, groups of the test records): one value for each record,
            such as its person, patient or device. No group is split by halves, folds and reference models. None where
            each record is a group of its own.
        target: As of `convert`.
        labels: As of `convert`; for a function as many as the records have classes.
        folder: Folder for everything that is made.
        n_jobs: Processes that train reference models.
        seed: Seed of splits, trainings and audits. None for 0 in splits, teachers and audits, and for one that nobody
            knows in the model's trainings: who knows it finds more. `cache` keeps it, in the file `secret`.
        verbose: Show progress bars where standard error is a terminal.

    Returns:
        What was made. The folder has it too: float.keras, quantized.keras, policy.json, model.tflite, verification.txt,
        headline.json, reports/ and comparison.html.

    Raises:
        InvalidArgumentError: Arguments out of their ranges or of other types; all of them are listed, before any
            training.
        TypeError, ValueError: As `audit`, `quantize_model` and `convert`.
    """
    policy = BitwidthPolicy.mia_default() if policy is None else policy
    options = _check_options(
        model=model,
        policy=policy,
        recipe=recipe,
        cross_distillation=cross_distillation,
        reference_models=reference_models,
        minutes=minutes,
        target=target,
        labels=labels,
        n_jobs=n_jobs,
        seed=seed,
        folder=folder,
    )
    parts = _split_records(train, test, groups, options)
    check_space(options["folder"] / "cache")
    seeds = Seeds.of(options.pop("seed"), options["folder"] / "cache")
    run = _Run(**options, **parts, seeds=seeds, verbose=verbose)
    float_model = _float_stage(run)
    run = _decide_training(run, float_model)
    quantized, quantize = _quantized_stage(run, float_model)

    pipeline = [model, quantize]
    reports = {"float": _audit_stage(run, "float", float_model, [model])}
    reports["quantized"] = _audit_stage(run, "quantized", quantized, pipeline, float_model)
    buffer, verification = _file_stage(run, quantized, reports["quantized"])
    reports[".tflite"] = _audit_stage(run, ".tflite", buffer, pipeline, float_model)
    compare(reports).save(run.folder)
    headlines = {name: report.headline() for name, report in reports.items()}
    write_text(run.folder / "headline.json", json.dumps(headlines, indent=2))
    return Defence(quantized, buffer, get_policy(quantized), reports, verification, run.folder)


def _is_model_or_function(value: Any) -> bool:
    return isinstance(value, keras.Model) or callable(value)


def _are_labels(value: Any) -> bool:
    return value is None or (isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value))


def _is_cross_distillation(value: Any) -> bool:
    return value is None or value is False or isinstance(value, CrossDistillation)


def _check_options(**given: Any) -> dict[str, Any]:
    """Returns the options as plain values, or raises InvalidArgumentError with the faults of all of them."""
    domains = {
        "model": Where(_is_model_or_function, "a keras.Model or a function from (x, y) to one"),
        "policy": instance("a BitwidthPolicy or None", BitwidthPolicy),
        "recipe": instance("a TrainingRecipe or None", TrainingRecipe, or_none=True),
        "cross_distillation": Where(_is_cross_distillation, "a CrossDistillation, False or None"),
        "reference_models": integer(2, also=(0,)),
        "minutes": MINUTES,
        "target": Choice(TARGETS),
        "labels": Where(_are_labels, "a list of names or None"),
        "n_jobs": N_JOBS,
        "seed": dataclasses.replace(SEED, or_none=True, none_means="one that nobody knows"),
        "folder": Where(lambda given: isinstance(given, (str, os.PathLike)) and bool(os.fspath(given)), "a path"),
    }
    checked = check("defend", **{name: (value, domains[name]) for name, value in given.items()})
    check_recipe("defend", checked["recipe"])
    cross = checked["cross_distillation"]
    if cross and isinstance(checked["model"], keras.Model):
        raise InvalidArgumentError(
            "defend: cross_distillation trains teachers. Expected a function from (x, y) to a model as model."
        )
    if cross:
        cross.check_recipe(checked["recipe"])
    return {**checked, "folder": pathlib.Path(checked["folder"])}


def _split_records(train: Any, test: Any, groups: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the records by their part, or raises an error if they are too few or do not go with the options."""
    members, rest = signals.check_records(train, test, "defend", ("train", "test"))
    known: tuple[Any, Any] = (None, None)
    if groups is not None:
        # Each half of the test records is audited, and split for that.
        sizes = len(members[1]), len(rest[1])
        known = signals.check_group_pair(groups, sizes, "defend", ("train", "test"), fewest=(2, 4))
    halves = half_splits(len(rest[1]), 2, options["seed"] or 0, known[1])
    choosing, non_members = ((rest[0][half], rest[1][half]) for half in halves)
    of_parts = None
    if groups is not None:
        of_parts = {"members": known[0], "choosing": known[1][halves[0]], "non_members": known[1][halves[1]]}
    if min(len(members[1]), len(rest[1]) // 2) < SMALLEST_SET:
        raise InvalidArgumentError(
            f"defend: Expected at least {SMALLEST_SET} training records and {2 * SMALLEST_SET} test records, half of "
            f"which are audited. Received {len(members[1])} and {len(rest[1])}."
        )
    if options["cross_distillation"]:
        options["cross_distillation"].check_fits(len(members[1]), "defend")
    classes = int(max(members[1].max(), rest[1].max())) + 1
    _check_labels(options["labels"], options["model"], classes)
    return {"members": members, "choosing": choosing, "non_members": non_members, "groups": of_parts}


def _check_labels(labels: Optional[Sequence[str]], model: Any, classes: int) -> None:
    """Raises InvalidArgumentError if there is not one label for each class of the model, or of the records before."""
    is_model = isinstance(model, keras.Model)
    numbers = numbers_of_labels(model.outputs[0].shape[-1]) if is_model else (classes,)
    if labels is not None and len(labels) not in numbers:
        of_more = "" if is_model else " of the records; leave them out for a model of more, and pass them to `convert`"
        raise InvalidArgumentError(
            f"defend: Expected labels to be {' or '.join(map(str, numbers))} names, one for each class{of_more}. "
            f"Received {len(labels)}."
        )


def _float_stage(run: _Run) -> Any:
    """Returns the float model: the given one, or what the function trains."""
    model = run.stored_model(
        "float.keras",
        run.key,
        lambda: _seeded(run.seeds.trainings, run.model, *run.members) if run.is_function else run.model,
    )
    # A function's model may have other classes than the records.
    _check_labels(run.labels, model, 0)
    return model


def _decide_training(run: _Run, float_model: Any) -> _Run:
    """Returns the run with its recipe, and with the cross-distillation that None stands for."""
    cross = run.cross_distillation
    if cross is None:
        cross = False
        if run.is_function and run.recipe is None:
            on_members, on_others = (
                float(np.mean(signals.predict_logits(float_model, x).argmax(1) == y))
                for x, y in (run.members, run.choosing)
            )
            if on_members - on_others >= _MEMORIZED_GAP:
                cross = CrossDistillation()
    recipe = default_recipe(bool(cross), float_model) if run.recipe is None else run.recipe
    return dataclasses.replace(run, cross_distillation=cross, recipe=recipe)


def _quantized_stage(run: _Run, float_model: Any) -> tuple[Any, Any]:
    """Returns the trained quantized model, and the stage of the pipeline that trains it."""
    assert run.recipe is not None
    quantize: Any = QuantizedTraining(run.policy, run.recipe)
    more, secret = {}, {}
    if isinstance(run.cross_distillation, CrossDistillation):
        quantize = CrossDistilledTraining(run.policy, run.recipe, run.model, run.cross_distillation, str(run.cache))
        more = {} if run.groups is None else {"groups": run.groups["members"]}
        secret = {} if run.seeds.secret is None else {"secret": run.seeds.secret}

    def train() -> Any:
        quantize.prepare(*run.members, run.verbose, **more)
        return _seeded(run.seeds.trainings, functools.partial(quantize, **more, **secret), float_model, *run.members)

    key = fingerprint(run.key, "quantized", quantize, *more.values())
    model = run.stored_model("quantized.keras", key, train)
    write_text(run.folder / "policy.json", get_policy(model).to_json())
    return model, quantize


def _audit_stage(
    run: _Run,
    name: str,
    audited: Any,
    pipeline: list[Any],
    float_model: Optional[Any] = None,
) -> AuditReport:
    """Returns the audit of a model or of a file, by an attacker who trains models of its kind if that can be."""
    options = None
    if run.is_function and run.reference_models:
        options = ReferenceModels(
            pipeline, run.reference_models, cache=run.cache, n_jobs=run.n_jobs, minutes=run.minutes
        )
    # docs/defence.md: augmented queries find more in models trained on changed records, and in quantized outputs.
    augments = run.recipe is not None and run.recipe.augment is not None
    copies = isinstance(run.cross_distillation, CrossDistillation) and run.cross_distillation.copies > 0
    rounds = float_model is not None and run.policy.output is not None
    report = audit(
        audited,
        run.members,
        run.non_members,
        reference_models=options,
        other=float_model,
        augmented_queries=augments or copies or rounds,
        groups=None if run.groups is None else (run.groups["members"], run.groups["non_members"]),
        seed=run.seeds.told,
        verbose=run.verbose,
    )
    report.save(run.folder / "reports" / name.lstrip("."))
    return report


def _file_stage(run: _Run, quantized: Any, report: AuditReport) -> tuple[bytes, Verification]:
    """Returns the .tflite, and what it is against the model."""
    buffer = convert(quantized, run.target, labels=run.labels, audit=report)
    write_whole(run.folder / "model.tflite", lambda path: path.write_bytes(buffer))
    verification = verify(quantized, buffer, run.non_members[0])
    write_text(run.folder / "verification.txt", str(verification))
    return buffer, verification


def _seeded(seed: int, make: Callable[..., Any], *arguments: Any) -> Any:
    keras.utils.set_random_seed(seed)
    return make(*arguments)

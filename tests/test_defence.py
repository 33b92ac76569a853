"""The whole way in one call."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pipelines
import pytest

import tfmiaq
import tfmiaq.defence
from tfmiaq._backend import keras
from tfmiaq.training import repeated, stages

RECIPE = tfmiaq.TrainingRecipe(epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def sets(digits):
    return (digits.x_train[:60], digits.y_train[:60]), (digits.x_test[:120], digits.y_test[:120])


def _untrained():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, name="logits"),
        ]
    )


def _train(x, y):
    return tfmiaq.TrainingRecipe(epochs=5, learning_rate=0.1, batch_size=16).fit(_untrained(), x, y)


def _noted(x, y):
    pipelines.note(len(x))
    return _train(x, y)


def _memorizing(x, y):
    pipelines.note(len(x))
    return tfmiaq.TrainingRecipe(epochs=40, learning_rate=0.1, batch_size=16).fit(_untrained(), x, y)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The notes of `pipelines.note`, which does not count in a function's fingerprint as a list of its own would."""
    path = tmp_path / "log"
    monkeypatch.setenv("TFMIAQ_TEST_LOG", str(path))
    return lambda: path.read_text().split() if path.exists() else []


def _defend(folder, sets, **given):
    given = {"recipe": RECIPE, "reference_models": 2, "target": "edgetpu", "seed": 0, **given}
    return tfmiaq.defend(_train, *sets, folder=folder, verbose=False, **given)


@pytest.fixture(scope="module")
def made(sets, tmp_path_factory):
    return _defend(tmp_path_factory.mktemp("defended"), sets)


@pytest.mark.slow
def test_all_of_it_is_made(made):
    assert made.verification.exact
    assert set(made.reports) == {"float", "quantized", ".tflite"}
    assert all(report.reference_models == 2 for report in made.reports.values())
    attacks = [attack.name for attack in made.reports[".tflite"].attacks]
    assert "two versions" in attacks and "label-only" not in attacks
    names = {"float.keras", "quantized.keras", "policy.json", "model.tflite", "verification.txt", "comparison.html"}
    assert names <= {path.name for path in made.folder.iterdir()}
    assert (made.folder / "reports" / "tflite" / "report.html").is_file()
    headline = json.loads((made.folder / "headline.json").read_text())
    assert headline["float"]["attack_accuracy"] == made.reports["float"].attack_accuracy
    assert "| .tflite |" in str(made)
    assert len(repr(made)) < 200 and "quantized 0." in repr(made)
    assert ".tflite" in made._repr_html_()
    metadata = tfmiaq.tflite.read_metadata(made.buffer)
    assert metadata["audit"]["attack_accuracy"] == made.reports["quantized"].attack_accuracy
    # The audited non-members are the half that no choice was made on.
    assert made.reports["float"].non_members == 60


@pytest.mark.slow
def test_each_audit_has_the_time_for_reference_models(made, sets, monkeypatch):
    options = []

    def noted(*args, reference_models, **given):
        options.append(reference_models)
        return made.reports["quantized"]

    monkeypatch.setattr(tfmiaq.defence, "audit", noted)
    _defend(made.folder, sets, minutes=0.5)
    assert [(option.count, option.minutes) for option in options] == [(2, 0.5)] * 3


@pytest.mark.slow
def test_models_that_are_trained_on_copies_get_augmented_queries(made, sets, tmp_path, monkeypatch):
    asked = []

    def noted(*args, augmented_queries, **given):
        asked.append(augmented_queries)
        return made.reports["quantized"]

    monkeypatch.setattr(tfmiaq.defence, "audit", noted)
    for copies in (0, 1):
        options = tfmiaq.CrossDistillation(folds=2, copies=copies)
        _defend(tmp_path / str(copies), sets, cross_distillation=options, reference_models=0)
    assert asked == [False] * 3 + [True] * 3


def _figures(made):
    return {name: report.to_json() for name, report in made.reports.items()}


@pytest.mark.slow
def test_a_second_call_trains_nothing(made, sets, monkeypatch):
    monkeypatch.setattr(tfmiaq.TrainingRecipe, "fit", lambda *args: pytest.fail("trained again"))
    monkeypatch.setattr(repeated._Training, "run", lambda *args: pytest.fail("trained again"))
    again = _defend(made.folder, sets)
    assert _figures(again) == _figures(made)
    assert again.buffer == made.buffer


@pytest.mark.slow
def test_without_a_seed_a_secret_is_drawn_kept_and_told_to_nobody(sets, tmp_path):
    options = tfmiaq.CrossDistillation(folds=2)
    made = []
    for name in ("one", "two", "one"):
        folder = tmp_path / name
        made.append(_defend(folder, sets, seed=None, cross_distillation=options, reference_models=0))
    secrets = [(each.folder / "cache" / "secret").read_text().strip() for each in made]
    assert secrets[0] != secrets[1] and secrets[0] == secrets[2] and int(secrets[0]) < 2**128
    weights = [tfmiaq.load_model(str(each.folder / "quantized.keras")).get_weights() for each in made]
    assert not all(np.array_equal(one, two) for one, two in zip(*weights[:2]))
    for one, again in zip(weights[0], weights[2]):
        np.testing.assert_array_equal(one, again)
    assert {report.seed for report in made[0].reports.values()} == {0}
    told = [path for path in made[0].folder.rglob("*") if path.is_file() and path.parent.name != "cache"]
    hidden = [secrets[0], str(int(secrets[0]) % 2**32)]
    assert told and not any(number.encode() in path.read_bytes() for path in told for number in hidden)


@pytest.mark.slow
def test_truncated_files_are_written_again(made, sets, monkeypatch):
    """Files of a name of their own are written from the cache, and never read."""
    monkeypatch.setattr(tfmiaq.TrainingRecipe, "fit", lambda *args: pytest.fail("trained again"))
    monkeypatch.setattr(repeated._Training, "run", lambda *args: pytest.fail("trained again"))
    monkeypatch.setattr(tfmiaq.defence, "audit", lambda *args, **given: made.reports["quantized"])
    paths = [made.folder / name for name in ("float.keras", "quantized.keras", "policy.json", "model.tflite")]
    whole = [path.read_bytes() for path in paths]
    for path, content in zip(paths, whole):
        path.write_bytes(content[: len(content) // 2])
    again = _defend(made.folder, sets)
    assert [path.read_bytes() for path in paths] == whole
    assert again.policy == made.policy


@pytest.mark.slow
def test_a_model_is_defended_with_augmentation(sets, tmp_path):
    float_model = _train(*sets[0])
    recipe = tfmiaq.TrainingRecipe(
        1, augment=keras.layers.RandomTranslation(0.1, 0.1), loss=tfmiaq.losses.RelaxLoss(0.2, True)
    )
    policy = tfmiaq.BitwidthPolicy.uniform(4, 4)
    made = tfmiaq.defend(float_model, *sets, policy=policy, recipe=recipe, folder=tmp_path, seed=0, verbose=False)
    assert tfmiaq.BitwidthPolicy.from_json((tmp_path / "policy.json").read_text()) == made.policy
    assert made.reports["quantized"].reference_models == 0
    # Models that were trained with augmentation get augmented queries.
    assert all("label-only" in {attack.name for attack in report.attacks} for report in made.reports.values())


@pytest.mark.slow
def test_a_cross_distilled_model_is_attacked_by_models_of_its_kind(sets, tmp_path, monkeypatch, log):
    weights = []
    label = stages.labelled

    def noted(train_fn, x, y, classes, options, **given):
        weights.append(options.teacher_weight)
        return label(train_fn, x, y, classes, options, **given)

    monkeypatch.setattr(stages, "labelled", noted)
    policy = tfmiaq.BitwidthPolicy(tfmiaq.LayerBits(2, 4), output=tfmiaq.OutputBits(4, 8.0))
    options = tfmiaq.CrossDistillation(folds=2, teacher_weight=0.5)
    given = {"policy": policy, "recipe": RECIPE, "cross_distillation": options, "reference_models": 2, "seed": 0}
    made = tfmiaq.defend(_noted, *sets, **given, folder=tmp_path, verbose=False)
    assert set(weights) == {0.5}
    # The float model and two reference models, of 60 records each, and two teachers of each of them.
    assert sorted(log()) == ["30"] * 6 + ["60"] * 3
    assert made.reports["quantized"].reference_models == 2
    assert made.policy.output == policy.output
    # Models of quantized outputs, and their reference models, get augmented queries.
    assert {"label-only", "RMIA on augmented queries", "LiRA on label agreement"} <= {
        a.name for a in made.reports[".tflite"].attacks
    }


@pytest.mark.slow
@pytest.mark.parametrize("memorized", [True, False])
def test_memorized_records_are_relearnt_from_teachers(sets, tmp_path, monkeypatch, log, memorized):
    """Random labels can only be memorized."""
    chance = [(x, np.random.default_rng(0).integers(0, 10, len(y))) for x, y in sets]
    for name in ("FROM_SCRATCH", "CLIPPED"):
        monkeypatch.setattr(tfmiaq.training.recipe, name, RECIPE)
    given = {"reference_models": 0, "folder": tmp_path, "seed": 0, "verbose": False}
    tfmiaq.defend(_memorizing, *(chance if memorized else sets), **given)
    assert log() == (["60"] + ["48"] * 5 if memorized else ["60"])


_MODEL = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"model": _MODEL, "cross_distillation": tfmiaq.CrossDistillation()},
            ValueError,
            "trains teachers. Expected a f",
        ),
        (
            {"cross_distillation": tfmiaq.CrossDistillation(61)},
            ValueError,
            "folds to be an integer from 2 to 60. .* 61",
        ),
        ({"cross_distillation": 5}, TypeError, "Expected cross_distillation to be a CrossDistillation, False or None"),
        ({"policy": "best"}, ValueError, "Expected policy to be a BitwidthPolicy or None. .* 'best'"),
        ({"recipe": 3}, TypeError, "Expected recipe to be a TrainingRecipe or None. Received 3"),
        ({"model": 3}, TypeError, r"Expected model to be a keras.Model or a function from \(x, y\) to one. Received 3"),
        ({"test": (np.zeros((5, 3)), np.zeros(5, int))}, ValueError, "defend: train has .* and test of shape"),
        ({"target": "phone"}, ValueError, "Expected target to be one of 'mobile', 'edgetpu'. Received 'phone'"),
        ({"labels": [*"abc"]}, ValueError, "Expected labels to be 10 names, one for each class .* Received 3"),
        ({"labels": [*"abcdefghijk"]}, ValueError, "Expected labels to be 10 names, .* pass them to .convert.*. 11"),
        ({"model": _MODEL, "labels": [*"abcdefghijk"]}, ValueError, "Expected labels to be 10 names, .* Received 11"),
        ({"labels": 10}, TypeError, "Expected labels to be a list of names or None. Received 10"),
        ({"reference_models": 1}, ValueError, "Expected reference_models to be an integer of at least 2, or 0. .* 1"),
        ({"seed": 1.5}, ValueError, "Expected seed to be an integer from 0 to"),
        ({"n_jobs": 0}, ValueError, "Expected n_jobs to be"),
        (
            {"seed": -1, "target": "phone", "reference_models": 1, "policy": 3},
            ValueError,
            "Expected policy .* Expected reference_models .* Expected target .* Expected seed",
        ),
    ],
)
def test_bad_arguments_raise_before_any_work(sets, arguments, error, message, tmp_path):
    given = {"model": lambda x, y: pytest.fail("trained"), "train": sets[0], "test": sets[1], **arguments}
    with pytest.raises(error, match=message):
        tfmiaq.defend(**given, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_labels_of_a_function_are_checked_when_its_model_is_there(sets, tmp_path):
    wide = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(11)])
    with pytest.raises(ValueError, match=r"Expected labels to be 11 names, one for each class. Received 10"):
        tfmiaq.defend(lambda x, y: wide, *sets, labels=[*"abcdefghij"], folder=tmp_path)


def test_too_few_records_raise_before_any_work(sets, tmp_path):
    few = sets[1][0][:20], sets[1][1][:20]
    with pytest.raises(ValueError, match=r"at least 12 training records and 24 test records.* Received 60 and 20"):
        tfmiaq.defend(lambda x, y: pytest.fail("trained"), sets[0], few, folder=tmp_path)


def perceptron(x, y):
    """A float model of little cost, which other processes train too."""
    pipelines.note("float")
    inputs = keras.Input((8, 8, 1), name="images")
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(keras.layers.Flatten(name="flat")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(hidden), name="perceptron")
    return tfmiaq.TrainingRecipe(epochs=2, learning_rate=0.1).fit(model, x, y)


class NotedRecipe(tfmiaq.TrainingRecipe):
    """Adds a line to a file for each training, so that a test can count them over processes."""

    def fit(self, model, x, y, callbacks=()):
        model = super().fit(model, x, y, callbacks)
        pipelines.note("quantized")
        return model


def small_defence(folder, seed=0):
    """A defence with an adaptive attacker, of little cost."""
    from tfmiaq import datasets

    data = datasets.load("digits")
    # One attack by reference models is enough to compare.
    one_attack = functools.partial(tfmiaq.audit, attacks=["LiRA"])
    with mock.patch.object(tfmiaq.defence, "audit", one_attack):
        return tfmiaq.defend(
            perceptron,
            (data.x_train[:40], data.y_train[:40]),
            (data.x_test[:60], data.y_test[:60]),
            recipe=NotedRecipe(epochs=2),
            reference_models=2,
            folder=folder,
            seed=seed,
            verbose=False,
        )


def _weights(path):
    return [weights.tolist() for weights in tfmiaq.load_model(str(path)).get_weights()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return small_defence(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of the folder of a finished call."""
    return pathlib.Path(shutil.copytree(undisturbed.folder, tmp_path / "defended"))


@pytest.mark.slow
def test_a_call_that_dies_between_two_files_leaves_its_model_to_no_other_call(finished, undisturbed, monkeypatch):
    """Stage A, then stage B of other arguments, which dies after some of its files; then stage A again."""
    replace, done = os.replace, []

    def dies(*paths):
        done.append(paths)
        if len(done) == 2:
            raise KeyboardInterrupt
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            small_defence(finished, seed=1)
    again = small_defence(finished)
    assert _figures(again) == _figures(undisturbed)
    assert _weights(finished / "float.keras") == _weights(undisturbed.folder / "float.keras")


def test_a_broken_model_in_the_cache_is_made_again(finished, undisturbed, log):
    whole = (finished / "float.keras").read_bytes()
    victims = [path for path in finished.glob("cache/*.keras") if path.read_bytes() == whole]
    assert len(victims) == 1
    for path in (*victims, finished / "float.keras"):
        path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="is broken"):
        again = small_defence(finished)
    assert log() == ["float"]
    assert _figures(again) == _figures(undisturbed)
    assert _weights(finished / "float.keras") == _weights(undisturbed.folder / "float.keras")


@pytest.mark.slow
def test_a_call_that_was_killed_goes_on(tmp_path, log, undisturbed):
    folder, tests = tmp_path / "defended", pathlib.Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", f"import test_defence; test_defence.small_defence({str(folder)!r})"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 150
    # Float and quantized model, and one for reference.
    while len(list(folder.glob("cache/*.keras"))) < 3:
        assert time.monotonic() < end and process.poll() is None, "it was not killed in the middle"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("cache/*.*") if path.is_file()}
    models = sum(name.endswith(".keras") for name in kept)
    before = len(log())
    again = small_defence(folder)
    assert _figures(again) == _figures(undisturbed)
    assert _weights(folder / "quantized.keras") == _weights(undisturbed.folder / "quantized.keras")
    assert all((folder / "cache" / name).stat().st_mtime_ns == changed for name, changed in kept.items())
    # Nothing that was finished is trained again: a float and a quantized model, then two of each for reference.
    later = log()[before:]
    assert later.count("float") == 3 - models + (models > 1)
    assert later.count("quantized") == 3 - (models > 1)


@pytest.mark.slow
def test_no_group_is_split_on_the_whole_way(tmp_path, sets, log):
    groups = np.arange(60) // 3, 100 + np.arange(120) // 4
    index = {record.tobytes(): int(group) for record, group in zip(sets[0][0], groups[0])}

    def teach(x, y):
        counts = np.unique([index[record.tobytes()] for record in x], return_counts=True)[1]
        pipelines.note(f"{len(x)}:{sorted(set(counts.tolist()))}")
        return tfmiaq.TrainingRecipe(epochs=1).fit(_untrained(), x, y)

    options = {"cross_distillation": tfmiaq.CrossDistillation(2), "recipe": tfmiaq.TrainingRecipe(epochs=1)}
    audits = mock.patch("tfmiaq.defence.audit")
    # What comes after the audit of the quantized model has no part in groups.
    stop = mock.patch("tfmiaq.defence._file_stage", side_effect=KeyboardInterrupt)
    with audits as audit, stop, pytest.raises(KeyboardInterrupt):
        tfmiaq.defend(teach, *sets, groups=groups, folder=tmp_path, reference_models=0, verbose=False, **options)
    # The float model and two teachers, who each saw whole groups of three.
    assert log() == ["60:[3]", "30:[3]", "30:[3]"]
    assert audit.call_count == 2
    for call in audit.call_args_list:
        inside, outside = call.kwargs["groups"]
        assert set(np.unique(inside, return_counts=True)[1]) == {3}
        assert set(np.unique(outside, return_counts=True)[1]) == {4}
        assert len(outside) == len(call.args[2][1]) == 60
    with pytest.raises(ValueError, match="Group '3' has 3 records in train and 4 in test"):
        tfmiaq.defend(teach, *sets, groups=(groups[0], groups[1] - 97), folder=tmp_path)

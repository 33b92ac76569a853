"""Outputs and labels of every kind are read for what they are, or one error says what they are not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn import ensemble, linear_model, multioutput, svm

import tfmiaq
from tfmiaq import metrics, signals
from tfmiaq._backend import keras
from tfmiaq.auditing import set_checks

ATTACKS = ["gap", "confidence"]


def _extract(outputs, y):
    return signals.extract(signals.SavedOutputs(outputs), (None, y))


def _same(one, other, **more):
    assert one.to_arrays().keys() == other.to_arrays().keys() and one.task == other.task
    for name, array in one.to_arrays().items():
        np.testing.assert_allclose(array, other.to_arrays()[name], **{"rtol": 1e-6, "atol": 1e-9, **more})


def _saturated(count, seed=0, classes=10):
    """Logits so far apart that a softmax in float32 rounds the largest probability to 1."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, classes))
    logits[np.arange(count), y] += 24
    return logits, y


def _auc(inside, outside):
    return metrics.auc_estimate(inside.confidences, outside.confidences).value


def test_a_saturated_softmax_keeps_its_margins():
    """The true class's probability is 1 in float32 for nearly all records; the sum of the others tells members."""
    (inside, y_in), (outside, y_out) = _saturated(2000, 0), _saturated(2000, 1)
    inside[np.arange(2000), y_in] += 3
    exact = [signals.from_scores(*records, are_probabilities=False) for records in ((inside, y_in), (outside, y_out))]
    outputs = [special.softmax(logits.astype(np.float32), axis=1) for logits in (inside, outside)]
    assert all((part.max(1) == 1).mean() > 0.95 and part.dtype == np.float32 for part in outputs)
    sets = [(name, signals.SavedOutputs(part), (None, y)) for name, part, y in zip("ab", outputs, (y_in, y_out))]
    found = signals.extract_sets(sets)
    assert _auc(*exact) > 0.93
    assert _auc(*found) == pytest.approx(_auc(*exact), abs=1e-3)
    for one, other in zip(found, exact):
        np.testing.assert_allclose(one.confidences, other.confidences, rtol=1e-4)
        np.testing.assert_allclose(one.losses, other.losses, rtol=1e-3, atol=1e-14)
    # What 1e-7 as the smallest probability left of it.
    floored = [signals.from_scores(part, y, are_probabilities=True) for part, y in zip(outputs, (y_in, y_out))]
    assert _auc(*floored) < 0.6


def test_probabilities_in_steps_keep_the_smallest_that_counts():
    """Zero of a quantized softmax is less than half a step, not less than every number."""
    steps = np.array([[255, 1, 0], [250, 3, 3], [256, 0, 0]]) / np.float32(256)
    found = _extract(np.tile(steps, (5, 1)), np.tile([2, 0, 0], 5))
    assert found.losses[0] == pytest.approx(-np.log(1e-7), rel=1e-3)
    assert found.confidences[2] == pytest.approx(-np.log(2e-7), rel=1e-3)


@pytest.mark.parametrize("last", ["fused", "layer", "activation", "sigmoid", "kept", "own call"])
def test_a_keras_model_gives_the_logits_in_front_of_its_softmax(last):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    head = {
        "fused": [layers.Dense(4, activation="softmax")],
        "layer": [layers.Dense(4), layers.Softmax()],
        "activation": [layers.Dense(4), layers.Activation("softmax")],
        "sigmoid": [layers.Dense(1, activation="sigmoid")],
        "kept": [layers.Dense(4, activation="softmax"), layers.ReLU()],
        "own call": [layers.Dense(4, activation="softmax")],
    }[last]
    model = keras.Sequential([keras.Input((6,)), *head])
    if last == "own call":

        class Inverted(keras.Model):
            def __init__(self):
                super().__init__()
                self.inner = model

            def call(self, x):
                return 1 - self.inner(x)

        model = Inverted()
    x, y = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32) * 0.5, np.arange(40) % 2
    found = signals.extract(model, (x, y))
    expected = _extract(np.asarray(model(x)), y)
    for name in ("losses", "confidences", "entropies", "modified_entropies", "correct", "log_p"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-3, atol=1e-4)
    sure = signals.extract(model, (x * 400, y))
    is_exact = last in ("fused", "layer", "activation", "sigmoid")
    assert (abs(sure.confidences).max() > 120) == is_exact
    if is_exact:
        # The weights of now, in front of and in the last layer.
        model.set_weights([weight * 2 for weight in model.get_weights()])
        np.testing.assert_allclose(signals.extract(model, (x * 400, y)).confidences, 2 * sure.confidences, rtol=1e-3)


def test_one_sigmoid_is_two_classes():
    logits, y = np.random.default_rng(0).normal(0, 3, 60), np.arange(60) % 2
    expected = signals.from_scores(np.column_stack([np.zeros(60), logits]), y, are_probabilities=False)
    np.testing.assert_allclose(expected.confidences, np.where(y == 1, logits, -logits))
    for outputs in (logits, logits[:, None], special.expit(logits), special.expit(logits)[:, None]):
        for labels in (y, y[:, None], y.astype(float), y == 1, np.eye(2)[y], y.astype(np.uint8), list(y)):
            _same(_extract(outputs, labels), expected, rtol=1e-5)
    certain = _extract(np.array([0.3, 1.0, 0.0, 1e-12], np.float32), np.array([1, 1, 0, 0]))
    assert np.isfinite(certain.confidences).all() and (certain.confidences[1:] > 15).all()


def test_sigmoids_are_not_logits():
    """K sigmoids lie from 0 to 1 and do not sum to one: each is a label of its own, with one label or more."""
    generator = np.random.default_rng(0)
    logits, y = generator.normal(0, 2, (80, 5)), (generator.random((80, 5)) < 0.4).astype(int)
    found = _extract(special.expit(logits), y)
    p = np.where(y == 1, special.expit(logits), special.expit(-logits))
    np.testing.assert_allclose(found.losses, -np.log(p).sum(1), rtol=1e-6)
    whole = p.prod(1)
    np.testing.assert_allclose(found.confidences, np.log(whole / (1 - whole)), rtol=1e-6)
    entropies = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum(1)
    np.testing.assert_allclose(found.entropies, entropies, rtol=1e-6)
    np.testing.assert_array_equal(found.correct, ((logits > 0) == y).all(1))
    np.testing.assert_array_equal(found.labels, y.sum(1))
    assert found.task == "several labels" and found.class_name(1) == "1 label"
    for outputs in (logits, special.expit(logits).astype(np.float64)):
        _same(_extract(outputs, y), found, rtol=1e-5, atol=1e-5)
        _same(_extract(outputs, y.astype(float)), found, rtol=1e-5, atol=1e-5)
    one = np.arange(80) % 5
    of_one = _extract(special.expit(logits), one)
    p = np.where(np.eye(5)[one] == 1, special.expit(logits), special.expit(-logits))
    np.testing.assert_allclose(of_one.losses, -np.log(p).sum(1), rtol=1e-6)
    assert of_one.task == "classes"
    sure = _extract(np.full((4, 3), 60.0), np.ones((4, 3), int) * [1, 1, 1] - [[0, 0, 1]])
    assert np.isfinite(sure.confidences).all()
    right = _extract(np.array([[60.0, 60.0, -60.0]] * 4), np.array([[1, 1, 0]] * 4)).confidences
    np.testing.assert_allclose(right, 60 - np.log(3), rtol=1e-9)


def test_a_value_is_scored_by_its_squared_error():
    generator = np.random.default_rng(0)
    y = generator.normal(50, 4, 90)
    outputs = y + generator.normal(0, 2, 90)
    found = _extract(outputs, y)
    np.testing.assert_allclose(found.losses, (outputs - y) ** 2)
    np.testing.assert_allclose(found.confidences, -np.log((outputs - y) ** 2 / y.var() + 1e-6))
    np.testing.assert_array_equal(found.correct, abs(outputs - y) < y.std() / 2)
    assert found.task == "values" and found.class_name(0) == "value in quarter 1 of 4"
    np.testing.assert_array_equal(np.bincount(found.labels), [23, 22, 22, 23])
    assert found.logits is None and found.entropies is None and np.isfinite(found.features).all()
    _same(_extract(outputs[:, None], y[:, None]), found)
    whole = np.round(y).astype(int)
    np.testing.assert_allclose(_extract(outputs, whole).losses, (outputs - whole) ** 2)
    two = _extract(np.column_stack([outputs, outputs]), np.column_stack([y, y]))
    np.testing.assert_allclose(two.losses, found.losses)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("held", [False, True])
def test_shares_of_a_keras_model_are_values_behind_its_activation(activation, held):
    """Labels between 0 and 1 are what the activation gives an estimate of, not its logits."""
    generator = np.random.default_rng(0)
    units = 1 if activation == "sigmoid" else 3
    x, y = generator.normal(size=(40, 4)).astype(np.float32), generator.random((40, units))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, activation)])
    y = y[:, 0] if units == 1 else y
    found = signals.extract(signals.HeldModel(model).file if held else model, (x, y))
    given = model.predict(x, verbose=0)
    expected = ((given.reshape(y.shape) - y) ** 2).reshape(len(y), -1).mean(1)
    np.testing.assert_allclose(found.losses, expected, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_values_are_audited(shift):
    """Errors of members and non-members of one distribution are a coin; smaller errors are found."""
    generator = np.random.default_rng(1)
    y = [generator.normal(0, 10, 800) for _ in range(2)]
    outputs = [part + generator.normal(0, spread, 800) for part, spread in zip(y, (1 - shift, 1.0))]
    attacks = ["gap", "confidence", "entropy", "modified entropy by class"]
    report = tfmiaq.audit(tuple(outputs), (None, y[0]), (None, y[1]), attacks)
    found = report["confidence"].auc
    assert (found.low <= 0.5 <= found.high) == (not shift) and not report.findings
    assert {"entropy", "modified entropy by class"} <= set(report.skipped)
    assert report.skipped["entropy"] == "needs probabilities of classes, and the labels are values"
    assert not any(part.name.startswith("class") for part in report.slices)


@pytest.mark.parametrize("kind", ["sigmoid", "several", "values"])
def test_reference_models_of_every_kind_of_output(kind):
    """Reference models that memorize like the target find more than the confidence alone; memberships redrawn, none."""
    generator = np.random.default_rng(0)
    n = 200
    x = generator.normal(size=(2 * n, 3))
    clean = x @ np.array([[1.0, -2, 1], [0, 1, 2], [1, 1, 1]])
    noise = generator.normal(0, 2, clean.shape)
    y = {"sigmoid": clean[:, 0] + noise[:, 0] > 0, "several": (clean + noise > 0).astype(int)}.get(kind)
    y = clean[:, 0] + noise[:, 0] if y is None else y
    rows = {record.tobytes(): row for row, record in enumerate(x)}

    def train(x_train, y_train):
        known = {record.tobytes(): label for record, label in zip(x_train, y_train)}

        def predict(records):
            found = clean[[rows[record.tobytes()] for record in records]]
            found = found if kind == "several" else found[:, 0]
            own = np.array([known.get(record.tobytes(), np.nan * y[0]) for record in records], float)
            if kind == "values":
                return np.where(np.isnan(own), found, (found + own) / 2)
            return special.expit(np.where(np.isnan(own), found, found + (own - 0.5) * 3))

        return predict

    members, others = (x[:n], y[:n]), (x[n:], y[n:])
    pipeline = tfmiaq.ReferenceModels(train, count=4)
    attacks = ["confidence", "LiRA", "RMIA", "difficulty calibration"]
    report = tfmiaq.audit(train(*members), members, others, attacks, reference_models=pipeline)
    assert report["difficulty calibration"].auc > report["confidence"].auc + 0.05
    assert all(attack.auc > 0.55 for attack in report.attacks)
    mixed = np.random.default_rng(1).permutation(2 * n)
    redrawn = [(x[part], y[part]) for part in (mixed[:n], mixed[n:])]
    target = train(*(part[np.random.default_rng(2).permutation(2 * n)[:n]] for part in (x, y)))
    null = tfmiaq.audit(target, *redrawn, attacks, reference_models=pipeline)
    assert all(abs(attack.auc - 0.5) < 0.12 for attack in null.attacks)


def test_augmented_queries_of_every_kind_of_output():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(50, 3))
    queries = lambda records, number: records + 0.1 * number  # noqa: E731
    queries.count = 3
    for target, y in (
        (lambda records: special.expit(records[:, 0]), (x[:, 0] > 0).astype(int)),
        (special.expit, (x > 0).astype(np.int8)),
        (lambda records: records[:, 0], x[:, 0] * 2),
    ):
        found = signals.query_augmented(target, (x, y), queries)
        expected = [signals.extract(lambda r, n=n: target(queries(r, n)), (x, y)) for n in range(3)]  # noqa: B023
        np.testing.assert_allclose(
            found["augmented_confidences"], np.mean([part.confidences for part in expected], 0), rtol=1e-9
        )
        np.testing.assert_allclose(found["label_agreement"], np.mean([part.correct for part in expected], 0), rtol=1e-6)


def test_saturated_sigmoids_of_a_few_queries_are_no_labels():
    x, y = np.linspace(-3, 3, 40)[:, None], np.arange(40) % 2
    target = lambda records: special.expit(records[:, 0]) if abs(records).max() < 5 else (records[:, 0] > 0) * 1.0  # noqa: E731
    queries = lambda records, number: records * (100 if number == 0 else 1)  # noqa: E731
    found = signals.query_augmented(target, (x, y), queries, count=3)
    assert np.isfinite(found["augmented_confidences"]).all() and len(found["augmented_outputs"]) == 40


@pytest.mark.parametrize("labels", [[1, 2, 3], [-5, 0, 7], ["cat", "dog", "eel"], [False, True]])
def test_classes_of_a_scikit_learn_model_are_used(labels):
    generator = np.random.default_rng(0)
    y = np.array(labels)[np.arange(90) % len(labels)]
    x = np.eye(3)[np.arange(90) % len(labels)] + generator.normal(0, 0.3, (90, 3))
    model = linear_model.LogisticRegression().fit(x, y)
    found = signals.extract(model, (x, y))
    np.testing.assert_array_equal(found.labels, np.arange(90) % len(labels))
    assert found.correct.mean() > 0.85
    as_rows = signals.extract(model, (x, np.eye(len(labels), dtype=int)[found.labels]))
    _same(as_rows, found)
    by_label = signals.extract(svm.LinearSVC().fit(x, y), (x, y))
    assert by_label.losses is None and by_label.correct.mean() > 0.85
    with pytest.raises(ValueError, match=r"Label .* at index 0, is none of the target's classes_"):
        signals.extract(model, (x, np.full(90, "nobody")))


def test_reference_models_that_lack_a_class_have_a_column_for_it():
    generator = np.random.default_rng(0)
    y = np.array(["a", "b", "c"])[np.arange(80) % 3]
    y[[3, 50]] = "d"
    x = np.eye(4)[[*map("abcd".index, y)]] + generator.normal(0, 0.5, (80, 4))
    seen = []

    def train(x, y):
        seen.append(set(y.tolist()))
        model = linear_model.LogisticRegression().fit(x[y < 3], y[y < 3])
        return model

    target = ensemble.RandomForestClassifier(20, random_state=0).fit(x[:40], y[:40])
    report = tfmiaq.audit(
        target,
        (x[:40], y[:40]),
        (x[40:], y[40:]),
        ["whole output", "LiRA"],
        reference_models=tfmiaq.ReferenceModels(train, 4),
    )
    assert set.union(*seen) == {0, 1, 2, 3}
    assert [attack.name for attack in report.attacks] == ["whole output", "LiRA"]


def test_several_labels_and_values_of_scikit_learn_models():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 4))
    y = (x[:, :3] + generator.normal(0, 0.5, (60, 3)) > 0).astype(int)
    forest = ensemble.RandomForestClassifier(20, random_state=0).fit(x, y)
    of_each = np.column_stack([part[:, 1] for part in forest.predict_proba(x)])
    _same(signals.extract(forest, (x, y)), _extract(of_each, y))
    chained = multioutput.MultiOutputClassifier(linear_model.LogisticRegression()).fit(x, y)
    assert signals.extract(chained, (x, y)).task == "several labels"
    values = x[:, 0] * 3
    found = signals.extract(linear_model.Ridge().fit(x, values), (x, values))
    assert found.task == "values" and found.losses.max() < 0.1


TEN = np.arange(30) % 10
UNIT = np.linspace(0.01, 0.99, 30)


@pytest.mark.parametrize(
    ("outputs", "y", "message"),
    [
        (np.eye(10)[TEN], np.where(TEN == 4, np.nan, TEN), r"3 labels of records are missing .* first at index 4"),
        (np.eye(10)[TEN], [None, *TEN[1:]], r"1 labels of records are missing .* first at index 0"),
        (np.eye(10)[TEN], TEN + 0.5, r"gives 10 scores .* label at index 0 is no class: labels go from 0.5 to 9.5"),
        (np.eye(10)[TEN], TEN.astype(str), r"Labels of records are names \('0', '1', '2'\).*classes_"),
        (np.eye(10)[TEN], TEN - 1, r"Label -1 is beyond the target's 10 classes.*negative"),
        (np.eye(10)[TEN], np.eye(8)[TEN % 8] + np.eye(8)[0], r"values|gives 10 scores .* labels have shape \(n, 8\)"),
        (np.eye(10)[TEN], np.full((30, 10), 0.1), r"soft labels.*y.argmax\(1\)"),
        (np.eye(10)[TEN], np.zeros((30, 10, 2)), r"Labels of records have shape \(30, 10, 2\)"),
        (UNIT, TEN, r"one output for each record, from 0 to 1, and labels go from 0 to 9.*one output for each class"),
        (UNIT, 1 + TEN % 2, r"labels go from 1 to 2.*pass \(y == 2\).astype\(int\)"),
        (UNIT, 2 * (TEN % 2) - 1, r"labels go from -1 to 1.*pass \(y == 1\).astype\(int\)"),
        (UNIT, np.eye(3)[TEN % 3] + np.eye(3)[0], r"one output for each record, and labels have shape \(n, 3\)"),
        ([np.zeros((30, 2)), np.zeros((30, 3))], TEN, r"gave 2 outputs \(list\).*lambda x: model.predict\(x\)\[0\]"),
        ({"a": np.zeros((30, 2))}, TEN, r"gave 1 outputs \(dict\)"),
        (TEN.astype(str), TEN, r"outputs of type <U.*Expected numbers"),
        (np.zeros((30, 4, 4, 2)), TEN, r"outputs of shape \(30, 4, 4, 2\)"),
        (np.zeros((30, 0)), TEN, r"outputs of shape \(30, 0\)"),
    ],
)
def test_what_cannot_be_read_says_why(outputs, y, message):
    with pytest.raises(ValueError, match=message):
        signals.extract(lambda x: outputs, (np.zeros((30, 2)), y))


def test_what_takes_classes_alone_says_so():
    x, y = np.zeros((30, 2)), (np.arange(90).reshape(30, 3) % 2)
    for labels in (y, np.linspace(0, 1, 30), np.where(TEN == 3, np.nan, TEN)):
        with pytest.raises(ValueError, match=r"Labels of train have shape|3 labels of train are missing"):
            signals.pair((x, labels), "train", "cross_distill")


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "value"])
def test_keras_models_and_their_files_are_audited_alike(kind):
    """One tiny model of each kind: the model, its .tflite by its logits and by its outputs, and saved outputs."""
    keras.utils.set_random_seed(0)
    head = {"softmax": (3, "softmax"), "sigmoid": (1, "sigmoid"), "value": (1, None)}[kind]
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(*head)])
    generator = np.random.default_rng(0)
    x = generator.normal(size=(120, 5)).astype(np.float32)
    outputs = model.predict(x, verbose=0)
    y = {"softmax": outputs.argmax(1), "sigmoid": (outputs[:, 0] > 0.5).astype(int), "value": outputs[:, 0] * 1.3}[kind]
    y = y if kind == "value" else np.where(generator.random(120) < 0.2, 0, y)
    sets = (x[:60], y[:60]), (x[60:], y[60:])
    from_model = tfmiaq.audit(model, *sets, ATTACKS)
    saved = tfmiaq.audit((outputs[:60], outputs[60:]), (None, y[:60]), (None, y[60:]), ATTACKS)
    float_file = _float_file(model)
    report = tfmiaq.audit(float_file, *sets, ATTACKS)
    assert report.access == "file" and not report.unread
    for other in (saved, report, report.query):
        assert other["confidence"].auc.value == pytest.approx(from_model["confidence"].auc.value, abs=2e-3)
    assert set_checks.check_sets(*((s[0], s[1].astype(y.dtype)) for s in sets), signals.extract(model, (x, y))) == []


def _float_file(model):
    from tfmiaq._backend import tf

    return tf.lite.TFLiteConverter.from_keras_model(model).convert()

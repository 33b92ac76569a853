"""Who holds the file: logits behind rounding, softmax and argmax, and a report that has both attackers."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tfmiaq
from tfmiaq import BitwidthPolicy, OutputBits, signals
from tfmiaq._backend import keras, tf
from tfmiaq.signals import reference_training
from tfmiaq.tflite.flatbuffer import unpack
from tfmiaq.tflite.inner import OpenFile, find_logits

CLASSES, RECORDS = 4, 400
FAST = ["confidence", "gap"]


def _records(leak, seed=0):
    """Records that hold their own logits: a member's true one is higher by `leak`, and one in twenty has a near-tie."""
    generator = np.random.default_rng(seed)

    def some(scale):
        y = generator.integers(0, CLASSES, RECORDS)
        x = np.abs(generator.normal(size=(RECORDS, CLASSES))).astype(np.float32) * 0.3
        x[np.arange(RECORDS), y] += (2 + scale + generator.uniform(size=RECORDS)).astype(np.float32)
        tied = np.flatnonzero(generator.random(RECORDS) < 0.05)
        x[tied, (y[tied] + 1) % CLASSES] = x[tied, y[tied]] - 0.02
        return x, y

    return some(leak), some(0.0)


def _model(*behind):
    """A model whose logits are its records."""
    inputs = keras.Input((CLASSES,))
    hidden = keras.layers.Dense(CLASSES, activation="relu", kernel_initializer="identity", name="hidden")(inputs)
    x = keras.layers.Dense(CLASSES, kernel_initializer="identity", name="logits")(hidden)
    for layer in behind:
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.fixture(scope="module")
def rounded():
    """A calibrated model with outputs of 1 bit, and its .tflite."""
    model = tfmiaq.quantize_model(_model(), BitwidthPolicy.uniform(8, 8, output=OutputBits(1, 0.2)))
    tfmiaq.calibrate(model, np.concatenate([x for x, _ in _records(2.0)]))
    return model, tfmiaq.convert(model)


def _foreign(model, integer=False):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if integer:
        x = np.concatenate([x for x, _ in _records(2.0)])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([row[None]] for row in x[:: RECORDS // 50])
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def _audit(target, leak, **arguments):
    return tfmiaq.audit(target, *_records(leak), FAST, verbose=False, **arguments)


@pytest.mark.parametrize("as_keras", [True, False])
def test_one_bit_outputs_hide_from_who_can_only_ask(rounded, as_keras):
    model, buffer = rounded
    report = _audit(model, 2.0, access="file") if as_keras else _audit(buffer, 2.0)
    assert (report.access, report.query.access) == ("file", "query")
    assert report.auc > 0.9
    assert 0.4 < report.query.auc < 0.6
    assert "(who holds the file)" in str(report.verdict)
    assert report.leaks
    assert not report.query.leaks
    # The same view as without the file.
    alone = _audit(model if as_keras else buffer, 2.0, access="query")
    assert alone.query is None
    assert alone.to_json() == report.query.to_json()


def test_without_a_leak_both_are_coins(rounded):
    for seed in range(2):
        report = tfmiaq.audit(rounded[1], *_records(0.0, seed), FAST, seed=seed, verbose=False)
        assert report.auc.low < 0.5 < report.auc.high
        assert report.query.auc.low <= 0.5 <= report.query.auc.high
        assert report.verdict.parts[0].outcome != "leaks"


def test_reference_models_are_read_in_the_same_way(rounded, tmp_path, monkeypatch):
    """The signals of references' logits, and those of their outputs, come from one training."""
    model, buffer = rounded
    trained = []
    monkeypatch.setattr(reference_training, "_train", lambda job, x, y: trained.append(len(x)) or model)
    sets = _records(0.0)
    pool = tuple(np.concatenate(parts) for parts in zip(*sets))
    options = tfmiaq.ReferenceModels(lambda x, y: None, 2, cache=tmp_path)
    outputs = signals.train_references(options, pool)
    logits = signals.train_references(options, pool, access="file")
    assert trained == [RECORDS] * 2
    np.testing.assert_array_equal(logits.query.features, outputs.features)
    assert len(np.unique(outputs.confidences.round(4))) < 10 < len(np.unique(logits.confidences.round(4)))
    assert logits.first(1).query.features.shape[0] == 1
    report = tfmiaq.audit(buffer, *sets, ["RMIA"], reference_models=options, augmented_queries=True, verbose=False)
    assert report.reference_models == report.query.reference_models == 2
    assert "RMIA" in report.query.chosen


def test_reference_models_that_are_functions_stand_for_themselves(linear_scores):
    pool = (np.random.default_rng(0).normal(size=(40, 1)), np.zeros(40, int))
    models = tfmiaq.ReferenceModels(lambda x, y: linear_scores, 2)
    found = signals.train_references(models, pool, access="file")
    np.testing.assert_array_equal(found.features, found.query.features)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("ending", ["softmax", "sigmoid"])
def test_files_of_other_tools_show_their_logits(integer, ending):
    (x, _), _ = _records(2.0)
    model = _model(keras.layers.Activation(ending))
    # Sigmoids say no to the other classes.
    bias = -3.0 if ending == "sigmoid" else 0.0
    model.get_layer("logits").bias.assign(np.full(CLASSES, bias))
    buffer = _foreign(model, integer)
    outputs, logits = OpenFile(buffer).predict(x)
    np.testing.assert_array_equal(outputs, tfmiaq.tflite.Interpreter(buffer).predict(x))
    assert np.abs(logits - x - bias).mean() < (0.05 if integer else 1e-5)
    assert _audit(buffer, 2.0).auc > 0.9


@pytest.mark.parametrize("form", ["file", "keras", "keras, in the layer"])
def test_logits_of_sigmoids_are_read_as_such(form):
    """Each of K sigmoids says yes or no to one class."""
    (x, y), _ = _records(2.0)
    end = keras.layers.Dense(CLASSES, "sigmoid", kernel_initializer="identity")
    model = _model(end if form == "keras, in the layer" else keras.layers.Activation("sigmoid"))
    held = signals.HeldModel(_foreign(model) if form == "file" else model)
    found = signals.extract(held.file, (x, y))
    margins = np.where(np.eye(CLASSES, dtype=bool)[y], x, -x).astype(np.float64)
    expected = np.log1p(np.exp(-margins)).sum(1)
    np.testing.assert_allclose(found.losses, expected, atol=1e-5)


@pytest.mark.parametrize("as_file", [False, True])
def test_small_logits_of_a_softmax_are_no_sigmoids(as_file):
    (x, y), _ = _records(0.0)
    x = x / (1 + x.max())
    model = _model(keras.layers.Softmax())
    held = signals.HeldModel(_foreign(model) if as_file else model)
    found = signals.extract(held.file, (x, y))
    expected = np.log(np.exp(x.astype(np.float64)).sum(1)) - x[np.arange(RECORDS), y]
    np.testing.assert_allclose(found.losses, expected, atol=1e-5)


def test_a_pooled_convolution_is_read_behind_the_pooling():
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 1)(inputs))
    model = keras.Model(inputs, x)
    buffer = _foreign(keras.Model(inputs, keras.layers.Softmax()(x)))
    records = np.random.default_rng(0).normal(size=(9, 4, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(OpenFile(buffer).predict(records)[1], model.predict(records, verbose=0), atol=1e-5)


def test_a_file_that_gives_labels_has_logits_for_its_holder():
    buffer = _foreign(_model(keras.layers.Lambda(lambda z: tf.argmax(z, -1, output_type=tf.int32))))
    report = tfmiaq.audit(buffer, *_records(2.0), ["confidence"], verbose=False)
    assert report.auc > 0.9
    assert report.query is None
    report = tfmiaq.audit(buffer, *_records(2.0), verbose=False)
    assert report.query.label_only
    assert not report.label_only
    assert "label-only" in [attack.name for attack in report.query.attacks]


@pytest.mark.parametrize("nested", [False, True])
def test_logits_of_keras_models_are_in_front_of_softmax(nested):
    (x, _), _ = _records(2.0)
    head = keras.layers.Dense(CLASSES, activation="softmax", kernel_initializer="identity")
    ends = keras.Sequential([keras.Input((CLASSES,)), head]) if nested else head
    model = _model(ends)
    held = signals.HeldModel(model)
    np.testing.assert_allclose(held.file(x), x, atol=1e-5)
    np.testing.assert_array_equal(held.query(x), model.predict(x, verbose=0))
    # The user's own layers have no new calls.
    assert len(model.layers[-1].inbound_nodes) == 1


def test_a_second_view_costs_no_second_run(rounded, monkeypatch):
    (x, _), _ = _records(2.0)
    held = signals.HeldModel(rounded[1])
    logits = held.file(x)
    monkeypatch.setattr(held, "_predict", lambda *arguments: pytest.fail("runs again"))
    assert held.query(x).shape == logits.shape


def test_a_rounding_that_is_written_out_is_passed():
    def rounding(z):
        below = z - tf.reduce_max(z, -1, keepdims=True)
        return tf.where(tf.maximum(below, -1.0) > -0.5, 0.0, -1.0) * 2.0

    (x, _), _ = _records(2.0)
    np.testing.assert_allclose(OpenFile(_foreign(_model(keras.layers.Lambda(rounding)))).predict(x)[1], x, atol=1e-5)


def test_a_sum_of_two_branches_is_not_passed():
    inputs = keras.Input((CLASSES,))
    total = keras.layers.Add()([keras.layers.Dense(CLASSES)(inputs), keras.layers.Dense(CLASSES)(inputs)])
    model = keras.Model(inputs, total)
    (x, _), _ = _records(2.0)
    _, logits = OpenFile(_foreign(keras.Model(inputs, keras.layers.Softmax()(total)))).predict(x)
    np.testing.assert_allclose(logits, model.predict(x, verbose=0), atol=1e-4)


def test_a_file_whose_logits_are_not_found_is_audited_by_its_outputs():
    inputs = keras.Input((CLASSES,))
    buffer = _foreign(keras.Model(inputs, keras.layers.Lambda(tf.math.sin)(keras.layers.Dense(CLASSES)(inputs))))
    report = _audit(buffer, 2.0)
    assert (report.access, report.query) == ("query", None)
    assert "operation SIN stands between the file's last weights and its output" in report.to_markdown()
    with pytest.raises(ValueError, match=r"finds no logits inside the target: operation SIN .* access='query'"):
        _audit(buffer, 2.0, access="file")


def test_a_graph_that_runs_in_a_circle_comes_to_an_end(rounded):
    model = unpack(rounded[1])
    for operator in model.subgraphs[0].operators:
        operator.inputs = operator.outputs
    with pytest.raises(ValueError, match="no operation with weights"):
        find_logits(model)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (
            lambda x: x,
            TypeError,
            r"access='file' reads the logits inside a .tflite or a Keras model. Received function",
        ),
        ((np.zeros((RECORDS, 4)),) * 2, TypeError, "Received saved outputs: audit it with access='query'"),
        (b"no model", ValueError, "is no TFLite model"),
    ],
)
def test_what_has_no_inside_is_told_before_any_work(target, error, message):
    with pytest.raises(error, match=message):
        _audit(target, 0.0, access="file")


def test_unknown_access_is_told(rounded):
    with pytest.raises(ValueError, match=r"access.*'query'.*'file'"):
        _audit(rounded[1], 0.0, access="files")


def test_a_report_shows_both_attackers_and_is_read_again(rounded, tmp_path):
    report = _audit(rounded[1], 2.0)
    rows = [line for line in report.to_markdown().splitlines() if line.startswith("| who ")]
    assert [row.split(" | ")[0] for row in rows] == ["| who can only ask", "| who holds the file"]
    assert str(report.query.auc) in rows[0]
    assert str(report.auc) in rows[1]
    assert report.to_markdown().index("who can only ask") < report.to_markdown().index("| figure")
    for html in (report.to_html(), report._repr_html_()):
        assert ">who can only ask</td>" in html
    folder = report.save(tmp_path)
    loaded = tfmiaq.AuditReport.load(folder)
    assert loaded.to_dict() == report.to_dict()
    assert loaded.to_markdown() == report.to_markdown()
    assert json.loads((folder / "report.json").read_text())["query"]["auc"] == report.query.auc
    comparison = tfmiaq.compare({"float": _audit(_model(), 2.0), ".tflite": [report, loaded]})
    assert [row[0] for row in comparison.rows()] == [
        "float",
        ".tflite, who can only ask",
        ".tflite, who holds the file",
    ]
    content = json.loads((folder / "report.json").read_text())
    content["query"]["auc"] = "high"
    (folder / "report.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is damaged"):
        tfmiaq.AuditReport.load(folder)

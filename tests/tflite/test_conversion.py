"""The .tflite: its levels, its types, its metadata, and how it is run."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import tiny_model, train

import tfmiaq
from tfmiaq import BitwidthPolicy
from tfmiaq._backend import keras, tf
from tfmiaq.tflite import conversion


def _details(buffer):
    interpreter = tf.lite.Interpreter(model_content=buffer)
    interpreter.allocate_tensors()
    return interpreter, interpreter.get_tensor_details(), [op["op_name"] for op in interpreter._get_ops_details()]


@pytest.fixture(scope="module")
def learner(trained):
    """A model whose bits are changed: it is traced once."""
    keras.utils.set_random_seed(0)
    quantized = tfmiaq.quantize_model(trained, BitwidthPolicy.uniform(8, 8))
    quantized.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return quantized


# Those between 3 and 8 go the way of 3.
@pytest.fixture(scope="module", params=(8, 3, 2, 1))
def shipped(request, learner, digits):
    """The model trained at b bits of weights and activations between ends of 8, and its Edge TPU file."""
    bits = request.param
    tfmiaq.set_policy(learner, BitwidthPolicy.uniform(bits, bits))
    learner.fit(digits.x_train, digits.y_train, epochs=6, verbose=0)
    return bits, learner, tfmiaq.convert(learner, "edgetpu")


@pytest.fixture(scope="module")
def made(trained, digits):
    """A quantized model, and its Edge TPU file."""
    quantized = train(tfmiaq.quantize_model(trained), digits.x_train[:64], digits.y_train[:64])
    return quantized, tfmiaq.convert(quantized, "edgetpu")


def test_every_kernel_takes_exactly_the_trained_levels(shipped, digits):
    bits, quantized, buffer = shipped
    result = tfmiaq.verify(quantized, buffer, digits.x_test)
    weights = {row.name: row for row in result.layers if row.tensor == "weight"}
    assert set(weights) == {"conv", "depthwise", "pointwise", "hidden", "logits"}
    assert all(row.exact for row in result.layers), str(result)
    most = {1: 2, 2: 3}.get(bits, 2**bits - 1)
    assert all(weights[name].stored <= most for name in ("depthwise", "pointwise", "hidden"))
    # A per-tensor step follows the one largest weight, so that a level or two near the ends may hold no weight.
    assert all(row.stored == row.trained for row in weights.values())
    assert weights["hidden"].stored > min(most, 20) / 2
    activations = [row for row in result.layers if row.tensor == "activation"]
    assert {row.name for row in activations} == {"conv_relu", "depthwise_relu", "sum_relu", "hidden"}
    assert all(1 < row.stored <= 2**bits for row in activations if row.name != "conv_relu")


def test_the_stored_codes_are_multiples_of_the_refinement(shipped):
    bits, _, buffer = shipped
    interpreter, details, _ = _details(buffer)
    top = max(2 ** (bits - 1) - 1, 1)
    spacing = 127 // top if bits > 4 else 16 * (7 // top)
    kernels = [t for t in details if t["dtype"] == np.int8 and list(t["shape"]) in ([32, 128], [8, 1, 1, 8])]
    assert len(kernels) == 2
    for tensor in kernels:
        codes = interpreter.get_tensor(tensor["index"]).astype(int)
        assert (codes % spacing == 0).all()


def test_the_edge_tpu_file_is_integer_through_and_through(shipped):
    _, _, buffer = shipped
    _, details, operations = _details(buffer)
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(operations), operations
    assert {np.dtype(t["dtype"]) for t in details} <= {np.dtype("int8"), np.dtype("int32")}


def test_labels_agree_with_the_trained_model(shipped, digits):
    _, quantized, buffer = shipped
    result = tfmiaq.verify(quantized, buffer, digits.x_test)
    assert result.agreement >= 0.99, str(result)


def test_mobile_takes_and_gives_floats(trained, digits):
    quantized = train(tfmiaq.quantize_model(trained), digits.x_train[:64], digits.y_train[:64])
    buffer = tfmiaq.convert(quantized)
    interpreter, _, operations = _details(buffer)
    assert interpreter.get_input_details()[0]["dtype"] == np.float32
    assert interpreter.get_output_details()[0]["dtype"] == np.float32
    assert operations.count("QUANTIZE") == 1
    assert operations.count("DEQUANTIZE") == 1
    assert tfmiaq.verify(quantized, buffer, digits.x_test[:100]).exact


def test_verify_sees_a_foreign_file(digits, made):
    quantized, buffer = made
    other = train(tfmiaq.quantize_model(tiny_model()), digits.x_train[:64], digits.y_train[:64])
    assert not tfmiaq.verify(other, buffer, digits.x_test[:20]).exact
    assert tfmiaq.verify(quantized, buffer, digits.x_test[:20]).exact


def test_branches_pooling_and_softmax_are_exact_and_integer(digits):
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, activation="relu", name="stem")(inputs)
    left = layers.Conv2D(8, 1, activation="relu", name="left")(x)
    right = layers.ReLU(name="right_relu")(layers.Conv2D(8, 1, name="right")(x))
    x = layers.Concatenate(name="join")([left, right])
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dense(10, activation="softmax", name="probabilities")(x)
    quantized = tfmiaq.quantize_model(keras.Model(inputs, x))
    quantized.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    quantized.fit(digits.x_train[:128], digits.y_train[:128], verbose=0)
    buffer = tfmiaq.convert(quantized, "edgetpu")
    _, _, operations = _details(buffer)
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(operations), operations
    assert tfmiaq.verify(quantized, buffer, digits.x_test[:100]).exact


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_average_pooling_agrees(digits, padding):
    layers = keras.layers
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="one")(inputs)
    x = layers.AveragePooling2D(3, 1, padding, name="average")(x)
    x = layers.ReLU(name="two_relu")(layers.Conv2D(16, 3, padding="same", name="two")(x))
    x = layers.AveragePooling2D(name="average_again")(layers.Dropout(0.1)(x))
    model = keras.Model(inputs, layers.Dense(10, name="logits")(layers.Flatten()(x)))
    quantized = tfmiaq.quantize_model(model, BitwidthPolicy.uniform(2, 2, first=None))
    bits = {row.name: row.activation_bits for row in tfmiaq.summary(quantized).layers}
    # TFLite's average pooling rounds to the grid of its input, which has to be fine; a convolution has its own.
    assert (bits["one"], bits["two_relu"], bits["average"]) == ((2, 2, 8) if padding == "valid" else (8, 2, None))
    train(quantized, digits.x_train, digits.y_train, epochs=8)
    buffer = tfmiaq.convert(quantized, "edgetpu")
    assert "QUANTIZE" not in _details(buffer)[2]
    result = tfmiaq.verify(quantized, buffer, digits.x_test[:500])
    assert result.exact
    # Means are rounded to the grid, and 2-bit levels behind them tip: 0.98 to 0.99 over five seeds, on both stacks.
    assert result.agreement >= 0.97, str(result)
    if padding == "same":
        with pytest.raises(ValueError, match="a layer reads it that averages"):
            tfmiaq.quantize_model(model, BitwidthPolicy(layers={"one": tfmiaq.LayerBits(2, 2)}))


def test_kernels_that_several_calls_share_keep_their_levels():
    # Not 8 bits: what the converter computes beforehand has, scaled by its largest weight, the same codes there.
    layers = keras.layers
    keras.utils.set_random_seed(0)
    one, two = keras.Input((6,), dtype="int32", name="one"), keras.Input((6,), dtype="int32", name="two")
    embedding, conv = layers.Embedding(20, 4, name="embedding"), layers.Conv2D(4, 3, padding="same", name="conv")
    dense = layers.Dense(6, activation="relu", name="dense")
    x = layers.Reshape((6, 1, 4))(layers.Add()([embedding(one), embedding(two)]))
    x = layers.Flatten()(conv(layers.ReLU()(conv(x))))
    x = dense(dense(layers.Dense(6, name="front")(x)))
    model = keras.Model([one, two], layers.Dense(4, name="logits")(x))
    quantized = tfmiaq.quantize_model(model, BitwidthPolicy.uniform(4, 8, first=4, last=4))
    words = np.random.default_rng(0).integers(0, 20, (2, 32, 6)).astype(np.int32)
    quantized(list(words), training=True)
    result = tfmiaq.verify(quantized, tfmiaq.convert(quantized, check=False), list(words))
    assert result.exact, str(result)
    stored = {row.name: row.stored for row in result.layers if row.tensor == "weight"}
    assert set(stored) == {"embedding", "conv", "front", "dense", "logits"}
    assert max(stored.values()) <= 15


def test_an_untrained_model_is_not_converted():
    with pytest.raises(ValueError, match=r"have seen no data. Train the quantized model"):
        tfmiaq.convert(tfmiaq.quantize_model(tiny_model()))


def test_a_float_model_is_not_converted():
    with pytest.raises(ValueError, match=r"Expected a model from tfmiaq.quantize_model"):
        tfmiaq.convert(tiny_model())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tpu", r"Unknown target 'tpu'. Expected one of 'mobile', 'edgetpu'"),
        ("int16x8", r"16-bit activations would be another network"),
    ],
)
def test_a_target_that_cannot_be_is_refused(target, message):
    with pytest.raises(ValueError, match=message):
        tfmiaq.convert(tiny_model(), target)


def test_a_file_that_is_no_tflite_is_refused(tmp_path, digits, made):
    path = tmp_path / "model.tflite"
    path.write_text("no model at all")
    with pytest.raises(ValueError, match=r"is no TFLite model"):
        tfmiaq.verify(made[0], path, digits.x_test[:2])
    with pytest.raises(ValueError, match=r"No .tflite file at"):
        tfmiaq.verify(made[0], tmp_path / "other.tflite", digits.x_test[:2])


def test_a_verification_is_short_in_a_shell_and_a_table_in_a_notebook(digits, made):
    result = tfmiaq.verify(made[0], made[1], digits.x_test[:20])
    count = len(result.layers)
    assert repr(result).startswith(f"<Verification: {count} of {count} tensors exact, labels agree on ")
    assert len(repr(result)) < 200
    assert result._repr_html_().count("<tr>") == count + 1
    assert str(result).splitlines()[-1] in result._repr_html_()


@pytest.mark.parametrize("threads", [0, -1, 2.0, True, "2"])
def test_threads_are_a_positive_integer(made, threads):
    with pytest.raises(ValueError, match=r"Interpreter: Expected threads to be an integer of at least 1, or None"):
        tfmiaq.tflite.Interpreter(made[1], threads=threads)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, None])
def test_a_batch_has_at_least_one_record(made, digits, batch_size):
    with pytest.raises(ValueError, match=r"Expected batch_size to be an integer of at least 1"):
        tfmiaq.tflite.Interpreter(made[1]).predict(digits.x_test[:2], batch_size=batch_size)


def test_numpy_integers_are_taken(made, digits):
    interpreter = tfmiaq.tflite.Interpreter(made[1], threads=np.int64(1))
    assert interpreter.predict(digits.x_test[:3], batch_size=np.int64(2)).shape == (3, 10)


def test_metadata_is_written_in_the_place_of_an_earlier_one(made):
    written = tfmiaq.tflite.write_metadata(tfmiaq.tflite.write_metadata(made[1], {"a": 1}), {"b": [2]})
    assert tfmiaq.tflite.read_metadata(written) == {"b": [2]}


def test_verify_wants_records(digits, made):
    with pytest.raises(ValueError, match="at least one record"):
        tfmiaq.verify(made[0], made[1], digits.x_test[:0])


def test_metadata_is_read_back(trained, digits, tmp_path):
    quantized = train(tfmiaq.quantize_model(trained), digits.x_train[:64], digits.y_train[:64])
    sets = (digits.x_train[:30], digits.y_train[:30]), (digits.x_test[:30], digits.y_test[:30])
    report = tfmiaq.audit(quantized, *sets, attacks=["threshold"])
    labels = [f"digit {i}" for i in range(10)]
    path = tmp_path / "model.tflite"
    path.write_bytes(tfmiaq.convert(quantized, labels=labels, audit=report))
    metadata = tfmiaq.tflite.read_metadata(path)
    assert metadata["labels"] == labels
    assert metadata["audit"]["attack_accuracy"] == report.attack_accuracy
    policy = BitwidthPolicy.from_json(metadata["policy"])
    other = tfmiaq.quantize_model(tiny_model(), policy)
    assert tfmiaq.summary(other) == tfmiaq.summary(quantized)
    with pytest.raises(ValueError, match=r"Expected 10 labels, one for each class. Received .'a', 'b'."):
        tfmiaq.convert(quantized, labels=["a", "b"])


def test_a_file_of_another_tool_has_no_metadata(trained):
    assert tfmiaq.tflite.read_metadata(tf.lite.TFLiteConverter.from_keras_model(trained).convert()) is None


def test_uint8_files_are_the_same_network(trained, digits):
    quantized = train(tfmiaq.quantize_model(trained), digits.x_train[:64], digits.y_train[:64])
    as_int8, as_uint8 = (tfmiaq.convert(quantized, "edgetpu", io_type=kind) for kind in ("int8", "uint8"))
    interpreter, _, _ = _details(as_uint8)
    assert interpreter.get_input_details()[0]["dtype"] == np.uint8
    x = digits.x_test[:50]
    np.testing.assert_array_equal(*(tfmiaq.tflite.Interpreter(b).predict(x) for b in (as_int8, as_uint8)))
    with pytest.raises(ValueError, match=r"Unknown io_type 'int4'. Expected one of 'int8', 'uint8'. Did you"):
        tfmiaq.convert(quantized, "edgetpu", io_type="int4")


def test_preprocessing_leaves_the_integer_file_and_rides_in_its_metadata(digits):
    layers = keras.layers
    inputs = keras.Input((8, 8, 1), name="pixels")
    normalization = layers.Normalization(mean=[0.3], variance=[0.04])
    x = normalization(layers.Rescaling(1 / 16, name="scale")(inputs))
    x = layers.Flatten()(layers.Conv2D(4, 3, activation="relu", name="conv")(x))
    model = keras.Model(inputs, layers.Dense(10, name="logits")(x))
    raw = digits.x_train[:128] * 16
    quantized = train(tfmiaq.quantize_model(model), raw, digits.y_train[:128], epochs=2)
    for target in ("mobile", "edgetpu"):
        buffer = tfmiaq.convert(quantized, target, check=False)
        result = tfmiaq.verify(quantized, buffer, raw)
        assert result.exact
        assert result.agreement == 1.0
    _, details, _ = _details(buffer)
    assert {np.dtype(t["dtype"]) for t in details} <= {np.dtype("int8"), np.dtype("int32")}
    known = tfmiaq.tflite.read_metadata(buffer)["normalization"]["pixels"]
    assert known["scale"] == pytest.approx([1 / 16 / 0.2])
    assert known["offset"] == pytest.approx([-0.3 / 0.2])


def test_preprocessing_that_is_no_scale_is_refused_for_the_edge_tpu(digits):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(keras.layers.Resizing(4, 4, name="smaller")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Dense(8, activation="relu")(x)))
    quantized = train(tfmiaq.quantize_model(model), digits.x_train[:64], digits.y_train[:64])
    with pytest.raises(ValueError, match=r"'smaller' \(Resizing\) in front of the network is no scale"):
        tfmiaq.convert(quantized, "edgetpu")


def test_a_file_with_other_levels_is_not_handed_out(trained, digits, monkeypatch):
    quantized = train(tfmiaq.quantize_model(trained), digits.x_train[:64], digits.y_train[:64])
    other = train(tfmiaq.quantize_model(tiny_model()), digits.x_train[:64], digits.y_train[:64])
    foreign = tfmiaq.convert(other)
    monkeypatch.setattr(tf.lite.TFLiteConverter, "convert", lambda self: foreign, raising=False)
    for name in ("write_metadata", "write_standard_metadata"):
        monkeypatch.setattr(conversion, name, lambda *written, **metadata: foreign)
    with pytest.raises(ValueError, match=r"(?s)levels are not the trained ones.*NO"):
        tfmiaq.convert(quantized)
    assert tfmiaq.convert(quantized, check=False) == foreign


def test_litert_gives_the_same_bytes(made, digits):
    pytest.importorskip("ai_edge_litert")
    _, buffer = made
    one, other = (tfmiaq.tflite.Interpreter(buffer, runtime=name) for name in ("tensorflow", "litert"))
    np.testing.assert_array_equal(one.predict(digits.x_test[:200]), other.predict(digits.x_test[:200]))


def test_an_unknown_runtime_is_refused(made):
    with pytest.raises(ValueError, match=r"Unknown runtime 'coral'"):
        tfmiaq.tflite.Interpreter(made[1], runtime="coral")


def _fixed(batch):
    """A file whose graph takes one batch size only."""

    @tf.function(input_signature=[tf.TensorSpec((batch, 4), tf.float32)])
    def serve(x):
        return tf.reshape(tf.reshape(x, (4 * batch,))[::-1], (batch, 4))

    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()])
    return converter.convert()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_file_of_fixed_batch_is_run_in_batches_of_its_own(batch):
    records = np.arange(28, dtype=np.float32).reshape(7, 4)
    found = tfmiaq.tflite.Interpreter(_fixed(batch), threads=1).predict(records, batch_size=5)
    assert found.shape == (7, 4)
    if batch == 1:
        np.testing.assert_array_equal(found, records[:, ::-1])
    else:
        np.testing.assert_array_equal(found[:3], records[:3].ravel()[::-1].reshape(3, 4))


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 16, 16, 1), (4, 8, 8, 3), (4, 64)])
def test_records_of_another_shape_are_refused(made, shape):
    """The interpreter by itself resizes its input, and returns outputs of no meaning."""
    with pytest.raises(ValueError, match=r"takes records of shape \(8, 8, 1\). Received records of shape"):
        tfmiaq.tflite.Interpreter(made[1]).predict(np.zeros(shape, np.float32))

"""The layers and shapes of model that people ship: quantized, trained, converted, and the same network still."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import outputs_of

import tfmiaq
from tfmiaq import BitwidthPolicy, LayerBits
from tfmiaq._backend import keras, tf
from tfmiaq.quantization.plan import plan_model

layers = keras.layers
IMAGE = (8, 8, 3)
LOW = BitwidthPolicy.uniform(2, 4)
# Where a tensor is rounded from one 8-bit scale to another on the way, or one bias is added at two scales and so cannot
# lie on the int32 grid of both: a sum next to a threshold then falls to the other side, and takes others with it.
STEPS = {"Concatenate of sums": 7.01, "a layer called twice": 7.01}


def _head(x):
    return layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(x))


def _conv(x, name="conv"):
    return layers.Conv2D(6, 3, padding="same", activation="relu", name=name)(x)


def _image(body):
    """A model of one image with a convolution in front of the body and a Dense layer behind it."""
    inputs = keras.Input(IMAGE)
    return keras.Model(inputs, _head(body(_conv(inputs, "stem"))))


def _sequence(body):
    inputs = keras.Input((12, 3))
    return keras.Model(inputs, layers.Dense(4, name="logits")(layers.GlobalAveragePooling1D()(body(inputs))))


def _layer(layer):
    return lambda: _image(layer)


def _nested():
    inner = keras.Sequential([keras.Input((8, 8, 6)), layers.Conv2D(6, 3, name="conv"), layers.ReLU()], name="inner")
    inputs = keras.Input((8, 8, 6))
    backbone = keras.Model(inputs, inner(layers.Conv2D(6, 1, name="conv")(inputs)), name="backbone")
    return _image(lambda x: backbone(x, training=False))


def _shared():
    conv = layers.Conv2D(6, 3, padding="same", activation="relu", name="shared")
    return _image(lambda x: conv(conv(x)))


def _two_ends():
    image, vector = keras.Input(IMAGE, name="image"), keras.Input((5,), name="vector")
    x = layers.GlobalMaxPooling2D()(_conv(image))
    x = layers.Concatenate(name="join")([x, layers.Dense(6, activation="relu", name="side")(vector)])
    return keras.Model([image, vector], [layers.Dense(4, name="one")(x), layers.Dense(2, name="two")(x)])


def _residual(kind):
    return lambda: _image(lambda x: layers.ReLU()(kind()([_conv(x, "a"), _conv(x, "b")])))


def _squeeze_and_excite(x):
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    y = layers.Conv2D(2, 1, activation="relu", name="squeeze")(y)
    return layers.Multiply()([x, layers.Conv2D(6, 1, activation="sigmoid", name="excite")(y)])


def _pre_activation(x):
    x = layers.Conv2D(6, 3, name="before")(layers.ReLU()(layers.BatchNormalization(name="norm")(x)))
    return layers.BatchNormalization()(layers.MaxPooling2D()(x))


def _perceptron():
    inputs = keras.Input((10,))
    x = layers.BatchNormalization(name="front_norm")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(16, name="hidden", use_bias=False)(x)))
    return keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(layers.Dropout(0.2)(x)))


def _embedding():
    inputs = keras.Input((12,), dtype="int32")
    x = layers.Conv1D(6, 3, activation="relu", name="conv")(layers.Embedding(20, 6, name="embedding")(inputs))
    return keras.Model(inputs, layers.Dense(4, name="logits")(layers.GlobalMaxPooling1D()(x)))


INTEGER = {
    "ReLU6": _layer(lambda x: layers.ReLU(6.0)(layers.Conv2D(6, 3, name="c")(x))),
    "LeakyReLU": _layer(lambda x: layers.LeakyReLU()(layers.Conv2D(6, 3, name="c")(x))),
    "ReLU with a slope": _layer(lambda x: layers.ReLU(negative_slope=0.1)(layers.Conv2D(6, 3, name="c")(x))),
    "sigmoid": _layer(lambda x: layers.Conv2D(6, 3, activation="sigmoid", name="c")(x)),
    "tanh": _layer(lambda x: layers.Conv2D(6, 3, activation="tanh", name="c")(x)),
    "swish": _layer(lambda x: layers.Conv2D(6, 3, activation="swish", name="c")(x)),
    "hard_sigmoid": _layer(lambda x: layers.Conv2D(6, 3, activation="hard_sigmoid", name="c")(x)),
    "hard swish of operations": _layer(lambda x: x * (layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0))),
    "tf.nn.relu6": _layer(lambda x: tf.nn.relu6(layers.Conv2D(6, 3, name="c")(x))),
    "SeparableConv2D": _layer(layers.SeparableConv2D(6, 3, activation="relu", name="separable")),
    "Conv2DTranspose": _layer(layers.Conv2DTranspose(6, 3, strides=2, activation="relu", name="up")),
    "Conv2DTranspose, norm": _layer(
        lambda x: layers.ReLU()(layers.BatchNormalization()(layers.Conv2DTranspose(6, 3, use_bias=False)(x)))
    ),
    "DepthwiseConv2D": _layer(layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="depthwise")),
    "ZeroPadding2D": _layer(lambda x: _conv(layers.ZeroPadding2D()(x))),
    "Cropping2D": _layer(lambda x: _conv(layers.Cropping2D()(x))),
    "UpSampling2D": _layer(lambda x: _conv(layers.UpSampling2D()(x))),
    "UpSampling2D, bilinear": _layer(lambda x: _conv(layers.UpSampling2D(interpolation="bilinear")(x))),
    "Permute and RepeatVector": _layer(
        lambda x: layers.Reshape((2, 2, 6))(
            layers.RepeatVector(4)(layers.GlobalMaxPooling2D()(layers.Permute((2, 1, 3))(x)))
        )
    ),
    "slicing": _layer(lambda x: _conv(x[:, 1:5, ::2])),
    "Add": _residual(layers.Add),
    "Add of three": _layer(lambda x: layers.ReLU()(layers.Add()([_conv(x, "a"), _conv(x, "b"), x]))),
    "Subtract": _residual(layers.Subtract),
    "Multiply": _residual(layers.Multiply),
    "Concatenate": _residual(layers.Concatenate),
    "Concatenate of sums": _layer(lambda x: layers.ReLU()(layers.Concatenate()([layers.Conv2D(6, 1)(x), x]))),
    "squeeze and excite": _layer(_squeeze_and_excite),
    "norms without a kernel": _layer(_pre_activation),
    "perceptron with norms": _perceptron,
    "Conv1D": lambda: _sequence(layers.Conv1D(6, 3, strides=2, padding="causal", activation="relu", name="conv")),
    "SeparableConv1D": lambda: _sequence(layers.SeparableConv1D(6, 3, padding="same", activation="relu")),
    "pooling of sequences": lambda: _sequence(
        lambda x: layers.AveragePooling1D()(layers.MaxPooling1D()(layers.Conv1D(6, 3, activation="relu")(x)))
    ),
    "Conv1D, norm": lambda: _sequence(
        lambda x: layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Conv1D(6, 3, name="conv")(x)))
    ),
    "Dense on sequences": lambda: _sequence(lambda x: layers.Dense(5, activation="relu", name="d")(x)),
    "nested models": _nested,
    "a layer called twice": _shared,
    "two inputs, two outputs": _two_ends,
    "Embedding": _embedding,
}
WITH_FLOATS = {
    "Rescaling in front": lambda: keras.Sequential(
        [
            keras.Input(IMAGE),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(4),
        ]
    ),
    "PReLU": _layer(lambda x: layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(6, 3, name="c")(x))),
    "gelu": _layer(lambda x: layers.Conv2D(6, 3, activation="gelu", name="c")(x)),
    "LayerNormalization": _layer(layers.LayerNormalization()),
    "MultiHeadAttention": lambda: _sequence(
        lambda x: (lambda y: layers.MultiHeadAttention(2, 4)(y, y))(layers.Dense(6, activation="relu")(x))
    ),
    "LSTM": lambda: _sequence(lambda x: layers.LSTM(5, return_sequences=True)(layers.Dense(6, activation="relu")(x))),
    "GRU": lambda: _sequence(lambda x: layers.GRU(5, return_sequences=True)(layers.Dense(6, activation="relu")(x))),
    "Bidirectional": lambda: _sequence(lambda x: layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)),
    "Lambda": _layer(lambda x: layers.Lambda(tf.abs)(layers.Conv2D(6, 3, name="c")(x))),
}


def _records(model, count=64):
    generator = np.random.default_rng(0)
    records = [
        generator.integers(0, 20, (count, *t.shape[1:])).astype(np.int32)
        if t.dtype.is_integer
        else generator.normal(size=(count, *t.shape[1:])).astype(np.float32)
        for t in model.inputs
    ]
    return records[0] if len(records) == 1 else records


def _trained(model, policy=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        quantized = tfmiaq.quantize_model(model, policy)
    x = _records(model)
    targets = [np.random.default_rng(1).normal(size=(64, *t.shape[1:])) for t in model.outputs]
    quantized.compile(keras.optimizers.Adam(1e-3), "mse", run_eagerly=True)
    quantized.fit(x, targets[0] if len(targets) == 1 else targets, batch_size=32, verbose=0)
    return quantized, x


@pytest.mark.parametrize("name", INTEGER)
def test_integer_through_and_through(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = INTEGER[name]()
    quantized, x = _trained(model)
    # `verify` compares more records below.
    buffer = tfmiaq.convert(quantized, "edgetpu", check=False)
    quantized.save(tmp_path / "model.keras")
    loaded = tfmiaq.load_model(str(tmp_path / "model.keras"))
    for one, other in zip(*(tf.nest.flatten(outputs_of(m, x)) for m in (loaded, quantized))):
        np.testing.assert_array_equal(one, other)
    result = tfmiaq.verify(quantized, buffer, x)
    assert result.exact, str(result)
    interpreter = tf.lite.Interpreter(model_content=buffer)
    interpreter.allocate_tensors()
    types = {np.dtype(t["dtype"]) for t in interpreter.get_tensor_details()}
    assert types <= {np.dtype("int8"), np.dtype("int32")}
    # A tensor that a concatenation and another layer read has two scales.
    assert name in ("Concatenate of sums", "two inputs, two outputs") or "QUANTIZE" not in {
        op["op_name"] for op in interpreter._get_ops_details()
    }
    output_scale = interpreter.get_output_details()[0]["quantization"][0]
    assert result.largest_difference <= STEPS.get(name, 2.01) * output_scale, str(result)


@pytest.mark.parametrize("name", WITH_FLOATS)
def test_what_stays_float_is_told_and_the_rest_is_quantized(name):
    keras.utils.set_random_seed(0)
    model = WITH_FLOATS[name]()
    rows = {row.name: row for row in tfmiaq.summary(model).layers}
    assert any(row.note for row in rows.values())
    quantized, x = _trained(model)
    buffer = tfmiaq.convert(quantized, "mobile", check=False)
    result = tfmiaq.verify(quantized, buffer, x)
    assert result.exact, str(result)
    assert any(row.tensor == "weight" for row in result.layers)
    assert result.agreement > 0.9, str(result)


def test_flattening_changes_no_output():
    for name in (*INTEGER, *WITH_FLOATS):
        model = {**INTEGER, **WITH_FLOATS}[name]()
        x = _records(model, 4)
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.set_weights([np.random.default_rng(0).uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
        flat = plan_model(model, LOW)[0].model
        for expected, found in zip(*(tf.nest.flatten(outputs_of(m, x)) for m in (model, flat))):
            np.testing.assert_allclose(found, expected, atol=2e-5, err_msg=name)


def test_a_policy_names_inner_layers_and_parts():
    model = _nested()
    policy = BitwidthPolicy(LayerBits(4, 4), {"backbone/*": LayerBits(2, 3), "backbone/inner/conv": LayerBits(1, 1)})
    bits = {row.name: row.weight_bits for row in tfmiaq.summary(tfmiaq.quantize_model(model, policy)).layers}
    assert (bits["stem"], bits["conv"], bits["backbone_inner_conv"], bits["logits"]) == (4, 2, 1, 4)
    separable = INTEGER["SeparableConv2D"]()
    policy = BitwidthPolicy(LayerBits(4, 4), {"separable": LayerBits(3, 3), "separable_pointwise": LayerBits(2, 2)})
    bits = {row.name: row.weight_bits for row in tfmiaq.summary(separable, policy).layers}
    assert (bits["separable_depthwise"], bits["separable_pointwise"]) == (3, 2)


def test_a_normalization_stays_float_with_the_layer_that_it_folds_into():
    model = _image(lambda x: layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Conv2D(6, 3, name="conv")(x))))
    policy = BitwidthPolicy(LayerBits(4, 4), {"conv": LayerBits(None, None)})
    assert "folds into" in {row.name: row.note for row in tfmiaq.summary(model, policy).layers}["norm"]
    quantized, x = _trained(model, policy)
    result = tfmiaq.verify(quantized, tfmiaq.convert(quantized), x)
    assert result.exact
    assert result.agreement == 1.0


def test_a_layer_called_twice_keeps_one_set_of_weights():
    model = _shared()
    quantized, _ = _trained(model)
    kernels = [w for w in quantized.trainable_weights if "kernel" in w.name]
    assert len(kernels) == len([w for w in model.trainable_weights if "kernel" in w.name])


def test_training_false_of_a_nested_model_is_kept():
    inputs = keras.Input(IMAGE)
    backbone = keras.Sequential([keras.Input(IMAGE), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()])
    quantized, _ = _trained(keras.Model(inputs, _head(backbone(inputs, training=False))), LOW)
    norm = next(layer.layer for layer in quantized.layers if "norm" in layer.name)
    np.testing.assert_array_equal(norm.moving_mean.numpy(), 0)


def test_both_ends_of_every_branch_take_the_bits_of_the_ends():
    rows = {row.name: row.weight_bits for row in tfmiaq.summary(_two_ends(), BitwidthPolicy.uniform(2, 4)).layers}
    assert (rows["side"], rows["one"], rows["two"]) == (8, 8, 8)


def test_a_subclassed_model_inside_is_refused_by_name():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match=r"Model 'own_one' of type Own is subclassed"):
        tfmiaq.quantize_model(_image(Own(name="own_one")))


def test_a_layer_that_cannot_be_copied_is_named():
    class Own(layers.Layer):
        def __init__(self, units):
            super().__init__(name="mine")

        def call(self, x):
            return x

    with pytest.raises(ValueError, match=r"(?s)Layer 'mine' of type Own cannot be copied.*get_config"):
        tfmiaq.quantize_model(_image(Own(3)))

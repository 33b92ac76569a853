"""The table of model situations: one row each, a few lines a row.

A row's float model is compared with its quantized copy at 8 bits by every property of `properties.py` that applies. A
new fault of the conversion is a new row here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Optional

import checks
import numpy as np

from tfmiaq._backend import keras as keras2
from tfmiaq._backend import tf

IMAGE = (8, 8, 3)
# Steps of a sequence: recurrent layers are unrolled over them in a file.
LENGTH = 5
RECORDS = 32


def _classes(k: Any) -> dict[str, Any]:
    return {"loss": k.losses.SparseCategoricalCrossentropy(from_logits=True), "metrics": ["accuracy"]}


def _binary(k: Any) -> dict[str, Any]:
    return {"loss": "binary_crossentropy", "metrics": ["accuracy"]}


def _squares(k: Any) -> dict[str, Any]:
    return {"loss": "mse"}


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(RECORDS, *shape)).astype(np.float32)


def _labels(count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).integers(0, count, RECORDS)


def _images() -> tuple[Any, Any]:
    return _random(*IMAGE), _labels()


def _sequences() -> tuple[Any, Any]:
    return _random(LENGTH, 3), _labels()


def _vectors() -> tuple[Any, Any]:
    return _random(6), _labels()


def _tokens() -> tuple[Any, Any]:
    """Sequences of 2 to 4 words, padded with zeros at the end."""
    generator = np.random.default_rng(0)
    x = generator.integers(1, 20, (RECORDS, LENGTH)).astype(np.int32)
    x[np.arange(LENGTH) >= generator.integers(2, 5, RECORDS)[:, None]] = 0
    return x, _labels()


def _padded() -> tuple[Any, Any]:
    """The same of vectors."""
    return _random(LENGTH, 3) * (_tokens()[0] != 0)[..., None].astype(np.float32), _labels()


@dataclasses.dataclass(frozen=True)
class Situation:
    """One row.

    Attributes:
        name: Family and situation, "family: situation".
        build: Makes the float model from a Keras module, which is Keras 2, or Keras 3 for a row marked `k3` as well.
        data: Records and targets, as `fit` takes them.
        compile: Arguments of `compile` but the optimizer.
        fit: More arguments of `fit` and `train_on_batch`: sample weights.
        steps: Largest difference of an output to the float model's, in 255ths of its range.
        batch: Records of one training step.
        targets: Kinds of file that are converted.
        file_steps: Largest difference of a file's output to the quantized model's, in steps of its scale.
        codes: Largest share of a file's integer outputs that differ from the quantized model's at all; means over
            pixels end on ties, which kernels round otherwise, so that only a few rows can be held to it.
        convert: More arguments of `convert`.
        mapped: The Edge TPU takes every operation of the file.
        after: Called with each model and a function that finds its layers by the user's names, before any training.
        checks: More properties, which only this row has.
        common: The properties that every row has are checked too; not where another row has the same model.
        reloads: Kinds of file that it is reloaded from, "keras" and "h5"; none stands for one of the two or none, by
            turns.
        refuses: What the error of `quantize_model` may say instead of a model.
        k3: Also as a Keras 3 model.
        k3_files: That model is converted too, though its quantized copy is one of Keras 2.
        isolated: In a process of its own: it has crashed one.
        vary: Biases and statistics take random values before anything else.
    """

    name: str
    build: Callable[[Any], Any]
    data: Callable[[], tuple[Any, Any]] = _images
    compile: Callable[[Any], dict[str, Any]] = _classes
    fit: dict[str, Any] = dataclasses.field(default_factory=dict)
    steps: float = 8.0
    batch: int = RECORDS
    targets: tuple[str, ...] = ()
    file_steps: float = 2.01
    codes: float = 1.0
    convert: dict[str, Any] = dataclasses.field(default_factory=dict)
    mapped: bool = False
    after: Optional[Callable[[Any, Callable[[str], Any]], None]] = None
    checks: tuple[Callable[[Any], None], ...] = ()
    common: bool = True
    reloads: tuple[str, ...] = ()
    refuses: Optional[str] = None
    k3: bool = False
    k3_files: bool = False
    isolated: bool = False
    vary: bool = True


EDGE = ("edgetpu",)
MOBILE = ("mobile",)
BOTH = ("edgetpu", "mobile")
FORMATS = ("keras", "h5")
# On TensorFlow 2.21 a kernel rounds a logit to the neighbouring code where Keras does not. That moves a softmax by up
# to a quarter of the logit's step, 0.0257 here: 1.6 steps of 1/256, to which the rounding of the output is added.
BEHIND_SOFTMAX = 3


def _image(body: Callable[[Any, Any], Any], pool: str = "GlobalAveragePooling2D") -> Any:
    """A builder: an image, a convolution, the body, pooling and a Dense layer."""

    def build(k: Any) -> Any:
        inputs = k.Input(IMAGE, name="image")
        x = body(k, k.layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs))
        return k.Model(inputs, k.layers.Dense(4, name="logits")(getattr(k.layers, pool)(name="gap")(x)))

    return build


def _sequence(body: Callable[[Any, Any], Any], length: Optional[int] = LENGTH, pool: bool = True, **kwargs: Any) -> Any:
    def build(k: Any) -> Any:
        inputs = k.Input((length, 3), name="sequence", **kwargs)
        x = body(k, inputs)
        x = k.layers.GlobalAveragePooling1D(name="gap")(x) if pool else x
        return k.Model(inputs, k.layers.Dense(4, name="logits")(x))

    return build


def _words(body: Callable[[Any, Any], Any], mask: bool = True, dtype: str = "int32") -> Any:
    def build(k: Any) -> Any:
        inputs = k.Input((LENGTH,), dtype=dtype, name="words")
        x = body(k, k.layers.Embedding(20, 4, mask_zero=mask, name="embedding")(inputs))
        return k.Model(inputs, k.layers.Dense(4, name="logits")(x))

    return build


def _vector(body: Callable[[Any, Any], Any]) -> Any:
    def build(k: Any) -> Any:
        inputs = k.Input((6,), name="vector")
        return k.Model(inputs, k.layers.Dense(4, name="logits")(body(k, inputs)))

    return build


def _frozen(build: Callable[[Any], Any], *names: str) -> Any:
    """The builder of a model with frozen layers."""

    def frozen(k: Any) -> Any:
        model = build(k)
        for name in names:
            model.get_layer(name).trainable = False
        return model

    return frozen


def _freeze(*names: str) -> Any:
    def after(model: Any, find: Callable[[str], Any]) -> None:
        for name in names:
            find(name).trainable = False

    return after


# Bodies.


def _plain(k: Any, x: Any) -> Any:
    return k.layers.Conv2D(4, 3, activation="relu", name="conv")(x)


def _normed(k: Any, x: Any) -> Any:
    x = k.layers.Conv2D(4, 3, use_bias=False, name="conv")(x)
    return k.layers.ReLU(name="relu")(k.layers.BatchNormalization(name="norm")(x))


def _dense_normed(k: Any, x: Any, **kwargs: Any) -> Any:
    x = k.layers.Dense(8, use_bias=False, name="hidden", **kwargs)(x)
    return k.layers.ReLU(name="relu")(k.layers.BatchNormalization(name="norm")(x))


# Without biases Keras traces an RNN once. With them it traces a second one for a GPU, and the gradients of both: the
# rows of Embedding and of freezing have those.
_TRACED_ONCE = {"use_bias": False}


def _layer(kind: str, *args: Any, **kwargs: Any) -> Any:
    """A body of one layer, by its name in `keras.layers`."""
    return lambda k, x: getattr(k.layers, kind)(*args, **kwargs)(x)


def _activated(name: str) -> Any:
    return lambda k, x: k.layers.Activation(name, name="act")(k.layers.Conv2D(4, 3, name="conv")(x))


def _backbone(k: Any, trainable: bool = True, name: str = "backbone") -> Any:
    inputs = k.Input((8, 8, 4))
    x = k.layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = k.layers.ReLU(name="relu")(k.layers.BatchNormalization(name="norm")(x))
    backbone = k.Model(inputs, x, name=name)
    backbone.trainable = trainable
    return backbone


def _separable(k: Any, x: Any) -> Any:
    return k.layers.SeparableConv2D(4, 3, activation="relu", name="separable")(x)


def _residual(k: Any, x: Any) -> Any:
    y = k.layers.BatchNormalization(name="norm")(k.layers.Conv2D(4, 3, padding="same", name="conv")(x))
    return k.layers.ReLU(name="relu")(k.layers.Add(name="sum")([x, y]))


def _squeeze_and_excite(k: Any, x: Any) -> Any:
    y = k.layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    y = k.layers.Conv2D(2, 1, activation="relu", name="reduce")(y)
    return k.layers.Multiply(name="scale")([x, k.layers.Conv2D(4, 1, activation="sigmoid", name="excite")(y)])


def _concatenated(k: Any, x: Any) -> Any:
    one = k.layers.Conv2D(4, 3, padding="same", activation="relu", name="one")(x)
    two = k.layers.Conv2D(4, 1, activation="relu", name="two")(x)
    return k.layers.Concatenate(name="join")([one, two])


def _attention(k: Any, x: Any) -> Any:
    x = k.layers.Dense(4, activation="relu", name="dense")(x)
    return k.layers.MultiHeadAttention(2, 4, name="attention")(x, x)


def _pre_activation(k: Any, x: Any) -> Any:
    x = k.layers.MaxPooling2D(name="pool")(x)
    return k.layers.ReLU(name="relu")(k.layers.BatchNormalization(name="norm")(x))


def _inner_rescaling(k: Any, x: Any) -> Any:
    return _plain(k, k.layers.Rescaling(0.5, offset=0.1, name="rescale")(k.layers.MaxPooling2D(2, name="pool")(x)))


def _shared_conv(k: Any, x: Any) -> Any:
    conv = k.layers.Conv2D(4, 3, padding="same", name="shared")
    return conv(k.layers.ReLU(name="relu")(conv(x)))


def _shared_dense(k: Any, x: Any) -> Any:
    dense = k.layers.Dense(6, activation="relu", name="shared")
    return dense(dense(x))


def _siamese(make: Callable[[Any], Callable[[Any], Any]]) -> Any:
    def build(k: Any) -> Any:
        one, two = k.Input(IMAGE, name="one"), k.Input(IMAGE, name="two")
        shared = make(k)
        x = k.layers.Concatenate(name="join")([shared(one), shared(two)])
        return k.Model([one, two], k.layers.Dense(4, name="logits")(k.layers.GlobalAveragePooling2D(name="gap")(x)))

    return build


def _shared_activated(k: Any, x: Any) -> Any:
    conv, relu = k.layers.Conv2D(4, 3, padding="same", name="shared"), k.layers.ReLU(name="relu")
    return relu(conv(relu(conv(x))))


def _two_texts(k: Any) -> Any:
    one, two = k.Input((LENGTH,), dtype="int32", name="one"), k.Input((LENGTH,), dtype="int32", name="two")
    shared = k.layers.Embedding(20, 4, name="shared")
    x = k.layers.GlobalMaxPooling1D(name="gmp")(k.layers.Add(name="sum")([shared(one), shared(two)]))
    return k.Model([one, two], k.layers.Dense(4, name="logits")(x))


def _two_tokens() -> tuple[Any, Any]:
    x, y = _tokens()
    return [x, x[::-1].copy()], y


def _shared_backbone(k: Any) -> Any:
    inputs = k.Input(IMAGE)
    x = k.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    return k.Model(inputs, x, name="tower")


def _pairs() -> tuple[Any, Any]:
    return [_random(*IMAGE), _random(*IMAGE, seed=2)], _labels()


def _ends(inputs_as: str = "list", outputs_as: str = "list") -> Any:
    """Two inputs, and a class and a number for each record."""

    def build(k: Any) -> Any:
        image, vector = k.Input(IMAGE, name="image"), k.Input((6,), name="vector")
        x = k.layers.Conv2D(4, 3, activation="relu", name="conv")(image)
        x = k.layers.GlobalMaxPooling2D(name="gmp")(x)
        x = k.layers.Concatenate(name="join")([x, k.layers.Dense(4, activation="relu", name="side")(vector)])
        cls, reg = k.layers.Dense(4, activation="softmax", name="cls")(x), k.layers.Dense(1, name="reg")(x)
        inputs = {"image": image, "vector": vector} if inputs_as == "dict" else [image, vector]
        return k.Model(inputs, {"cls": cls, "reg": reg} if outputs_as == "dict" else [cls, reg])

    return build


def _ends_data(inputs_as: str = "list", targets_as: str = "dict") -> Any:
    def data() -> tuple[Any, Any]:
        image, vector, cls, reg = _random(*IMAGE), _random(6, seed=2), _labels(), _random(1, seed=3)
        x = {"image": image, "vector": vector} if inputs_as == "dict" else [image, vector]
        return x, ({"cls": cls, "reg": reg} if targets_as == "dict" else [cls, reg])

    return data


def _ends_by_name(k: Any) -> dict[str, Any]:
    return {
        "loss": {"cls": "sparse_categorical_crossentropy", "reg": "mse"},
        "loss_weights": {"cls": 1.0, "reg": 0.3},
        "metrics": {"cls": ["accuracy"], "reg": ["mae"]},
    }


def _ends_by_order(k: Any) -> dict[str, Any]:
    return {"loss": ["sparse_categorical_crossentropy", "mse"], "loss_weights": [1.0, 0.3]}


def _two_nested(k: Any, x: Any) -> Any:
    inner = k.Sequential([k.Input((8, 8, 4)), k.layers.Conv2D(4, 3, name="conv"), k.layers.ReLU()], name="inner")
    inputs = k.Input((8, 8, 4))
    outer = k.Model(inputs, inner(k.layers.Conv2D(4, 1, name="conv")(inputs)), name="outer")
    return k.layers.Conv2D(4, 1, activation="relu", name="conv")(outer(x))


def _nested_ends(k: Any, x: Any) -> Any:
    inputs = k.Input((8, 8, 4))
    y = k.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    inner = k.Model(inputs, [y, k.layers.Conv2D(4, 3, activation="relu", name="side")(inputs)], name="inner")
    return k.layers.Add(name="sum")(inner(x))


def _sequential(k: Any) -> Any:
    layers = k.layers
    return k.Sequential(
        [
            k.Input(IMAGE),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(4),
        ]
    )


def _one_unit(activation: Optional[str]) -> Any:
    def build(k: Any) -> Any:
        inputs = k.Input((6,), name="vector")
        x = k.layers.Dense(8, activation="relu", name="hidden")(inputs)
        return k.Model(inputs, k.layers.Dense(1, activation=activation, name="score")(x))

    return build


def _fully_convolutional(k: Any) -> Any:
    inputs = k.Input((None, None, 3), name="image")
    x = k.layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inputs)
    return k.Model(inputs, k.layers.Conv2D(2, 1, name="map")(x))


def _free_size(k: Any) -> Any:
    inputs = k.Input((None, None, 3), name="image")
    x = k.layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inputs)
    return k.Model(inputs, k.layers.Dense(4, name="logits")(k.layers.GlobalAveragePooling2D(name="gap")(x)))


def _fixed_image(batch: int, body: Callable[[Any, Any], Any]) -> Any:
    def build(k: Any) -> Any:
        inputs = k.Input(IMAGE, batch_size=batch, name="image")
        x = body(k, k.layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs))
        return k.Model(inputs, k.layers.Dense(4, name="logits")(k.layers.Flatten(name="flatten")(x)))

    return build


def _few(data: Callable[[], tuple[Any, Any]], count: int) -> Any:
    """Few records for models whose batch is fixed; the first of them sets the ranges, the others lie within."""

    def few() -> tuple[Any, Any]:
        x, y = data()
        return np.stack([x[0] * (1 - 0.05 * i) for i in range(count)]), y[:count]

    return few


def _bytes_in(k: Any) -> Any:
    inputs = k.Input(IMAGE, dtype="uint8", name="image")
    x = k.layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(inputs)
    x = k.layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    return k.Model(inputs, k.layers.Dense(4, name="logits")(k.layers.GlobalAveragePooling2D(name="gap")(x)))


def _bytes() -> tuple[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (RECORDS, *IMAGE)).astype(np.uint8), _labels()


def _normalized_front(k: Any) -> Any:
    inputs = k.Input(IMAGE, name="image")
    norm = k.layers.Normalization(name="normalize")
    norm.adapt(_random(*IMAGE) * 3 + 1)
    x = k.layers.Conv2D(4, 3, activation="relu", name="conv")(norm(inputs))
    return k.Model(inputs, k.layers.Dense(4, name="logits")(k.layers.GlobalAveragePooling2D(name="gap")(x)))


def _strings(k: Any) -> Any:
    inputs = k.Input((), dtype="string", name="text")
    vectorize = k.layers.TextVectorization(10, output_sequence_length=4, vocabulary=["good", "bad"], name="vectorize")
    x = k.layers.Embedding(10, 4, name="embedding")(vectorize(inputs))
    return k.Model(inputs, k.layers.Dense(4, name="logits")(k.layers.GlobalAveragePooling1D(name="gap")(x)))


def _texts() -> tuple[Any, Any]:
    return np.array(["good bad", "bad bad good other"] * (RECORDS // 2)), _labels()


def _initial_state(k: Any) -> Any:
    inputs, state = k.Input((LENGTH, 3), name="sequence"), k.Input((4,), name="state")
    x = k.layers.GRU(4, name="gru", **_TRACED_ONCE)(
        inputs, initial_state=k.layers.Dense(4, activation="tanh", name="start")(state)
    )
    return k.Model([inputs, state], k.layers.Dense(4, name="logits")(x))


def _encoder_decoder(k: Any) -> Any:
    source, target = k.Input((LENGTH, 3), name="source"), k.Input((LENGTH, 3), name="target")
    _, h, c = k.layers.LSTM(4, return_state=True, name="encoder", **_TRACED_ONCE)(source)
    x = k.layers.LSTM(4, name="decoder", **_TRACED_ONCE)(target, initial_state=[h, c])
    return k.Model([source, target], k.layers.Dense(4, name="logits")(x))


def _norm_kwargs(**kwargs: Any) -> Any:
    """A body: convolution and BatchNormalization with arguments."""

    def body(k: Any, x: Any) -> Any:
        x = k.layers.Conv2D(4, 3, name="conv")(x)
        return k.layers.ReLU(name="relu")(k.layers.BatchNormalization(name="norm", **_made(k, kwargs))(x))

    return body


def _made(k: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments that are functions of a Keras module, made."""
    return {key: value(k) if callable(value) else value for key, value in kwargs.items()}


def _with(kind: str, *args: Any, norm: bool = False, **kwargs: Any) -> Any:
    """A body of one layer, whose arguments may be functions of the Keras module; with a BatchNormalization behind."""

    def body(k: Any, x: Any) -> Any:
        x = getattr(k.layers, kind)(*args, **_made(k, kwargs))(x)
        return k.layers.ReLU(name="relu")(k.layers.BatchNormalization(name="norm")(x)) if norm else x

    return body


def _l2(k: Any) -> Any:
    return k.regularizers.L2(0.3)


def _l1(k: Any) -> Any:
    return k.regularizers.L1(0.1)


@keras2.utils.register_keras_serializable("conformance")
class OwnLoss(keras2.layers.Layer):
    """Adds a loss of its own, and passes its input on."""

    def call(self, x):
        self.add_loss(0.5 * tf.reduce_mean(tf.square(x)))
        return x


@keras2.utils.register_keras_serializable("conformance")
class OwnStep(keras2.Model):
    """Doubles the loss, and counts the steps."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = 2.0 * self.compiled_loss(y, self(x, training=True))
        self.optimizer.minimize(loss, self.trainable_variables, tape)
        return {"doubled": loss}


def _own_step(k: Any) -> Any:
    inputs = k.Input(IMAGE, name="image")
    x = k.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    return OwnStep(inputs, k.layers.Dense(4, name="logits")(k.layers.GlobalAveragePooling2D(name="gap")(x)))


def _added(kind: str) -> Any:
    """The builder of a model with `model.add_loss` or `model.add_metric`, which Keras 3 does not have."""

    def build(k: Any) -> Any:
        inputs = k.Input(IMAGE, name="image")
        x = k.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
        model = k.Model(inputs, k.layers.Dense(4, name="logits")(k.layers.GlobalAveragePooling2D(name="gap")(x)))
        if kind == "loss":
            model.add_loss(0.5 * tf.reduce_mean(tf.square(x)))
        else:
            model.add_metric(tf.reduce_mean(x), name="mean_of_conv")
        return model

    return build


def _newer_arguments(k: Any) -> Any:
    """A model whose configuration has an argument that this Keras 2 does not know, at its default."""
    if k is keras2:
        return _image(_plain)(k)

    class Newer(k.initializers.GlorotUniform):
        def get_config(self):
            return {**super().get_config(), "input_axes": None, "output_axes": None}

    Newer.__name__ = "GlorotUniform"
    inputs = k.Input(IMAGE, name="image")
    x = k.layers.Conv2D(4, 3, activation="relu", kernel_initializer=Newer(), name="conv")(inputs)
    return k.Model(inputs, k.layers.Dense(4, name="logits")(k.layers.GlobalAveragePooling2D(name="gap")(x)))


def _mixed(k: Any) -> Any:
    k.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        inputs = k.Input(IMAGE, name="image")
        x = _normed(k, inputs)
        x = k.layers.Dense(4, name="dense")(k.layers.GlobalAveragePooling2D(name="gap")(x))
        return k.Model(inputs, k.layers.Activation("linear", dtype="float32", name="logits")(x))
    finally:
        k.mixed_precision.set_global_policy("float32")


def _thawed_inside(backbone: Any) -> Any:
    backbone.get_layer("conv").trainable = True
    # Keras 2 keeps what is inside a frozen model frozen.
    return backbone


def _frozen_whole(k: Any) -> Any:
    model = _image(_normed)(k)
    model.trainable = False
    return model


def _shared_relu(k: Any, x: Any) -> Any:
    """One ReLU layer behind a convolution, one with a BatchNormalization, and a sum."""
    relu = k.layers.ReLU(name="relu")
    y = relu(k.layers.Conv2D(4, 3, padding="same", name="one")(x))
    z = k.layers.Conv2D(4, 3, padding="same", use_bias=False, name="two")(y)
    z = relu(k.layers.BatchNormalization(name="norm")(z))
    return relu(k.layers.Add(name="sum")([k.layers.Conv2D(4, 1, name="three")(z), y]))


def _unmasked_by_operation(k: Any, x: Any) -> Any:
    """An operation on tensors passes no mask on, though the Add layer that it becomes does."""
    y = k.layers.Dense(4, name="dense")(x)
    return k.layers.GRU(4, name="gru", **_TRACED_ONCE)(y + k.layers.Dense(4, name="other")(x))


def _loss_inside(k: Any) -> Any:
    """A loss of what a kernel gives its BatchNormalization, added in the outer model, and one added in a nested one."""
    inputs = k.Input(IMAGE, name="image")
    inner_inputs = k.Input((8, 8, 4))
    y = k.layers.Conv2D(4, 3, activation="relu", name="side")(inner_inputs)
    inner = k.Model(inner_inputs, y, name="inner")
    inner.add_loss(0.3 * tf.reduce_mean(tf.square(y)))
    conv = k.layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = inner(k.layers.ReLU(name="relu")(k.layers.BatchNormalization(name="norm")(conv)))
    model = k.Model(inputs, k.layers.Dense(4, name="logits")(k.layers.GlobalAveragePooling2D(name="gap")(x)))
    model.add_loss(0.5 * tf.reduce_mean(tf.square(conv)))
    return model


def _map_labels() -> tuple[Any, Any]:
    return _random(*IMAGE), np.random.default_rng(1).integers(0, 2, (RECORDS, 8, 8))


def _word_labels() -> tuple[Any, Any]:
    return _tokens()[0], np.random.default_rng(1).integers(0, 4, (RECORDS, LENGTH))


# Rows of one of these share their models.
_PLAIN, _NORMED = _image(_plain), _image(_normed)

TRAINING = (
    # What is frozen.
    Situation("frozen: first layer", _frozen(_image(_plain), "stem"), k3=True),
    Situation(
        "frozen: all but the head",
        _frozen(_image(_normed), "stem", "conv", "norm"),
        k3=True,
        targets=EDGE,
        reloads=FORMATS,
    ),
    Situation("frozen: the head", _frozen(_image(_normed), "logits")),
    Situation(
        "frozen: nested base in inference",
        _image(lambda k, x: _backbone(k, trainable=False)(x, training=False)),
        k3=True,
    ),
    Situation("frozen: nested base", _image(lambda k, x: _backbone(k, trainable=False)(x))),
    Situation("frozen: BatchNormalization", _frozen(_image(_normed), "norm"), k3=True),
    Situation("frozen: BatchNormalization of a Dense", _frozen(_vector(_dense_normed), "norm"), data=_vectors),
    Situation("frozen: Dense with BatchNormalization", _frozen(_vector(_dense_normed), "hidden"), data=_vectors),
    Situation("frozen: SeparableConv2D", _frozen(_image(_separable), "separable")),
    Situation(
        "frozen: Conv1D",
        _frozen(_sequence(_layer("Conv1D", 4, 3, activation="relu", name="conv")), "conv"),
        data=_sequences,
    ),
    Situation(
        "frozen: Embedding",
        _frozen(_words(_layer("GlobalAveragePooling1D", name="gap"), mask=False), "embedding"),
        data=_tokens,
    ),
    Situation(
        "frozen: LSTM, which stays float",
        _frozen(_sequence(_layer("LSTM", 4, name="lstm"), pool=False), "lstm"),
        data=_sequences,
    ),
    Situation("frozen: after quantizing", _image(_normed), after=_freeze("conv", "norm")),
    Situation("frozen: the whole model, after quantizing", _image(_normed), after=checks.freeze_model),
    Situation("frozen: thawed after quantizing", _frozen(_image(_normed), "conv"), after=checks.thaw_model),
    Situation(
        "frozen: nested base, one layer thawed inside",
        _image(lambda k, x: _thawed_inside(_backbone(k, trainable=False))(x)),
    ),
    Situation("frozen: the whole model", _frozen_whole, k3=True),
    # Constants, which are no weights.
    Situation(
        "constants: AveragePooling2D",
        _image(lambda k, x: _plain(k, k.layers.AveragePooling2D(2, name="pool")(x))),
        k3=True,
        targets=EDGE,
        reloads=FORMATS,
    ),
    Situation(
        "constants: AveragePooling1D",
        _sequence(lambda k, x: k.layers.AveragePooling1D(2, name="pool")(k.layers.Conv1D(4, 3, name="conv")(x))),
        data=_sequences,
    ),
    Situation("constants: inner Rescaling", _image(_inner_rescaling), k3=True, targets=EDGE),
    Situation("constants: lone BatchNormalization", _image(_pre_activation), k3=True, targets=EDGE),
    Situation(
        "constants: BatchNormalization in front",
        _vector(lambda k, x: _dense_normed(k, k.layers.BatchNormalization(name="front")(x))),
        data=_vectors,
    ),
    Situation("constants: thawed", _image(_inner_rescaling), after=checks.thaw_model),
    Situation("constants: Normalization in front", _normalized_front, targets=EDGE),
    # Losses inside the model.
    Situation(
        "losses: kernel_regularizer",
        _image(_with("Conv2D", 4, 3, activation="relu", kernel_regularizer=_l2, name="conv")),
        k3=True,
    ),
    Situation(
        "losses: kernel_regularizer, with BatchNormalization",
        _image(_with("Conv2D", 4, 3, norm=True, kernel_regularizer=_l2, bias_regularizer=_l1, name="conv")),
    ),
    Situation(
        "losses: depthwise and pointwise regularizers",
        _image(_with("SeparableConv2D", 4, 3, depthwise_regularizer=_l2, pointwise_regularizer=_l1, name="separable")),
    ),
    Situation(
        "losses: regularizer of Conv1D",
        _sequence(_with("Conv1D", 4, 3, kernel_regularizer=_l2, name="conv")),
        data=_sequences,
    ),
    Situation(
        "losses: regularizer of Dense with BatchNormalization",
        _vector(lambda k, x: _dense_normed(k, x, kernel_regularizer=_l2(k))),
        data=_vectors,
    ),
    Situation("losses: gamma_regularizer", _image(_norm_kwargs(gamma_regularizer=_l2, beta_regularizer=_l1))),
    Situation(
        "losses: embeddings_regularizer",
        lambda k: k.Sequential(
            [
                k.Input((LENGTH,), dtype="int32"),
                k.layers.Embedding(20, 4, embeddings_regularizer=_l2(k)),
                k.layers.GlobalAveragePooling1D(),
                k.layers.Dense(4),
            ]
        ),
        data=_tokens,
    ),
    Situation(
        "losses: of a frozen layer",
        _frozen(_image(_with("Conv2D", 4, 3, kernel_regularizer=_l2, name="conv")), "conv"),
    ),
    Situation(
        "losses: activity_regularizer of Dense",
        _vector(_with("Dense", 8, activation="relu", activity_regularizer=_l2, name="hidden")),
        data=_vectors,
        k3=True,
    ),
    Situation(
        "losses: activity_regularizer of Conv2D with BatchNormalization",
        _image(_with("Conv2D", 4, 3, norm=True, activity_regularizer=_l2, name="conv")),
    ),
    Situation(
        "losses: activity_regularizer of a sigmoid",
        _vector(_with("Dense", 8, activation="sigmoid", activity_regularizer=_l2, name="hidden")),
        data=_vectors,
        k3=True,
    ),
    Situation(
        "losses: activity_regularizer of Conv1D with swish",
        _sequence(_with("Conv1D", 4, 3, activation="swish", activity_regularizer=_l2, name="conv")),
        data=_sequences,
    ),
    Situation(
        "losses: activity_regularizer of Dense on sequences",
        _sequence(_with("Dense", 4, activation="relu", activity_regularizer=_l1, name="dense")),
        data=_sequences,
        k3=True,
    ),
    Situation(
        "losses: activity_regularizer of SeparableConv2D",
        _image(_with("SeparableConv2D", 4, 3, activation="relu", activity_regularizer=_l2, name="separable")),
    ),
    Situation("losses: activity_regularizer of ReLU", _image(_with("ReLU", activity_regularizer=_l2, name="act"))),
    Situation("losses: model.add_loss, before BatchNormalization and in a nested model", _loss_inside, targets=EDGE),
    Situation("losses: ActivityRegularization", _image(_layer("ActivityRegularization", l2=0.3, name="act")), k3=True),
    Situation("losses: a layer with add_loss", _image(lambda k, x: OwnLoss(name="own")(x)), reloads=FORMATS),
    Situation("losses: model.add_loss", _added("loss")),
    Situation("losses: model.add_metric", _added("metric")),
    # Constraints.
    Situation(
        "constraints: MaxNorm of Conv2D",
        _image(_with("Conv2D", 4, 3, norm=True, kernel_constraint=checks.max_norm(0, 1, 2), name="conv")),
    ),
    Situation(
        "constraints: MaxNorm of Conv1D",
        _sequence(_with("Conv1D", 4, 3, kernel_constraint=checks.max_norm(0, 1), name="conv")),
        data=_sequences,
        k3=True,
    ),
    Situation(
        "constraints: UnitNorm of Dense with BatchNormalization",
        _vector(lambda k, x: _dense_normed(k, x, kernel_constraint=k.constraints.UnitNorm(axis=0))),
        data=_vectors,
        k3=True,
    ),
    Situation(
        "constraints: NonNeg of Dense",
        _vector(
            lambda k, x: k.layers.Dense(
                8, kernel_constraint=k.constraints.NonNeg(), bias_constraint=k.constraints.NonNeg(), name="hidden"
            )(x)
        ),
        data=_vectors,
    ),
    Situation(
        "constraints: depthwise and pointwise",
        _image(
            _with(
                "SeparableConv2D",
                4,
                3,
                depthwise_constraint=checks.max_norm(0, 1),
                pointwise_constraint=checks.max_norm(0, 1, 2),
                name="separable",
            )
        ),
    ),
    Situation(
        "constraints: DepthwiseConv2D",
        _image(_with("DepthwiseConv2D", 3, depthwise_constraint=checks.max_norm(0, 1), name="depthwise")),
    ),
    Situation("constraints: gamma of BatchNormalization", _image(_norm_kwargs(gamma_constraint=checks.non_negative))),
    Situation(
        "constraints: Dense on sequences",
        _sequence(lambda k, x: k.layers.Dense(4, kernel_constraint=k.constraints.UnitNorm(axis=0), name="dense")(x)),
        data=_sequences,
    ),
    # Ways of training.
    Situation("training: sample weights", _PLAIN, fit={"sample_weight": np.linspace(0, 2, RECORDS)}, k3=True),
    Situation("training: class weights", _PLAIN, checks=(checks.class_weights,), common=False),
    Situation("training: tf.data, generator, validation data", _PLAIN, checks=(checks.other_inputs,), common=False),
    Situation("training: callbacks", _PLAIN, checks=(checks.callbacks,), common=False),
    Situation("training: train_on_batch", _NORMED, checks=(checks.train_on_batch,), common=False),
    Situation("training: custom loop", _NORMED, checks=(checks.custom_loop,), common=False, k3=True),
    Situation("training: resumed from .keras", _NORMED, checks=(checks.resumed_keras,), common=False),
    Situation("training: resumed from .h5", _NORMED, checks=(checks.resumed_h5,), common=False),
    Situation("training: resumed from weights", _NORMED, checks=(checks.resumed_weights,), common=False),
    Situation("training: mixed precision", _mixed, steps=12.0, targets=MOBILE),
    Situation("training: own train_step", _own_step, checks=(checks.own_step,), reloads=FORMATS),
    Situation("training: same seed, same model", _NORMED, checks=(checks.reproducible,), common=False),
)

MODELS = (
    # Names and structures.
    Situation(
        "names: by output name",
        _ends(),
        data=_ends_data(),
        compile=_ends_by_name,
        targets=BOTH,
        k3=True,
        file_steps=BEHIND_SOFTMAX,
        k3_files=True,
    ),
    Situation(
        "names: sample weights by output name",
        _ends(),
        data=_ends_data(),
        compile=_ends_by_name,
        fit={"sample_weight": {"cls": np.linspace(0, 2, RECORDS), "reg": np.linspace(2, 0, RECORDS)}},
    ),
    Situation("names: lists in order", _ends(), data=_ends_data(targets_as="list"), compile=_ends_by_order),
    Situation(
        "names: dict of outputs",
        _ends(outputs_as="dict"),
        data=_ends_data(),
        compile=_ends_by_name,
        targets=MOBILE,
        k3=True,
        file_steps=BEHIND_SOFTMAX,
    ),
    Situation(
        "names: dict of inputs",
        _ends(inputs_as="dict"),
        data=_ends_data("dict"),
        compile=_ends_by_name,
        targets=MOBILE,
        file_steps=BEHIND_SOFTMAX,
    ),
    Situation(
        "names: dicts of both",
        _ends("dict", "dict"),
        data=_ends_data("dict"),
        compile=_ends_by_name,
        targets=EDGE,
        k3=True,
        file_steps=BEHIND_SOFTMAX,
        reloads=FORMATS,
    ),
    Situation("names: one sigmoid", _one_unit("sigmoid"), lambda: (_random(6), _labels(2)), _binary, targets=EDGE),
    Situation(
        "names: one logit",
        _one_unit(None),
        lambda: (_random(6), _labels(2)),
        lambda k: {"loss": k.losses.BinaryCrossentropy(from_logits=True)},
        targets=MOBILE,
    ),
    Situation(
        "names: regression", _one_unit(None), lambda: (_random(6), _random(1, seed=3)), _squares, targets=EDGE, k3=True
    ),
    Situation("names: Sequential without names", _sequential, targets=EDGE, k3=True),
    # Masks.
    Situation(
        "masks: Embedding, LSTM",
        _words(_layer("LSTM", 4, name="lstm")),
        data=_tokens,
        targets=MOBILE,
        k3=True,
        reloads=FORMATS,
        k3_files=True,
    ),
    Situation("masks: Embedding, GRU", _words(_layer("GRU", 4, name="gru")), data=_tokens),
    Situation(
        "masks: Embedding, Bidirectional",
        _words(lambda k, x: k.layers.Bidirectional(k.layers.LSTM(3, **_TRACED_ONCE), name="both")(x)),
        data=_tokens,
    ),
    Situation(
        "masks: Embedding, pooling", _words(_layer("GlobalAveragePooling1D", name="gap")), data=_tokens, targets=MOBILE
    ),
    Situation(
        "masks: Masking, LSTM",
        _sequence(
            lambda k, x: k.layers.LSTM(4, name="lstm", **_TRACED_ONCE)(k.layers.Masking(name="mask")(x)), pool=False
        ),
        data=_padded,
        targets=MOBILE,
        k3=True,
    ),
    Situation("masks: Masking, pooling", _sequence(_layer("Masking", name="mask")), data=_padded),
    Situation(
        "masks: through Dense and Dropout to GRU",
        _words(
            lambda k, x: k.layers.GRU(4, name="gru", **_TRACED_ONCE)(
                k.layers.Dropout(0.0, name="dropout")(k.layers.Dense(4, activation="relu", name="dense")(x))
            )
        ),
        data=_tokens,
    ),
    Situation("masks: an operation passes none on", _words(_unmasked_by_operation), data=_tokens, targets=MOBILE),
    Situation(
        "masks: attention",
        _words(lambda k, x: k.layers.GlobalAveragePooling1D(name="gap")(_attention(k, x))),
        data=_tokens,
    ),
    Situation(
        "masks: the loss of each word",
        _words(_layer("LSTM", 4, return_sequences=True, name="lstm", **_TRACED_ONCE)),
        data=_word_labels,
    ),
    # Layers called several times.
    Situation(
        "shared: convolution, then a ReLU layer",
        _image(_shared_conv, "GlobalMaxPooling2D"),
        targets=EDGE,
        codes=0.05,
        k3=True,
    ),
    Situation(
        "shared: convolution and ReLU layer, twice",
        _image(_shared_activated, "GlobalMaxPooling2D"),
        targets=EDGE,
        codes=0.05,
    ),
    Situation("shared: ReLU layer behind three", _image(_shared_relu), targets=EDGE, steps=12.0),
    Situation(
        "shared: Dense",
        _vector(lambda k, x: _shared_dense(k, k.layers.Dense(6, name="front")(x))),
        data=_vectors,
        targets=EDGE,
        reloads=FORMATS,
    ),
    Situation(
        "shared: convolution of two inputs",
        _siamese(lambda k: k.layers.Conv2D(4, 3, activation="relu", name="shared")),
        data=_pairs,
        targets=EDGE,
    ),
    Situation(
        "shared: convolution and ReLU layer of two inputs",
        _siamese(
            lambda k: (lambda conv, relu: lambda x: relu(conv(x)))(k.layers.Conv2D(4, 3, name="s"), k.layers.ReLU())
        ),
        data=_pairs,
        targets=EDGE,
    ),
    Situation("shared: nested model of two inputs", _siamese(_shared_backbone), data=_pairs, k3=True),
    Situation("shared: Embedding", _two_texts, data=_two_tokens, targets=MOBILE),
    # Sizes.
    Situation(
        "sizes: fully convolutional",
        _fully_convolutional,
        data=_map_labels,
        targets=BOTH,
        convert={"input_shape": IMAGE},
    ),
    Situation("sizes: fully convolutional, left open", _fully_convolutional, data=_map_labels, targets=MOBILE),
    Situation("sizes: any image", _free_size, targets=MOBILE, k3=True, k3_files=True),
    Situation(
        "sizes: any length",
        _sequence(_layer("Conv1D", 4, 3, padding="same", activation="relu", name="conv"), length=None),
        data=_sequences,
        targets=MOBILE,
    ),
    Situation(
        "sizes: fixed batch, Conv1D",
        _sequence(_layer("Conv1D", 4, 3, activation="relu", name="conv"), batch_size=1),
        data=_few(_sequences, 4),
        batch=1,
        steps=12.0,
        targets=EDGE,
        isolated=True,
    ),
    Situation(
        "sizes: fixed batch, Conv2DTranspose",
        _fixed_image(1, _layer("Conv2DTranspose", 4, 3, strides=2, activation="relu", name="up")),
        data=_few(_images, 4),
        batch=1,
        targets=EDGE,
        isolated=True,
    ),
    Situation(
        "sizes: fixed batch, GroupNormalization",
        _fixed_image(1, _layer("GroupNormalization", 2, name="groups")),
        data=_few(_images, 4),
        batch=1,
        targets=MOBILE,
        isolated=True,
    ),
    Situation("sizes: fixed batch of 8", _fixed_image(8, _plain), batch=8, steps=40.0, targets=MOBILE, isolated=True),
    Situation(
        "sizes: dilated convolution",
        _image(_layer("Conv2D", 4, 3, dilation_rate=2, padding="same", activation="relu", name="conv")),
        targets=EDGE,
        mapped=True,
    ),
    Situation(
        "sizes: dilated Conv1D",
        _sequence(_layer("Conv1D", 4, 3, dilation_rate=2, padding="causal", activation="relu", name="conv")),
        data=_sequences,
        targets=EDGE,
        mapped=True,
    ),
    Situation(
        "sizes: Conv2DTranspose",
        _image(_layer("Conv2DTranspose", 4, 3, strides=2, padding="same", activation="relu", name="up")),
        targets=EDGE,
        mapped=True,
        k3=True,
    ),
    # Inputs.
    Situation("inputs: uint8", _bytes_in, data=_bytes, targets=BOTH),
    Situation("inputs: uint8 in and out", _bytes_in, data=_bytes, targets=EDGE, convert={"io_type": "uint8"}),
    Situation(
        "inputs: int32",
        _words(_layer("GlobalMaxPooling1D", name="gmp"), mask=False),
        data=_tokens,
        targets=EDGE,
        k3=True,
    ),
    Situation(
        "inputs: int64",
        _words(_layer("GlobalMaxPooling1D", name="gmp"), mask=False, dtype="int64"),
        data=lambda: (_tokens()[0].astype(np.int64), _labels()),
        targets=MOBILE,
    ),
    Situation("inputs: strings", _strings, data=_texts, refuses=r"(?s)(vectorize|text).*string", common=False),
    # Nested models.
    Situation("nested: twice, with one inner name", _image(_two_nested), targets=EDGE, k3=True, reloads=FORMATS),
    Situation("nested: two outputs", _image(_nested_ends)),
    Situation(
        "nested: in inference",
        _image(lambda k, x: _backbone(k)(x, training=False)),
    ),
    Situation(
        "nested: one base called twice",
        _image(
            lambda k, x: (lambda base: k.layers.Add(name="sum")([base(x), base(k.layers.ReLU(6.0)(x))]))(_backbone(k))
        ),
    ),
    # Layers.
    Situation(
        "layers: initial_state",
        _initial_state,
        data=lambda: ([_random(LENGTH, 3), _random(4, seed=2)], _labels()),
        targets=MOBILE,
        refuses="gru.*initial_state",
    ),
    Situation(
        "layers: encoder and decoder",
        _encoder_decoder,
        data=lambda: ([_random(LENGTH, 3), _random(LENGTH, 3, seed=2)], _labels()),
        targets=MOBILE,
        refuses="(encoder|decoder).*state",
    ),
    Situation(
        "layers: stateful RNN",
        _sequence(_layer("LSTM", 4, stateful=True, name="lstm"), pool=False, batch_size=RECORDS),
        data=_sequences,
        targets=MOBILE,
        refuses="lstm.*stateful",
        isolated=True,
        vary=False,
    ),
    Situation(
        "layers: GroupNormalization",
        _image(_layer("GroupNormalization", 2, name="groups")),
        targets=MOBILE,
        # Up to 3 codes of a logit on TensorFlow 2.15, and none on 2.21: the layer stays float, its output is rounded
        # again, and the mean over pixels of codes that tip is another one.
        file_steps=3.01,
        isolated=True,
    ),
    Situation("layers: LayerNormalization", _image(_layer("LayerNormalization", name="norm")), targets=MOBILE, k3=True),
    Situation("layers: MultiHeadAttention", _sequence(_attention), data=_sequences, targets=MOBILE, k3=True),
    Situation("layers: residual block", _image(_residual), targets=BOTH, k3=True, reloads=FORMATS),
    Situation("layers: squeeze and excite", _image(_squeeze_and_excite), targets=EDGE, k3=True),
    Situation("layers: Concatenate", _image(_concatenated), targets=EDGE),
    Situation(
        "layers: depthwise with a multiplier",
        _image(_layer("DepthwiseConv2D", 3, depth_multiplier=2, activation="relu", name="depthwise")),
        targets=EDGE,
    ),
    Situation("layers: separable convolution", _image(_separable), targets=EDGE, k3=True),
    Situation(
        "layers: causal Conv1D",
        _sequence(_layer("Conv1D", 4, 3, padding="causal", activation="relu", name="conv")),
        data=_sequences,
        targets=EDGE,
    ),
    Situation(
        "layers: UpSampling2D", _image(lambda k, x: _plain(k, k.layers.UpSampling2D(name="up")(x))), targets=EDGE
    ),
    Situation(
        "layers: ZeroPadding2D", _image(lambda k, x: _plain(k, k.layers.ZeroPadding2D(name="pad")(x))), targets=EDGE
    ),
    Situation(
        "layers: pooling to a vector",
        lambda k: k.Sequential(
            [k.Input(IMAGE), k.layers.Conv2D(4, 3, activation="relu"), k.layers.GlobalMaxPooling2D(), k.layers.Dense(4)]
        ),
        targets=EDGE,
    ),
    Situation("layers: PReLU", _image(_layer("PReLU", shared_axes=[1, 2], name="act")), targets=MOBILE),
    Situation("layers: LeakyReLU", _image(_layer("LeakyReLU", name="act")), targets=EDGE),
    Situation("layers: ELU", _image(_activated("elu")), targets=MOBILE),
    Situation("layers: swish", _image(_activated("swish")), targets=EDGE),
    Situation("layers: gelu", _image(_activated("gelu")), targets=MOBILE),
    Situation(
        "layers: softmax",
        lambda k: k.Sequential(
            [k.Input((6,)), k.layers.Dense(8, activation="relu"), k.layers.Dense(4, activation="softmax")]
        ),
        data=_vectors,
        compile=lambda k: {"loss": "sparse_categorical_crossentropy"},
        targets=EDGE,
    ),
    Situation(
        "layers: Dropout and noise",
        _image(
            lambda k, x: k.layers.GaussianNoise(0.01, name="noise")(
                k.layers.SpatialDropout2D(0.01, name="spatial")(k.layers.Dropout(0.01, name="dropout")(_plain(k, x)))
            )
        ),
        targets=EDGE,
    ),
    Situation("layers: newer arguments of Keras 3", _newer_arguments, k3=True),
)

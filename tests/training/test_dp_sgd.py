"""Per-record clipping and noise: against a loop over records, and against plain steps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import tfmiaq
from tfmiaq._backend import keras, tf
from tfmiaq.caching import drawn_seeds, fingerprint, own_random_state
from tfmiaq.training import DPSGD, dp_sgd, per_record, repeated

layers = keras.layers
CLIP = 0.5


def perceptron():
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "relu", name="hidden"), layers.Dense(3, use_bias=False, name="logits")]
    )


def convolutions():
    inputs = x = keras.Input((8, 8, 2))
    x = layers.Conv2D(6, 3, 2, "same", name="strided")(x)
    x = layers.ReLU()(layers.GroupNormalization(3, name="groups")(x))
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    # Few positions and a large kernel, whose norm is that of the Gram matrices.
    x = layers.Conv2D(40, 3, 2, activation="relu", name="large")(layers.ReLU()(x))
    x = layers.Dense(5, "relu", name="of_positions")(layers.LayerNormalization(name="norm")(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten()(x)))


def windows():
    """Convolutions of every kind of window: large maps, one pixel, strides, dilation, and depth multipliers."""
    inputs = x = keras.Input((24, 23, 2))
    x = layers.Conv2D(3, 3, padding="same", activation="relu", name="large")(x)
    x = layers.DepthwiseConv2D(3, 2, "same", use_bias=False, name="strided_depthwise")(x)
    x = layers.Conv2D(4, 1, activation="relu", name="pixel")(x)
    x = layers.Conv2D(3, 2, padding="same", dilation_rate=2, name="dilated")(x)
    x = layers.DepthwiseConv2D((2, 3), depth_multiplier=2, name="valid_depthwise")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x)))


def softmax():
    return keras.Sequential([keras.Input((6,)), layers.Dense(3, "softmax", kernel_regularizer="l2", name="logits")])


def quantized():
    return tfmiaq.quantize_model(perceptron(), tfmiaq.BitwidthPolicy.uniform(2, 4))


def _records(model, count=7, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, *model.input_shape[1:])).astype(np.float32)
    return x, generator.integers(0, 3, count)


def _compiled(make, y, recipe=None):
    keras.utils.set_random_seed(1)
    model = make()
    recipe = tfmiaq.TrainingRecipe(dp=DPSGD(CLIP)) if recipe is None else recipe
    recipe.compile(model, len(y), y)
    return model


def _gradient_of(model, x, y):
    with tf.GradientTape() as tape:
        loss = model.loss(y[:, None] if y.ndim == 1 else y, model(x, training=True))
    return tape.gradient(loss, model.trainable_variables)


def _loop(model, x, y, clip):
    """The mean of the clipped gradients, one record after the other, and of the regularizers."""
    found = [_gradient_of(model, x[i : i + 1], y[i : i + 1]) for i in range(len(y))]
    norms = [float(tf.linalg.global_norm(gradient)) for gradient in found]
    clipped = [[min(1.0, clip / norm) * part for part in gradient] for norm, gradient in zip(norms, found)]
    means = [np.mean(parts, axis=0) for parts in zip(*clipped)]
    if model.losses:
        with tf.GradientTape() as tape:
            penalty = tf.add_n(model.losses)
        penalties = tape.gradient(penalty, model.trainable_variables, unconnected_gradients="zero")
        means = [mean + of.numpy() for mean, of in zip(means, penalties)]
    return means, norms


def _step(model, x, y, dp, seed=(0, 1), **more):
    gradients, loss = dp_sgd.gradients(model, tf.constant(x), tf.constant(y), dp, tf.constant(seed), **more)
    return [gradient.numpy() for gradient in gradients], float(loss)


@pytest.mark.parametrize("make", [perceptron, convolutions, windows, softmax])
@pytest.mark.parametrize("soft", [False, True])
def test_the_clipped_mean_is_that_of_a_loop_over_records(make, soft):
    model = make()
    x, y = _records(model)
    y = np.eye(3, dtype=np.float32)[y] * 0.7 + 0.1 if soft else y
    model = _compiled(make, y)
    # So that some records are clipped, and some are not.
    clip = float(np.median(_loop(model, x, y, CLIP)[1]))
    expected, norms = _loop(model, x, y, clip)
    assert min(norms) < clip < max(norms)
    for at_once in (None, 3):
        found, loss = _step(model, x, y, DPSGD(clip, at_once=at_once))
        for one, other in zip(found, expected):
            np.testing.assert_allclose(one, other, atol=1e-6)
        labels = y if soft else y[:, None]
        values = [float(model.loss(labels[i : i + 1], model(x[i : i + 1]))) for i in range(len(y))]
        np.testing.assert_allclose(loss, np.mean(values), rtol=1e-5)


def test_the_norm_of_a_quantized_model_is_that_of_the_gradient_of_its_weights():
    x, y = _records(perceptron())
    model = _compiled(quantized, y)
    with tf.GradientTape(persistent=True) as tape:
        with per_record.recorded(model) as calls:
            outputs = model(x, training=True)
        losses = keras.losses.sparse_categorical_crossentropy(y, outputs, from_logits=True)
    deltas = tape.gradient(losses, [call.outputs for call in calls])
    squares = sum(sum(per_record.squares(call, delta, len(y))) for call, delta in zip(calls, deltas))
    jacobians = [tape.jacobian(losses, weight).numpy() for weight in model.trainable_variables]
    expected = sum((jacobian.reshape(len(y), -1) ** 2).sum(1) for jacobian in jacobians)
    np.testing.assert_allclose(squares, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "clip"), [(perceptron, None), (perceptron, 1e6), (convolutions, 1e6), (quantized, 1e6)]
)
def test_without_clip_and_noise_a_step_is_a_plain_one(make, clip):
    keras.utils.set_random_seed(1)
    x, y = _records(make())
    states = []
    for dp in (None, DPSGD(clip)):
        recipe = tfmiaq.TrainingRecipe(epochs=2, learning_rate=0.1, batch_size=7, dp=dp)
        model = _compiled(make, y, recipe)
        states.append(recipe.fit(model, x, y).get_weights())
    for one, two in zip(*states):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_noise_has_the_scale_of_the_clip_and_another_value_with_another_seed():
    model = keras.Sequential([keras.Input((100,)), layers.Dense(100, name="logits")])
    x, y = np.zeros((4, 100), np.float32), np.zeros(4, np.int64)
    tfmiaq.TrainingRecipe(dp=DPSGD(CLIP)).compile(model, 4, y)
    clean = _step(model, x, y, DPSGD(CLIP))[0][0]
    noisy = [_step(model, x, y, DPSGD(CLIP, noise=2.0), seed)[0][0] - clean for seed in ((0, 1), (0, 1), (0, 2))]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    np.testing.assert_allclose(noisy[0].std(), 2.0 * CLIP / 4, rtol=0.05)
    assert abs(np.corrcoef(noisy[0].ravel(), noisy[2].ravel())[0, 1]) < 0.05
    # A Poisson sample is divided by the number of records that it has on average.
    expected = _step(model, x, y, DPSGD(CLIP), expected=8)[0]
    np.testing.assert_allclose(expected[1], _step(model, x, y, DPSGD(CLIP))[0][1] / 2, atol=1e-7)


def test_copies_of_a_record_are_clipped_together():
    x, y = _records(perceptron(), 4)
    model = _compiled(perceptron, y)
    copies = np.repeat(x, 2, axis=0)
    copies[1::2] += 0.5
    found, _ = _step(model, copies, np.repeat(y, 2), DPSGD(CLIP, copies=2))
    expected = 0.0
    for i in range(4):
        gradient = [part.numpy() for part in _gradient_of(model, copies[2 * i : 2 * i + 2], np.repeat(y[i], 2))]
        expected += min(1.0, CLIP / np.sqrt(sum((part**2).sum() for part in gradient))) * gradient[0] / 4
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    "dp", [DPSGD(CLIP, 0.1), DPSGD(CLIP, poisson=True), DPSGD(CLIP, copies=2, at_once=16), DPSGD(CLIP, 0.1, at_once=5)]
)
def test_a_recipe_trains_with_it(dp, digits):
    keras.utils.set_random_seed(0)
    flip = layers.RandomTranslation(0.05, 0.05) if dp.copies > 1 else None
    recipe = tfmiaq.TrainingRecipe(epochs=6, learning_rate=0.5, batch_size=64, dp=dp, augment=flip)
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10, name="logits")])
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["loss"]))
    recipe.fit(model, digits.x_train, digits.y_train, [callback])
    assert seen[-1] < seen[0] / 2
    assert (model.predict(digits.x_train, verbose=0).argmax(1) == digits.y_train).mean() > 0.7
    # The model trains as any other after that.
    assert "train_step" not in vars(model)
    assert fingerprint(recipe) != fingerprint(dataclasses.replace(recipe, dp=DPSGD(2.0)))


@pytest.mark.parametrize("policy", [None, tfmiaq.BitwidthPolicy.uniform(2, 4)])
def test_the_stages_train_what_the_recipe_trains(policy):
    repeated.forget()
    recipe = tfmiaq.TrainingRecipe(epochs=3, learning_rate=0.5, batch_size=8, dp=DPSGD(CLIP))
    x, y = _records(perceptron(), 8)
    stage = tfmiaq.FloatTraining(perceptron, recipe) if policy is None else None
    start = perceptron()
    train = stage or (lambda x, y: tfmiaq.QuantizedTraining(policy, recipe)(start, x, y))
    with own_random_state(0):
        found = train(x, y)
    assert [training is not None for training in repeated._kept.trainings.values()] == [True]
    # One batch an epoch: the order of records is no matter, and a loop of steps gives the same.
    if policy is None:
        with own_random_state(0):
            seed = drawn_seeds()[0]
        with own_random_state(seed):
            model = recipe.fit(perceptron(), x, y)
    else:
        model = recipe.fit(tfmiaq.quantize_model(start, policy), x, y)
    for one, other in zip(found.trainable_weights, model.trainable_weights):
        np.testing.assert_allclose(one, other, atol=1e-5)
    repeated.forget()


def test_what_mixes_records_raises():
    x, y = _records(perceptron())
    recipe = tfmiaq.TrainingRecipe(dp=DPSGD())
    shared = layers.Dense(6, name="shared")
    inputs = keras.Input((6,))
    for model, message in (
        (keras.Sequential([inputs, layers.Dense(3), layers.BatchNormalization(name="bn")]), "BatchNormalization .* bn"),
        (
            keras.Sequential([inputs, layers.Reshape((6, 1)), layers.LSTM(3, name="lstm")]),
            "other trained weights: lstm",
        ),
        (
            keras.Sequential([inputs, layers.Dense(3, activity_regularizer="l2", name="act")]),
            "activity_regularizer .*act",
        ),
        (keras.Model(inputs, layers.Dense(3)(shared(shared(inputs)))), "Received shared, called"),
    ):
        with pytest.raises(tfmiaq._checks.InvalidArgumentError, match=message):
            recipe.fit(model, x, y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPSGD(clip=0.0), "DPSGD: Expected clip to be a finite number above 0, or None. Received 0"),
        (lambda: DPSGD(noise=-1.0, copies=0), "Expected noise .* Expected copies"),
        (lambda: DPSGD(None, 1.0), "Expected a clip beside noise"),
        (lambda: DPSGD(poisson=1), "Expected poisson to be True or False"),
        (lambda: tfmiaq.TrainingRecipe(dp=1.0), "Expected dp to be a DPSGD or None"),
        (lambda: tfmiaq.TrainingRecipe(dp=DPSGD(), mixup=0.4), "Expected mixup=0 beside dp"),
        (lambda: tfmiaq.TrainingRecipe(dp=DPSGD(copies=2)), "Expected augment beside copies=2"),
    ],
)
def test_fields_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_there_is_no_guarantee_where_there_is_none():
    recipe = tfmiaq.TrainingRecipe(epochs=10, batch_size=100)
    noisy = dataclasses.replace(recipe, dp=DPSGD(1.0, 1.0, poisson=True))
    for other, model, reason in (
        (recipe, None, "no noise"),
        (dataclasses.replace(recipe, dp=DPSGD(1.0)), None, "no noise"),
        (dataclasses.replace(recipe, dp=DPSGD(1.0, 1.0)), None, "no Poisson samples"),
        (noisy, quantized(), "ranges of a quantized model"),
    ):
        found = other.guarantee(10_000, model=model)
        assert found.epsilon is None and str(found).startswith("no guarantee: ") and reason in str(found)
        assert found.tpr_at_fpr(0.01) == 1.0


def test_a_guarantee_bounds_the_tpr():
    found = tfmiaq.training.Guarantee(1.0, 1e-5)
    np.testing.assert_allclose(found.tpr_at_fpr(0.01), np.e * 0.01 + 1e-5)
    np.testing.assert_allclose(found.tpr_at_fpr(0.9), 1 - np.exp(-1.0) * (1 - 1e-5 - 0.9))
    assert tfmiaq.training.Guarantee(1e4, 1e-5).tpr_at_fpr(0.01) == 1.0


def test_an_epsilon_is_that_of_the_accountant():
    pytest.importorskip("dp_accounting")
    # The whole set in each of T steps is one Gaussian mechanism of noise / sqrt(T). Its RDP of order a is
    # a T / (2 noise^2) (Mironov 2017, corollary 3), and epsilon a bound over a.
    recipe = tfmiaq.TrainingRecipe(epochs=4, batch_size=1000, dp=DPSGD(1.0, 4.0, poisson=True))
    found = recipe.guarantee(1000, delta=1e-5)
    orders = np.linspace(1.1, 200, 20_000)
    bounds = orders * 4 / (2 * 4.0**2) + np.log1p(-1 / orders) - (np.log(1e-5) + np.log(orders)) / (orders - 1)
    np.testing.assert_allclose(found.epsilon, bounds.min(), rtol=0.02)
    assert str(found).startswith("epsilon")
    weak = dataclasses.replace(recipe, dp=DPSGD(1.0, 0.2, poisson=True), epochs=40).guarantee(1000)
    assert "no guarantee that means anything" in str(weak)

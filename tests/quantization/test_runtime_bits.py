"""Bits as variables: changed on a built model, lowered during fit, kept by every format that Keras saves in."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import outputs_of, tiny_model, train

import tfmiaq
from tfmiaq import BitwidthPolicy, LayerBits
from tfmiaq._backend import keras

UNIFORM = BitwidthPolicy.uniform


def _bits(model):
    return {row.name: (row.weight_bits, row.activation_bits) for row in tfmiaq.summary(model).layers}


@pytest.fixture(scope="module")
def quantized(digits):
    keras.utils.set_random_seed(0)
    return train(tfmiaq.quantize_model(tiny_model(), UNIFORM(8, 8)), digits.x_train[:256], digits.y_train[:256])


def test_set_policy_gives_the_bits_of_a_model_made_with_the_policy(quantized):
    policy = BitwidthPolicy(
        LayerBits(3, 2), {"depth*": LayerBits(1, 5), "sum_relu": LayerBits(8, 1)}, last=LayerBits(8, 8)
    )
    tfmiaq.set_policy(quantized, policy)
    assert _bits(quantized) == _bits(tfmiaq.quantize_model(tiny_model(), policy))


def test_set_policy_changes_outputs_without_tracing_again(quantized, digits):
    x = digits.x_test[:64]
    outputs = {}
    traces = []
    for bits in (8, 1, 8, 2):
        tfmiaq.set_policy(quantized, UNIFORM(bits, bits))
        outputs.setdefault(bits, []).append(quantized.predict(x, verbose=0))
        traces.append(quantized.predict_function.experimental_get_tracing_count())
    assert len(set(traces)) == 1
    np.testing.assert_array_equal(*outputs[8])
    assert np.abs(outputs[8][0] - outputs[1][0]).max() > np.abs(outputs[8][0] - outputs[2][0]).max() > 0


def test_lowered_bits_are_exact_in_the_file_without_more_training(quantized, digits):
    tfmiaq.set_policy(quantized, UNIFORM(2, 3))
    buffer = tfmiaq.convert(quantized, "edgetpu")
    result = tfmiaq.verify(quantized, buffer, digits.x_test[:200])
    assert result.exact
    assert result.agreement == 1.0
    assert {row.bits for row in result.layers if row.tensor == "activation"} == {8, 3}


def test_a_policy_that_does_not_fit_is_refused(quantized):
    with pytest.raises(ValueError, match=r"(?s)would become float.*hidden.*quantize_model"):
        tfmiaq.set_policy(quantized, BitwidthPolicy(layers={"hidden": LayerBits(None, None)}))
    with pytest.raises(ValueError, match="Did you mean 'hidden'"):
        tfmiaq.set_policy(quantized, BitwidthPolicy(layers={"hiden": LayerBits(1, 1)}))
    with pytest.raises(TypeError, match="Expected a BitwidthPolicy"):
        tfmiaq.set_policy(quantized, 4)
    with pytest.raises(ValueError, match="no quantized layer"):
        tfmiaq.set_policy(tiny_model(), UNIFORM())


def test_a_schedule_lowers_bits_during_fit(digits):
    model = tfmiaq.quantize_model(tiny_model())
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    seen = []
    schedule = tfmiaq.callbacks.BitwidthSchedule({0: UNIFORM(8, 8), 1: UNIFORM(4, 4), 3: UNIFORM(1, 2)})
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(_bits(model)["hidden"]))
    x, y = digits.x_train[:64], digits.y_train[:64]
    model.fit(x, y, epochs=4, verbose=0, callbacks=[schedule, watch])
    assert seen == [(8, 8), (4, 4), (4, 4), (1, 2)]
    model.fit(x, y, epochs=3, initial_epoch=2, verbose=0, callbacks=[schedule, watch])
    assert seen[-1] == (4, 4)


def test_a_bad_schedule_is_refused_before_training(digits):
    with pytest.raises(ValueError, match="at least one policy"):
        tfmiaq.callbacks.BitwidthSchedule({})
    with pytest.raises(TypeError, match="policies by epoch"):
        tfmiaq.callbacks.BitwidthSchedule({0: 4})
    with pytest.raises(ValueError, match="epochs from 0"):
        tfmiaq.callbacks.BitwidthSchedule({-1: UNIFORM()})
    model = tfmiaq.quantize_model(tiny_model())
    model.compile("adam", "mse")
    schedule = tfmiaq.callbacks.BitwidthSchedule({5: BitwidthPolicy(layers={"nowhere": LayerBits(1, 1)})})
    before = _bits(model)
    with pytest.raises(ValueError, match="does not have"):
        model.fit(digits.x_train[:32], digits.y_train[:32], verbose=0, callbacks=[schedule])
    assert _bits(model) == before


def test_no_name_is_one_of_tfmots():
    """Inside tfmot's quantize_scope a file would be read with tfmot's classes of the same names."""
    from tfmiaq._backend import tfmot

    objects = tfmot.quantization.keras.quantize_scope().custom_objects
    taken = {name for part in (objects if isinstance(objects, (list, tuple)) else [objects]) for name in part}
    assert "FixedQuantizer" in taken
    registered = {name for name in keras.utils.get_custom_objects() if name.startswith("tfmiaq>")}
    assert {"tfmiaq>ReluQuantizer", "tfmiaq>QuantizedLayer", "tfmiaq>KernelQuantizeConfig"} <= registered
    assert not taken & {name.rpartition(">")[2] for name in registered}


def test_files_that_tfmot_writes_stay_as_they_are():
    from tfmiaq._backend import QuantizeAwareActivation

    assert keras.utils.get_registered_name(QuantizeAwareActivation) == "QuantizeAwareActivation"


_LOAD = """
import json, sys
import numpy as np
import tfmiaq
x_path, *paths = sys.argv[1:]
x = np.load(x_path)
found = {}
for path in paths:
    for how, load in (("tfmiaq", tfmiaq.load_model), ("keras", tfmiaq.keras.models.load_model)):
        # A SavedModel runs what it holds: it is opened for who says that he trusts it.
        trust = {"trust": True} if how == "tfmiaq" and path.endswith("saved_model") else {}
        model = load(path, **trust)
        outputs = model(x, training=False).numpy()
        np.save(f"{path}.{how}.npy", outputs)
        found[f"{path} {how}"] = {r.name: [r.weight_bits, r.activation_bits] for r in tfmiaq.summary(model).layers}
        model.compile("adam", "mse", run_eagerly=True)
        model.fit(x, outputs, verbose=0)
print(json.dumps(found))
"""


def test_a_new_process_loads_the_same_model(quantized, digits, tmp_path):
    tfmiaq.set_policy(quantized, UNIFORM(2, 3))
    x, x_path = digits.x_test[:40], str(tmp_path / "x.npy")
    np.save(x_path, x)
    paths = [str(tmp_path / name) for name in ("model.keras", "model.h5", "saved_model")]
    for path in paths:
        quantized.save(path)
    result = subprocess.run([sys.executable, "-c", _LOAD, x_path, *paths], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert len(found) == 6
    for path in paths:
        for how in ("tfmiaq", "keras"):
            np.testing.assert_array_equal(
                np.load(f"{path}.{how}.npy"), outputs_of(quantized, x), err_msg=f"{path} {how}"
            )
            assert found[f"{path} {how}"] == {name: list(bits) for name, bits in _bits(quantized).items()}


@pytest.mark.parametrize("name", ["weights.weights.h5", "checkpoint"])
def test_weights_alone_carry_bits_and_ranges(quantized, digits, tmp_path, name):
    tfmiaq.set_policy(quantized, UNIFORM(1, 3))
    quantized.save_weights(str(tmp_path / name))
    other = tfmiaq.quantize_model(tiny_model(), UNIFORM(8, 8))
    other.load_weights(str(tmp_path / name))
    x = digits.x_test[:40]
    np.testing.assert_array_equal(outputs_of(other, x), outputs_of(quantized, x))
    assert _bits(other) == _bits(quantized)


def test_a_killed_training_resumes(digits, tmp_path):
    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise Killed

    x, y = digits.x_train[:32], digits.y_train[:32]

    def fresh():
        keras.utils.set_random_seed(0)
        model = tfmiaq.quantize_model(tiny_model(), UNIFORM(8, 8))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        schedule = tfmiaq.callbacks.BitwidthSchedule({0: UNIFORM(4, 4), 2: UNIFORM(2, 2)})
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        return model, [schedule, backup]

    model, callbacks = fresh()
    with pytest.raises(Killed):
        model.fit(x, y, epochs=4, verbose=0, shuffle=False, callbacks=[*callbacks, Kill()])
    killed = model.get_weights()
    model, callbacks = fresh()
    epochs = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: epochs.append((epoch, model.get_weights()))
    )
    model.fit(x, y, epochs=4, verbose=0, shuffle=False, callbacks=[*callbacks, watch])
    assert [epoch for epoch, _ in epochs] == [2, 3]
    restored = {v.name: w for v, w in zip(model.weights, epochs[0][1])}
    for variable, value in zip(model.weights, killed):
        if "bits" not in variable.name:
            np.testing.assert_array_equal(restored[variable.name], value)
    assert _bits(model)["hidden"] == (2, 2)

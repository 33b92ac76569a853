"""Packed files: which weights take half a byte, and that no output changes by one code."""

from __future__ import annotations

import functools
import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from twins import negate

import tfmiaq
from tfmiaq import BitwidthPolicy
from tfmiaq._backend import keras, tf
from tfmiaq.cli.parsing import main
from tfmiaq.quantization.packable import fits_int4, int8_refinement
from tfmiaq.tflite import bias_alignment, packed_runtime, packing, stored_weights
from tfmiaq.tflite.flatbuffer import is_packed, pack, unpack
from tfmiaq.tflite.interpreter import Interpreter
from tfmiaq.tflite.packed_runtime import runs_packed

layers = keras.layers
RUNS = runs_packed(tf.lite.Interpreter)
needs_runtime = pytest.mark.skipif(not RUNS, reason="TensorFlow does not run packed files here")
RUNTIMES = ["tensorflow"] if RUNS else []
if importlib.util.find_spec("ai_edge_litert"):
    RUNTIMES.append("litert")
BITS = (4, 3, 2, 1)
X = np.random.default_rng(0).normal(size=(2_000, 6, 6, 6)).astype(np.float32)
PACKED = ("pointwise", "hidden", "plain", "narrow", "logits")


@pytest.fixture(scope="module")
def quantized():
    """Every kind of layer that is packed, and of those that are not, with ranges seen; bits are set by each test."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 6))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    # Scales of both signs, which the converter folds into the kernel.
    gamma = keras.initializers.RandomNormal(stddev=1.0, seed=1)
    x = layers.ReLU(name="stem_relu")(
        layers.BatchNormalization(gamma_initializer=gamma, momentum=0.0, name="stem_norm")(x)
    )
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Conv2D(16, 1, use_bias=False, name="pointwise")(x)
    x = layers.BatchNormalization(gamma_initializer=gamma, beta_initializer="random_normal", momentum=0.0, name="norm")(
        x
    )
    x = layers.Conv2D(15, 1, strides=2, activation="relu", name="strided")(layers.ReLU(name="relu")(x))
    x = layers.Conv2D(8, 1, activation="relu", name="of_15")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(60, activation="relu", bias_initializer="random_normal", name="hidden")(x)
    x = layers.Dense(60, activation="relu", use_bias=False, name="plain")(x)
    x = layers.Dense(8, activation="relu", name="narrow")(x)
    x = layers.Concatenate(name="both")([x, layers.Dense(60, activation="relu", name="wide")(x)])
    model = keras.Model(inputs, layers.Dense(10, bias_initializer="random_normal", name="logits")(x))
    model = tfmiaq.quantize_model(model, _policy(4))
    model(X[:64], training=True)
    return model


def _policy(bits):
    return BitwidthPolicy.uniform(bits, 8, first=None, last=None)


@pytest.fixture(scope="module", params=(4, 1))
def files(request, quantized):
    """Bits, the packed file, and the int8 file of the model with the biases that packing gave it."""
    tfmiaq.set_policy(quantized, _policy(request.param))
    bias_alignment.align(quantized, packed=True)
    plain = tfmiaq.convert(quantized, check=False)
    return request.param, packing.pack_weights(plain), plain


def _changed(file, change):
    """The file with `change(codes, tensor)` in the place of each constant int8 or int32 tensor's codes."""
    model = unpack(file)
    kinds = {9: np.int8, 2: np.int32}
    for tensor in model.subgraphs[0].tensors:
        buffer = model.buffers[tensor.buffer]
        if tensor.type in kinds and buffer.data is not None and len(buffer.data):
            codes = np.asarray(buffer.data, np.uint8).view(kinds[tensor.type])
            buffer.data = change(codes, tensor).astype(codes.dtype).view(np.uint8)
    return pack(model)


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.int8, hnp.array_shapes(max_dims=3, max_side=7), elements=st.integers(-8, 7)))
def test_four_bits_survive_packing(codes):
    packed = packing.pack_int4(codes)
    assert packed.dtype == np.uint8
    assert packed.size == (codes.size + 1) // 2
    np.testing.assert_array_equal(packing.unpack_int4(packed, codes.shape), codes)


@pytest.mark.parametrize("bits", BITS)
def test_levels_of_up_to_four_bits_are_upper_halves_of_bytes(bits):
    top = max(2 ** (bits - 1) - 1, 1)
    between = float(int8_refinement(bits))
    assert between == packing.UPPER_HALF * (7 // top)
    assert between * top <= 127


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_packed_file_gives_the_outputs_of_the_int8_file(files, runtime):
    _, packed, plain = files
    assert is_packed(packed)
    assert not is_packed(plain)
    outputs = Interpreter(packed, runtime=runtime).predict(X)
    assert len(np.unique(outputs)) > 50
    np.testing.assert_array_equal(outputs, Interpreter(plain, runtime=runtime).predict(X))


def test_the_table_says_which_layers_are_packed_and_why_not_the_others(files):
    _, packed, plain = files
    table = stored_weights(packed)
    assert table.packed == PACKED
    reasons = {row.layer: row.reason for row in table.layers if row.stored_as == "INT8"}
    assert reasons == {
        "stem": "a 3 x 3 convolution: its INT4 kernel rounds otherwise",
        "depthwise": "the INT4 kernel of DEPTHWISE_CONV_2D rounds otherwise, or there is none",
        "strided": "a 1 x 1 convolution of stride 2",
        "of_15": "an odd number of inputs, 15",
        "wide": "a scale for each channel takes more than is saved",
    }
    for row in table.layers:
        assert row.stored_bytes == (row.weights // 2 if row.layer in PACKED else row.weights)
        assert row.int8_bytes == row.weights
    before = stored_weights(plain)
    assert before.packed == ()
    assert before.stored_bytes == before.int8_bytes == table.int8_bytes
    assert {row.layer for row in before.layers if "not asked for" in row.reason} == set(PACKED)
    assert table.file_bytes == len(packed) < len(plain)
    assert "layers packed" in str(table)


def test_the_summary_has_the_bytes_of_the_packed_file(quantized, files):
    bits, packed, _ = files
    rows = {row.name: row for row in tfmiaq.summary(quantized).layers if row.weights}
    for stored in stored_weights(packed).layers:
        row = rows[stored.layer]
        biases = row.stored_bytes - row.weights
        assert row.int4_bytes == stored.stored_bytes + biases
        assert fits_int4(quantized.get_layer(f"quant_{row.name}").layer, bits) == (stored.layer in PACKED)
    summary = tfmiaq.summary(quantized)
    assert summary.int4_bytes == sum(row.int4_bytes for row in summary.layers) < summary.stored_bytes


@needs_runtime
def test_verify_holds_a_packed_file_to_the_trained_levels(quantized, files):
    bits, packed, plain = files
    tfmiaq.set_policy(quantized, _policy(bits))
    for file in (packed, plain):
        result = tfmiaq.verify(quantized, file, X[:500])
        assert result.exact, str(result)
    kept = quantized.get_weights()
    try:
        negate(quantized, "logits")
        wrong = tfmiaq.verify(quantized, packed, X[:500])
    finally:
        quantized.set_weights(kept)
    assert [row.name for row in wrong.layers if not row.exact and row.tensor == "weight"] == ["logits"], str(wrong)


def test_alignment_for_packing_is_kept_by_the_other_and_moves_no_bias_far(quantized):
    tfmiaq.set_policy(quantized, _policy(4))
    bias = quantized.get_layer("quant_hidden").layer.bias
    bias.assign(np.random.default_rng(1).normal(size=bias.shape))
    before = bias.numpy()
    bias_alignment.align(quantized)
    fine = bias.numpy()
    bias_alignment.align(quantized, packed=True)
    coarse = bias.numpy()
    bias_alignment.align(quantized)
    np.testing.assert_allclose(bias.numpy(), coarse, rtol=1e-6)
    moved, further = np.abs(fine - before).max(), np.abs(coarse - before).max()
    assert 4 < further / moved < 40


def test_biases_off_the_grid_stay_int8(files):
    file = packing.pack_weights(_changed(files[2], lambda codes, tensor: codes + (list(tensor.shape) == [10])))
    table = stored_weights(file)
    reasons = {row.layer: row.reason for row in table.layers}
    assert "bias is not a multiple of 16" in reasons["logits"]
    assert set(table.packed) == set(PACKED) - {"logits"}


def test_levels_of_more_than_four_bits_stay_int8(files):
    file = _changed(files[2], lambda codes, tensor: codes // 2 if codes.dtype == np.int8 else codes)
    assert packing.pack_weights(file) == file
    reasons = {row.layer: row.reason for row in stored_weights(file).layers}
    assert reasons["hidden"] == reasons["logits"] == "its levels take more than 4 bits"


def test_a_layer_called_twice_keeps_its_codes_once():
    keras.utils.set_random_seed(0)
    one, two = keras.Input((64,)), keras.Input((64,))
    dense = layers.Dense(16, activation="relu", bias_initializer="random_normal", name="shared")
    outputs = layers.Dense(4, name="logits")(layers.Concatenate()([dense(one), dense(two)]))
    model = tfmiaq.quantize_model(keras.Model([one, two], outputs), BitwidthPolicy.uniform(2, 4, None, None))
    generator = np.random.default_rng(0)
    x = [scale * generator.normal(size=(500, 64)).astype(np.float32) for scale in (1.0, 3.0)]
    model(x, training=True)
    plain = tfmiaq.convert(model, check=False)
    packed = packing.pack_weights(plain)
    # Inputs of two scales: its bias is on the grid of neither, so that the layer stays int8, and is in the file once.
    (row,) = [row for row in stored_weights(packed).layers if row.layer == "shared"]
    assert "called on inputs of several scales" in row.reason
    # Without a bias both calls read the same packed codes.
    zeros = _changed(plain, lambda codes, tensor: codes * (codes.dtype != np.int32))
    packed = packing.pack_weights(zeros)
    (row,) = [row for row in stored_weights(packed).layers if row.layer == "shared"]
    assert row.stored_as == "INT4"
    for runtime in RUNTIMES:
        np.testing.assert_array_equal(
            Interpreter(packed, runtime=runtime).predict(x), Interpreter(zeros, runtime=runtime).predict(x)
        )


@pytest.mark.parametrize("codes_apart", [8, 1])
def test_verify_takes_the_trained_levels_on_any_grid_and_no_others(quantized, files, codes_apart):
    bits, _, plain = files
    tfmiaq.set_policy(quantized, _policy(bits))

    def coarser(codes, tensor, wrong=0):
        if codes.dtype != np.int8 or list(tensor.shape) != [60, 60]:
            return codes
        tensor.quantization.scale = np.asarray(tensor.quantization.scale, np.float32) * (16 / codes_apart)
        codes = codes // 16 * codes_apart
        codes[0] += wrong
        return codes

    rows = tfmiaq.verify(quantized, _changed(plain, coarser), X[:20]).layers
    assert all(row.exact for row in rows if row.tensor == "weight"), str(rows)
    rows = tfmiaq.verify(quantized, _changed(plain, functools.partial(coarser, wrong=1)), X[:20]).layers
    assert [row.name for row in rows if row.tensor == "weight" and not row.exact] == ["plain"]


class _Refuses:
    """A runtime that takes no INT4 weights with a scale for each channel."""

    def __init__(self, **options):
        raise ValueError("failed to prepare")


class _ComputesOtherwise:
    """A runtime that accepts them, and gives zeros."""

    def __init__(self, **options):
        self._own = importlib.import_module("ai_edge_litert.interpreter").Interpreter(**options)

    def __getattr__(self, name):
        return getattr(self._own, name)

    def get_tensor(self, index):
        return np.zeros_like(self._own.get_tensor(index))


@pytest.mark.parametrize("kind", [_Refuses, _ComputesOtherwise])
def test_a_runtime_that_computes_something_else_gives_one_clear_error(quantized, files, monkeypatch, kind):
    if kind is _ComputesOtherwise:
        pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr(packed_runtime, "interpreter_type", lambda runtime: kind)
    _, packed, _ = files
    with pytest.raises(ValueError, match=r"Interpreter: TensorFlow .* does not run packed files.*without pack=True"):
        Interpreter(packed)
    with pytest.raises(ValueError, match=r"convert: TensorFlow .* does not run packed files.*check=False"):
        tfmiaq.convert(quantized, pack=True)
    with pytest.raises(ValueError, match="Interpreter: the installed ai-edge-litert does not run packed files"):
        Interpreter(packed, runtime="litert")


@needs_runtime
def test_convert_packs_and_checks(quantized):
    tfmiaq.set_policy(quantized, _policy(2))
    packed = tfmiaq.convert(quantized, pack=True)
    assert stored_weights(packed).packed == PACKED
    assert tfmiaq.tflite.read_metadata(packed)["target"] == "mobile"
    codes = packing.stored_codes(unpack(packed), _tensor(unpack(packed), [60, 60]))
    assert set(np.unique(codes)) == {-7, 0, 7}


def _tensor(model, shape):
    return next(tensor for tensor in model.subgraphs[0].tensors if list(tensor.shape) == shape)


def test_the_edge_tpu_takes_no_packed_file(quantized, files):
    with pytest.raises(ValueError, match=r"packed weights \(INT4\).*target='edgetpu', without pack=True"):
        tfmiaq.edgetpu.check(files[1])
    with pytest.raises(ValueError, match="pack=True goes with target 'mobile'"):
        tfmiaq.convert(quantized, "edgetpu", pack=True)


def test_the_command_line_packs_and_prints_the_table(files, tmp_path, monkeypatch, capsys):
    asked = {}

    def convert(model, target, **given):
        asked.update(given, target=target)
        return files[1]

    monkeypatch.setattr("tfmiaq.cli.commands.load_model", lambda *given, **more: None)
    monkeypatch.setattr("tfmiaq.tflite.conversion.convert", convert)
    with pytest.raises(SystemExit) as status:
        main(["convert", "quantized.keras", str(tmp_path / "model.tflite"), "--pack"])
    assert status.value.code == 0
    assert asked["pack"] and asked["target"] == "mobile"
    printed = capsys.readouterr().out
    assert "why not INT4" in printed and f"{len(files[1]):,} bytes" in printed
    assert (tmp_path / "model.tflite").read_bytes() == files[1]

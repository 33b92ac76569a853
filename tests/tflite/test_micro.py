"""Lookup tables for microcontrollers: how many bits each tensor takes, and that outputs stay the same."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import tfmiaq
from tfmiaq import BitwidthPolicy
from tfmiaq._backend import keras
from tfmiaq.policy import LayerBits
from tfmiaq.tflite import micro
from tfmiaq.tflite.flatbuffer import pack, unpack

layers = keras.layers
BITS = {"stem": 1, "depthwise": 3, "conv": 2, "wide": 4, "whole": 8, "logits": 2}


@pytest.fixture(scope="module")
def file():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(24, 3, activation="relu", name="stem")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    x = layers.Conv2D(32, 3, activation="relu", name="conv")(x)
    x = layers.Dense(64, activation="relu", name="wide")(layers.Flatten(name="flat")(x))
    x = layers.Dense(60, activation="relu", name="whole")(x)
    model = keras.Model(inputs, layers.Dense(10, name="logits")(x))
    given = {name: LayerBits(weight=bits, activation=8) for name, bits in BITS.items()}
    quantized = tfmiaq.quantize_model(model, BitwidthPolicy.uniform(8, 8, layers=given))
    quantized(np.random.default_rng(0).normal(size=(32, 6, 6, 4)).astype(np.float32), training=True)
    return tfmiaq.convert(quantized, target="edgetpu")


def test_weights_take_the_bits_of_their_levels_and_a_table_for_each_scale(file):
    names = [tensor.name.decode() for tensor in unpack(file).subgraphs[0].tensors]
    found = {}
    for table in micro.tables_of(file):
        (name,) = (name for name in BITS if f"quant_{name}/" in names[table.tensor])
        found[name] = (table.bits, table.axis)
        assert table.stored_bytes < table.int8_bytes
    # Nine weights a channel are fewer than a table of seven and its share of the rest save; eight bits need no table.
    assert found == {"stem": (1, 0), "conv": (2, 0), "wide": (4, None), "logits": (2, None)}


def test_weights_of_eight_bits_are_refused(file):
    model = unpack(file)
    generator = np.random.default_rng(0)
    for table in micro.tables_of(file):
        buffer = model.buffers[model.subgraphs[0].tensors[table.tensor].buffer]
        buffer.data = generator.integers(0, 256, len(buffer.data)).astype(np.uint8)
    with pytest.raises(ValueError, match="No weights become smaller"):
        tfmiaq.tflite.compress_for_micro(pack(model))


def test_without_the_package_the_error_names_it(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(ImportError, match="pip install tflite-micro"):
        tfmiaq.tflite.compress_for_micro(file)


def test_a_compressed_file_is_smaller_and_gives_the_same_outputs(file):
    pytest.importorskip("tflite_micro")
    compressed = tfmiaq.tflite.compress_for_micro(file)
    saved = sum(table.int8_bytes - table.stored_bytes for table in micro.tables_of(file))
    assert len(file) - len(compressed) > 0.7 * saved
    records = np.random.default_rng(1).integers(-128, 128, (20, 6, 6, 4)).astype(np.int8)
    found = micro.run_on_micro(compressed, records)
    assert len(np.unique(found)) > 10
    np.testing.assert_array_equal(found, micro.run_on_micro(file, records))

"""Which operations the Edge TPU compiler accepts."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from conftest import tiny_model, train

import tfmiaq
from tfmiaq._backend import keras, tf

layers = keras.layers


@pytest.fixture(scope="module")
def quantized(digits):
    return train(tfmiaq.quantize_model(tiny_model()), digits.x_train[:64], digits.y_train[:64])


def _reasons(model, x=None, **options):
    """The check of a float model's post-training int8 file."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    shape = (1, *model.inputs[0].shape[1:])
    generator = np.random.default_rng(0)
    converter.representative_dataset = lambda: ([generator.normal(size=shape).astype(np.float32)] for _ in range(4))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    result = tfmiaq.edgetpu.check(converter.convert())
    return {operation.operation: operation.reason for operation in result.operations}


def test_our_edge_tpu_files_are_mapped_whole(quantized):
    result = tfmiaq.edgetpu.check(tfmiaq.convert(quantized, "edgetpu"))
    assert result.mapped, str(result)
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "FULLY_CONNECTED"} <= {row.operation for row in result.operations}
    stored = tfmiaq.summary(quantized).stored_bytes
    # Biases that normalizations fold into come on top.
    assert stored <= result.parameter_bytes <= stored + 4 * 64
    assert result.fits_on_chip
    assert "0 of" not in str(result)


def test_float_ends_of_mobile_files_are_not_mapped(quantized):
    result = tfmiaq.edgetpu.check(tfmiaq.convert(quantized, "mobile"))
    rows = {row.operation: row for row in result.operations}
    assert "FLOAT32" in rows["QUANTIZE"].reason
    assert not rows["DEQUANTIZE"].mapped
    assert rows["CONV_2D"].mapped
    assert "NO" in str(result)
    assert repr(result) == f"<EdgeTpuCheck: {str(result).splitlines()[-2]}>"
    assert len(repr(result)) < 200
    assert result._repr_html_().count("<tr>") == len(result.operations) + 1


def test_nothing_of_it_loads_tensorflow():
    code = "import sys, tfmiaq.edgetpu, tfmiaq.tflite.metadata; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_documented_limits_are_told():
    inputs = keras.Input((8, 8, 4))
    dilated = layers.DepthwiseConv2D(3, dilation_rate=2)(inputs)
    assert "does not know" in _reasons(keras.Model(inputs, dilated))["SPACE_TO_BATCH_ND"]
    strided = keras.Model(inputs, inputs[:, ::2, ::2] * 2.0)
    assert "strides" in _reasons(strided)["STRIDED_SLICE"]
    wide = keras.Model(inputs, layers.Softmax()(layers.Conv2D(4, 1)(inputs)))
    assert "more than one dimension" in _reasons(wide)["SOFTMAX"]
    inner = keras.Model(inputs, layers.Lambda(lambda x: tf.reduce_mean(x, -1, True))(layers.Conv2D(4, 1)(inputs)))
    assert "other than x and y" in _reasons(inner)["MEAN"]
    pooled = keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1)(inputs)))
    assert _reasons(pooled)["MEAN"] == ""


def test_unknown_operations_are_told():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Lambda(tf.abs)(layers.Dense(4)(inputs)))
    assert "does not know" in _reasons(model)["ABS"]


def test_the_compiler_runs_where_it_is_installed(quantized, tmp_path, monkeypatch):
    compiler = tmp_path / "edgetpu_compiler"
    compiler.write_text('#!/bin/sh\necho "compiled $(basename "$5")"\n')
    compiler.chmod(compiler.stat().st_mode | stat.S_IEXEC)
    buffer = tfmiaq.convert(quantized, "edgetpu")
    assert tfmiaq.edgetpu.check(buffer).compiler_log is None
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    result = tfmiaq.edgetpu.check(buffer)
    assert result.compiler_log == "compiled"
    assert "edgetpu_compiler says:" in str(result)


def test_what_is_no_tflite_is_refused():
    with pytest.raises(ValueError, match="is no TFLite model"):
        tfmiaq.edgetpu.check(b"nothing at all")


def test_a_float16_file_is_read():
    inputs = keras.Input((8, 8, 4))
    x = layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs)))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(inputs, x))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    result = tfmiaq.edgetpu.check(converter.convert())
    assert not result.mapped
    assert any("FLOAT16" in row.reason or "FLOAT32" in row.reason for row in result.operations), str(result)


def test_a_file_with_strings_is_read():
    class Pick(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([1], tf.int32)])
        def serve(self, x):
            return tf.gather(tf.constant(["good", "bad", "other"]), x)

    module = Pick()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    result = tfmiaq.edgetpu.check(converter.convert())
    assert not result.mapped

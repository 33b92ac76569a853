"""Networks for 32 x 32 images that the benchmarks share."""

from __future__ import annotations

from typing import Any


def _conv(x: Any, filters: int, size: int, stride: int, name: str, relu: bool = True) -> Any:
    from tfmiaq._backend import keras

    layers = keras.layers
    x = layers.Conv2D(filters, size, stride, "same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def resnet8(input_shape: tuple[int, ...] = (32, 32, 3), classes: int = 10) -> Any:
    """ResNet-8 of widths 16, 32, 64 (the MLPerf Tiny image classification network); it ends in logits."""
    from tfmiaq._backend import keras

    layers = keras.layers
    inputs = keras.Input(input_shape)
    x = _conv(inputs, 16, 3, 1, "stem")
    for stage, (filters, stride) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
        y = _conv(x, filters, 3, stride, f"stage{stage}_a")
        y = _conv(y, filters, 3, 1, f"stage{stage}_b", relu=False)
        if stride > 1:
            x = _conv(x, filters, 1, stride, f"stage{stage}_skip", relu=False)
        x = layers.ReLU(name=f"stage{stage}_relu")(layers.Add(name=f"stage{stage}_sum")([x, y]))
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="resnet8")


def small_mobilenet(input_shape: tuple[int, ...] = (32, 32, 3), classes: int = 10) -> Any:
    """Six depthwise separable convolutions of widths 16 to 128 behind a stem, as MobileNet V1 has them."""
    from tfmiaq._backend import keras

    layers = keras.layers
    inputs = keras.Input(input_shape)
    x = _conv(inputs, 16, 3, 1, "stem")
    for block, (filters, stride) in enumerate(((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1)), start=1):
        x = layers.DepthwiseConv2D(3, stride, "same", use_bias=False, name=f"block{block}_depthwise")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"block{block}_depthwise_norm")(x)
        x = layers.ReLU(name=f"block{block}_depthwise_relu")(x)
        x = _conv(x, filters, 1, 1, f"block{block}")
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="small_mobilenet")


NETWORKS = {"resnet8": resnet8, "small_mobilenet": small_mobilenet}

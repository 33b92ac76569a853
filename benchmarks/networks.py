"""Networks that the benchmarks share."""

from __future__ import annotations

from typing import Any

import tfmiaq


def _conv(x: Any, filters: int, size: int, stride: int, name: str, relu: bool = True) -> Any:
    layers = tfmiaq.keras.layers
    x = layers.Conv2D(filters, size, stride, "same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _resnet(input_shape: tuple[int, ...], classes: int, blocks: int, name: str) -> Any:
    layers = tfmiaq.keras.layers
    inputs = tfmiaq.keras.Input(input_shape)
    x = _conv(inputs, 16, 3, 1, "stem")
    for stage, (filters, first_stride) in enumerate(((16, 1), (32, 2), (64, 2)), start=1):
        for block in range(1, blocks + 1):
            prefix = f"stage{stage}" if blocks == 1 else f"stage{stage}_block{block}"
            stride = first_stride if block == 1 else 1
            y = _conv(x, filters, 3, stride, f"{prefix}_a")
            y = _conv(y, filters, 3, 1, f"{prefix}_b", relu=False)
            if stride > 1:
                x = _conv(x, filters, 1, stride, f"{prefix}_skip", relu=False)
            x = layers.ReLU(name=f"{prefix}_relu")(layers.Add(name=f"{prefix}_sum")([x, y]))
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return tfmiaq.keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)


def resnet8(input_shape: tuple[int, ...] = (32, 32, 3), classes: int = 10) -> Any:
    """ResNet-8 of widths 16, 32, 64 (the MLPerf Tiny image classification network); it ends in logits."""
    return _resnet(input_shape, classes, 1, "resnet8")


def resnet20(input_shape: tuple[int, ...] = (32, 32, 3), classes: int = 10) -> Any:
    """ResNet-20 of widths 16, 32, 64 (He et al. 2016, section 4.2); it ends in logits."""
    return _resnet(input_shape, classes, 3, "resnet20")


def small_vgg(input_shape: tuple[int, ...] = (32, 32, 3), classes: int = 10) -> Any:
    """Six 3 x 3 convolutions in three stages of widths 32, 64, 128, each with a pooling, as VGG has them."""
    layers = tfmiaq.keras.layers
    inputs = x = tfmiaq.keras.Input(input_shape)
    for stage, filters in enumerate((32, 64, 128), start=1):
        x = _conv(x, filters, 3, 1, f"stage{stage}_a")
        x = _conv(x, filters, 3, 1, f"stage{stage}_b")
        x = layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
    x = layers.Flatten(name="flat")(x)
    return tfmiaq.keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="small_vgg")


def lenet(input_shape: tuple[int, ...] = (8, 8, 1), classes: int = 10) -> Any:
    """Two 3 x 3 convolutions of widths 16 and 32 with a pooling, and a dense layer of 64 (after LeNet-5)."""
    layers = tfmiaq.keras.layers
    inputs = tfmiaq.keras.Input(input_shape)
    x = _conv(inputs, 16, 3, 1, "first")
    x = _conv(layers.MaxPooling2D(name="pool")(x), 32, 3, 1, "second")
    x = layers.Dense(64, activation="relu", name="hidden")(layers.Flatten(name="flat")(x))
    return tfmiaq.keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="lenet")


def mlp(input_shape: tuple[int, ...] = (446,), classes: int = 30) -> Any:
    """Two hidden layers of 256 and 128 with batch normalization."""
    layers = tfmiaq.keras.layers
    inputs = x = tfmiaq.keras.Input(input_shape)
    for number, units in enumerate((256, 128), start=1):
        x = layers.Dense(units, use_bias=False, name=f"hidden{number}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"hidden{number}_norm")(x)
        x = layers.ReLU(name=f"hidden{number}_relu")(x)
    return tfmiaq.keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="mlp")


def plain_mlp(input_shape: tuple[int, ...] = (446,), classes: int = 30) -> Any:
    """Two hidden layers of 256 and 128 without normalization."""
    layers = tfmiaq.keras.layers
    inputs = x = tfmiaq.keras.Input(input_shape)
    for number, units in enumerate((256, 128), start=1):
        x = layers.Dense(units, activation="relu", name=f"hidden{number}")(x)
    return tfmiaq.keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="plain_mlp")


def small_mobilenet(input_shape: tuple[int, ...] = (32, 32, 3), classes: int = 10) -> Any:
    """Six depthwise separable convolutions of widths 16 to 128 behind a stem, as MobileNet V1 has them."""
    layers = tfmiaq.keras.layers
    inputs = tfmiaq.keras.Input(input_shape)
    x = _conv(inputs, 16, 3, 1, "stem")
    for block, (filters, stride) in enumerate(((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1)), start=1):
        x = layers.DepthwiseConv2D(3, stride, "same", use_bias=False, name=f"block{block}_depthwise")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"block{block}_depthwise_norm")(x)
        x = layers.ReLU(name=f"block{block}_depthwise_relu")(x)
        x = _conv(x, filters, 1, 1, f"block{block}")
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return tfmiaq.keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="small_mobilenet")


def group_normalized(model: Any) -> Any:
    """A network with GroupNormalization, eight groups, in place of its BatchNormalization (De et al. 2022)."""
    layers = tfmiaq.keras.layers

    def fresh(layer: Any) -> Any:
        if isinstance(layer, layers.BatchNormalization):
            return layers.GroupNormalization(8, name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    return tfmiaq.keras.models.clone_model(model, clone_function=fresh)


NETWORKS = {"resnet8": resnet8, "small_mobilenet": small_mobilenet}
OF_IMAGES = {**NETWORKS, "resnet20": resnet20, "small_vgg": small_vgg}

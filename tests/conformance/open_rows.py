"""What is known not to hold yet, each with its reason. A row that comes to hold fails here, and leaves the list."""

from __future__ import annotations

_NORMED = "on TensorFlow 2.21 the file rounds inside a layer that stays float"
_UNREGISTERED = "Keras finds no class of a functional model in an .h5 file, of a float model either"

EVERYWHERE = {
    ("training: own train_step", "reload_h5"): _UNREGISTERED,
}
KERAS_3_THERE = {
    ("layers: LayerNormalization", "file_mobile"): _NORMED,
}

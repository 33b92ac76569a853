# %% [markdown]
# # A foreign .tflite, without its model
#
# A supplier sends `classifier.tflite`. There is no Keras model, no training code, and nobody says how it was
# quantized. Its training records are known, because they are yours. This page reads the file, runs it and audits it.
#
# The first cell plays the supplier: plain TensorFlow, without tfmiaq. All that is kept of it is the file.

# %%
import os
import pathlib
import tempfile

import tensorflow as tf

import tfmiaq
from tfmiaq import datasets

digits = datasets.load("digits")
x_train, y_train = digits.x_train[:200], digits.y_train[:200]
folder = pathlib.Path(tempfile.mkdtemp())
path = folder / "classifier.tflite"


def supplier():
    keras = tfmiaq.keras
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(256, activation="relu")])
    model.add(layers.Dense(10, activation="softmax"))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(x_train, y_train, epochs=40, batch_size=32, verbose=0)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]  # 8-bit weights
    path.write_bytes(converter.convert())


supplier()
f"{os.path.getsize(path):,} bytes"

# %% [markdown]
# ## What is in it
#
# A file that comes from outside is checked before an interpreter reads it, and runs in a process of its own.

# %%
interpreter = tfmiaq.tflite.Interpreter(path)
outputs = interpreter.predict(digits.x_test[:300])
outputs.shape, float(outputs[0].sum())

# %% [markdown]
# Rows sum to one, so that the outputs are probabilities. `edgetpu.check` lists the operations of any file.

# %%
tfmiaq.edgetpu.check(path)

# %% [markdown]
# ## The audit
#
# Members are the records that the supplier got; non-members are records of the same kind that the supplier never had.
# An audit of a `.tflite` has two attackers: one who can only ask, and one who holds the file and reads the logits in
# front of its softmax.

# %%
members = x_train, y_train
non_members = digits.x_test[:300], digits.y_test[:300]
report = tfmiaq.audit(path, members, non_members, verbose=False)
report

# %%
report.plot()

# %% [markdown]
# On the command line it is one line, on an `.npz` with `x_train` and `y_train` (members) and `x_test` and `y_test`
# (non-members):
#
# ```
# tfmiaq audit classifier.tflite --records=own.npz --folder=report
# ```
#
# ## Why it cannot be the whole answer
#
# Without the supplier's training code there are no reference models, so that the audit is of a weaker attacker, and
# the report says so. Ask the supplier for the training code, or for the outputs of shadow models
# ([Auditing](../auditing.md#models-that-are-trained-already)).

# %%
print(report.verdict)

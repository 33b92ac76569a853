# %% [markdown]
# # Images, with tf.data
#
# A small image classifier is trained until it memorizes, then quantized, converted to a `.tflite` and audited. Each
# step works on `tf.data` pipelines. The images are scikit-learn's digits, 8 x 8 pixels, so that the page runs in
# seconds; with your own, put your two datasets in their place.
#
# A **member** is a record that the model was trained on. A **non-member** is one of the same kind that it was not.

# %%
import tensorflow as tf

import tfmiaq
from tfmiaq import datasets

keras = tfmiaq.keras  # the Keras that tfmiaq quantizes
keras.utils.set_random_seed(0)
digits = datasets.load("digits")


def dataset(x, y, count):
    return tf.data.Dataset.from_tensor_slices((x[:count], y[:count]))


members = dataset(digits.x_train, digits.y_train, 300)
non_members = dataset(digits.x_test, digits.y_test, 300)
members.element_spec

# %% [markdown]
# Folders of images come from `keras.utils.image_dataset_from_directory`, which returns a dataset of batches; both
# forms work below.
#
# ## A float model

# %%
layers = keras.layers
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
        layers.MaxPooling2D(name="pool"),
        layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2"),
        layers.Flatten(name="flatten"),
        layers.Dense(10, name="logits"),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
batches = members.shuffle(300, seed=0).batch(32)
model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
history = model.fit(batches, epochs=30, verbose=0)
f"accuracy on members {history.history['accuracy'][-1]:.3f}"

# %% [markdown]
# ## What it gives away
#
# `audit` attacks the model with what an attacker has: the outputs. It reads each dataset once, in order.

# %%
before = tfmiaq.audit(model, members.batch(64), non_members.batch(64), verbose=False)
before

# %% [markdown]
# The verdict comes first, in three parts. The AUC is the chance that the attack ranks a member above a non-member:
# 0.5 is a coin. [Reading a report](../reading_a_report.md) explains the other lines.
#
# ## Quantize it
#
# The summary shows what becomes of each layer before anything is built: 2-bit weights and 4-bit activations inside, 8
# bits in the first and the last layer.

# %%
policy = tfmiaq.BitwidthPolicy.uniform(weight=2, activation=4)
tfmiaq.summary(model, policy)

# %%
quantized = tfmiaq.quantize_model(model, policy)
quantized.compile(keras.optimizers.Adam(1e-3), loss)
quantized.fit(batches, epochs=5, verbose=0)
buffer = tfmiaq.convert(quantized)
f"{len(buffer):,} bytes"

# %% [markdown]
# `verify` compares file and model: every weight in the file is one of the trained levels.

# %%
verification = tfmiaq.verify(quantized, buffer, digits.x_test[:300])
verification

# %% [markdown]
# ## Audit what ships
#
# The file is attacked, not the model that it came from. Who holds the file reads more than its outputs, so that the
# report has two attackers.

# %%
after = tfmiaq.audit(buffer, members.batch(64), non_members.batch(64), verbose=False)
comparison = tfmiaq.compare({"float": before, ".tflite": after})
comparison

# %%
figure = comparison.plot()
figure

# %% [markdown]
# Fine-tuned from a float model that has memorized, low bits alone hide little: [Defences](../defence.md) has what
# does. These attacks train no models of their own. An attacker who does finds more: the [tutorial on a health
# table](health_table.ipynb) gives the audit reference models.

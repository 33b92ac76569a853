# %% [markdown]
# # A health table, with one sigmoid
#
# The records are scikit-learn's breast cancer data: 569 women, 30 measurements of cells of each, and whether the
# tumour is benign (Street, Wolberg and Mangasarian 1993). A network with one sigmoid output learns the diagnosis. The
# question of this page: **can somebody who has a woman's measurements find out that her record was in the training
# set?**

# %%
import numpy as np
from sklearn.datasets import load_breast_cancer

import tfmiaq

keras = tfmiaq.keras
keras.utils.set_random_seed(0)
table = load_breast_cancer()
order = np.random.default_rng(0).permutation(len(table.target))
x, y = table.data[order].astype("float32"), table.target[order]
x = (x - x.mean(axis=0)) / x.std(axis=0)
members, non_members = (x[:284], y[:284]), (x[284:], y[284:])
x.shape

# %% [markdown]
# ## The model
#
# `FloatTraining` is a training as a value: a function that builds the network, and a recipe. Called, it trains.

# %%
layers = keras.layers


def build_model():
    inputs = keras.Input((30,), name="measurements")
    hidden = layers.Dense(64, activation="relu", name="hidden1")(inputs)
    hidden = layers.Dense(32, activation="relu", name="hidden2")(hidden)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="benign")(hidden))


def training(epochs, **options):
    recipe = tfmiaq.TrainingRecipe(epochs, learning_rate=0.1, **options)
    return tfmiaq.FloatTraining(build_model, recipe)


def accuracy(model, records):
    return float(np.mean((model(records[0]).numpy()[:, 0] > 0.5) == records[1]))


long = training(epochs=60)
model = long(*members)
accuracy(model, members), accuracy(model, non_members)

# %% [markdown]
# ## An attacker who trains models too
#
# The strongest attackers train **reference models**: models like yours, each on a random half of the records. They
# learn what a model says of a record that it was trained on, and of one that it was not, record by record.
# `ReferenceModels` trains them through your own pipeline.

# %%
reference_models = tfmiaq.ReferenceModels(long, count=8)
report = tfmiaq.audit(model, members, non_members, reference_models=reference_models, verbose=False)
report

# %%
report.plot()

# %% [markdown]
# On average little is found: the task is easy, and a woman who is not in the training set is diagnosed nearly as
# surely as one who is. The attacks with reference models find most, and single women more surely than the average
# says.
#
# ## The worst case
#
# An average hides the record that the model has to learn by heart. **Canaries** are such records: women with a wrong
# diagnosis, each in or out of a model by a coin of her own. Sixteen models are trained with them, and each is
# attacked with the others as references.

# %%
canaries = tfmiaq.Canaries("mislabelled", count=40)


def worst_case(train):
    models = tfmiaq.ReferenceModels(train, count=16)
    return tfmiaq.audit_canaries(models, members, non_members, canaries, verbose=False)


memorized = worst_case(long)
memorized

# %% [markdown]
# An AUC near 1: whoever asks the model about a woman whose diagnosis was wrong in the table knows that she is in it.
#
# ## What helps
#
# Fewer epochs cost nothing, and are the first thing to measure. Clipping each record's gradient, and adding noise to
# the sum, is DP-SGD ([Defences](../defence.md#dp-sgd)).

# %%
short = training(epochs=8)
noisy = training(epochs=20, batch_size=284, dp=tfmiaq.DPSGD(clip=1.0, noise=2.0))
found = {name: worst_case(train) for name, train in {"8 epochs": short, "DP-SGD": noisy}.items()}
tests = {name: accuracy(train(*members), non_members) for name, train in {"8 epochs": short, "DP-SGD": noisy}.items()}
{name: f"AUC of canaries {result.auc:.2f}, test accuracy {tests[name]:.3f}" for name, result in found.items()}

# %% [markdown]
# One training each: differences of a hundredth are chance.
#
# ## What ships
#
# `calibrate` quantizes a trained model on records without labels. They need not be members: here they are the others.

# %%
policy = tfmiaq.BitwidthPolicy.uniform(weight=4, activation=8)


def calibrated(model, x, y):
    return tfmiaq.calibrate(tfmiaq.quantize_model(model, policy), non_members[0], verbose=False)


quantized = calibrated(noisy(*members), *members)
buffer = tfmiaq.convert(quantized)
verification = tfmiaq.verify(quantized, buffer, non_members[0])
verification

# %% [markdown]
# The file is audited before it goes out. Its reference models go through the whole pipeline, noise and bits included.
# Four of them keep this page short; take 16 or more for a release.

# %%
pipeline = tfmiaq.ReferenceModels([noisy, calibrated], count=4)
final = tfmiaq.audit(buffer, members, non_members, reference_models=pipeline, verbose=False)
print(final.verdict)

# %%
final.gate(["auc>0.7", "accuracy>0.7"])

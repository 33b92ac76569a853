"""A quantized model and a wrong twin of it, whose file `verify` must not take for the model's own."""

from __future__ import annotations

import tfmiaq


def variable(model, name):
    """The variable of a quantized model that the user knows as "layer/kind"."""
    return next(v for v in model.variables if v.name.split(":")[0] in (name, f"quant_{name}"))


def swap(model, one, two, kinds=("kernel", "bias")):
    """Exchanges the values of two layers of one shape."""
    for kind in kinds:
        first, second = variable(model, f"{one}/{kind}"), variable(model, f"{two}/{kind}")
        kept = first.numpy(), second.numpy()
        first.assign(kept[1])
        second.assign(kept[0])


def negate(model, layer):
    """Changes the sign of a layer's kernel and bias."""
    for kind in ("kernel", "bias"):
        value = variable(model, f"{layer}/{kind}")
        value.assign(-value)


def file_of_changed(model, change):
    """The file of the same model with other values, which are put back."""
    kept = model.get_weights()
    try:
        change()
        return tfmiaq.convert(model, check=False)
    finally:
        model.set_weights(kept)

"""`tfmiaq quantize`: from a trained float model to a .tflite, without training."""

from __future__ import annotations

import argparse
from typing import Any

from tfmiaq.cli.inputs import fitted, load_labels, load_model, load_unlabelled, policy_of
from tfmiaq.cli.judging import FAILED, SUCCEEDED


def quantize(given: argparse.Namespace) -> int:
    """Calibrates a float model, converts it, compares file and model, and prints bits, size and agreement."""
    from tfmiaq._checks import AT_LEAST_ONE, check

    counts = check("quantize", count=(given.count, AT_LEAST_ONE), iterations=(given.iterations, AT_LEAST_ONE))
    policy, labels = policy_of(given.policy), load_labels(given)
    x, x_check = load_unlabelled(given)
    model = load_model(given.model, given)
    from tfmiaq import quantization
    from tfmiaq.caching.store import write_whole
    from tfmiaq.quantization.inspection import is_quantized
    from tfmiaq.tflite.conversion import convert
    from tfmiaq.tflite.verification import verify

    if is_quantized(model):
        raise ValueError("quantize: The model is quantized already: tfmiaq convert writes its .tflite.")
    x, x_check = (fitted(part, model)[: counts["count"]] for part in (x, x_check))
    quantized = quantization.quantize_model(model, policy)
    quantization.calibrate(
        quantized, x, rounding=given.rounding, iterations=counts["iterations"], batch_size=32, seed=given.seed
    )
    buffer = convert(quantized, given.target, io_type=given.io_type, labels=labels, pack=given.pack)
    verification = verify(quantized, buffer, x_check)
    write_whole(given.output, lambda path: path.write_bytes(buffer))
    if given.save is not None:
        quantized.save(given.save)
    print(f"{quantization.summary(quantized)}\n\n{verification}\n{_beside_the_float_model(model, buffer, x_check)}\n")
    print(f"{given.output}: {len(buffer):,} bytes; the float weights take {4 * model.count_params():,}")
    return SUCCEEDED if verification.exact else FAILED


def _beside_the_float_model(model: Any, buffer: bytes, x: Any) -> str:
    """Returns on how many records file and float model choose the same class, or how far their outputs lie apart."""
    import numpy as np

    from tfmiaq.tflite.interpreter import Interpreter

    ours, theirs = Interpreter(buffer).predict(x), model.predict(x, verbose=0)
    if isinstance(ours, (list, dict)) or isinstance(theirs, (list, dict)):
        return "The model has several outputs: compare each with the float model's in Python."
    if ours.ndim == 2 and ours.shape[1] > 1:
        agreement = float(np.mean(ours.argmax(1) == theirs.argmax(1)))
        return f"The file and the float model choose the same class for {agreement:.2%} of {len(x)} records."
    difference = np.abs(ours.astype(np.float64) - theirs)
    return (
        f"The outputs of the file and of the float model differ by {float(difference.mean()):.4g} in the mean and "
        f"{float(difference.max()):.4g} at most, on {len(x)} records."
    )

"""What must be equal of a float model and its quantized copy, and the models of one row, which its properties share."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Optional

import numpy as np
from situations import Situation

import tfmiaq
from tfmiaq._backend import keras as keras2
from tfmiaq._backend import tf

POLICY = tfmiaq.BitwidthPolicy.uniform(8, 8)
FILE_RECORDS = 32


def keras3() -> Any:
    """Keras 3 where it is installed, or None."""
    if int(importlib.metadata.version("keras").split(".")[0]) < 3:
        return None
    return importlib.import_module("keras")


def listed(outputs: Any) -> list[np.ndarray]:
    """The arrays of a structure of tensors; those of a dict in the order of its keys."""
    return [np.asarray(tf.cast(output, tf.float32)) for output in tf.nest.flatten(outputs)]


def _once(compute: Callable[[Case], Any]) -> Any:
    """A property that is computed once, also where that raises."""

    @functools.wraps(compute)
    def read(self: Case) -> Any:
        if compute.__name__ not in self._done:
            try:
                self._done[compute.__name__] = (compute(self), None)
            except Exception as error:
                self._done[compute.__name__] = (None, error)
        value, error = self._done[compute.__name__]
        if error is not None:
            raise error
        return value

    return property(read)


class Case:
    """The float and the quantized model of a row, made when first read.

    Args:
        row: The row.
        k: The Keras module of the float model.
        models: The case of another row of the same models, which are shared, or None.
    """

    def __init__(self, row: Situation, k: Any, models: Optional[Case] = None) -> None:
        self.row, self.k = row, k
        self.x, self.y = row.data()
        self.told: list[str] = models.told if models else []
        self._done: dict[str, tuple[Any, Any]] = {}
        if models:
            self._done = {name: done for name, done in models._done.items() if name != "_step"}
        self._files: dict[str, Any] = {}

    @_once
    def float(self) -> Any:
        """The float model; its biases and statistics are random, so that no two variables hold the same values."""
        self.k.utils.set_random_seed(0)
        model = self.row.build(self.k)
        generator = np.random.default_rng(0)
        for variable in model.variables if self.row.vary else ():
            value = np.asarray(variable)
            if value.ndim and np.issubdtype(value.dtype, np.floating) and np.all(value == value.ravel()[0]):
                low, high = (0.5, 1.5) if value.ravel()[0] == 1 else (-0.2, 0.2)
                variable.assign(generator.uniform(low, high, value.shape).astype(value.dtype))
        settle(model, self.batches())
        return model

    def quantize(self) -> Any:
        """A new quantized copy of the float model as it is now."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = tfmiaq.quantize_model(self.float, POLICY)
        self.told += [str(warning.message) for warning in caught]
        return model

    @_once
    def refused(self) -> bool:
        """Whether `quantize_model` has raised the one error that the row allows."""
        import re

        try:
            assert self._copy is not None
        except (TypeError, ValueError) as error:
            if self.row.refuses and re.search(self.row.refuses, str(error)):
                return True
            raise
        return False

    @_once
    def _copy(self) -> Any:
        return self.quantize()

    @_once
    def twins(self) -> list[tuple[Any, Any]]:
        """Each variable of the float model with the one that holds its values in the quantized model, or None."""
        by_values: dict[bytes, list[Any]] = {}
        for variable in {id(v): v for v in self._copy.variables}.values():
            by_values.setdefault(_values(variable), []).append(variable)
        # The forget biases of two LSTMs hold the same values.
        pairs = []
        for variable in filter(_is_parameter, {id(v): v for v in self.float.variables}.values()):
            same = by_values.get(_values(variable), [])
            pairs.append((variable, same.pop(0) if same else None))
        return pairs

    @_once
    def extra(self) -> list[Any]:
        """The quantized model's arrays without a twin, such as the kernels that stand for an AveragePooling2D."""
        paired = {id(twin) for _, twin in self.twins}
        return [v for v in self._copy.variables if _is_parameter(v) and id(v) not in paired]

    @_once
    def quantized(self) -> Any:
        """The quantized model, its ranges set by the records; the float model's averages have seen them too."""
        model = self._copy
        assert self.twins is not None
        for one in (self.float, model):
            if self.row.after:
                self.row.after(one, functools.partial(find, one))
            for batch in self.batches():
                one(batch, training=True)
            reset_states(one)
        return model

    def buffer(self, target: str) -> bytes:
        """The file for a target."""
        if target not in self._files:
            try:
                # `verify` compares afterwards; `convert` would do it a second time.
                self._files[target] = tfmiaq.convert(self.quantized, target, check=False, **self.row.convert)
            except Exception as error:
                self._files[target] = error
        if isinstance(self._files[target], Exception):
            raise self._files[target]
        return self._files[target]

    def batches(self) -> Iterator[Any]:
        """The records in batches of the row's size."""
        count = len(tf.nest.flatten(self.x)[0])
        for start in range(0, count, self.row.batch):
            yield tf.nest.map_structure(lambda a, start=start: tf.constant(a[start : start + self.row.batch]), self.x)

    def outputs(self, model: Any) -> list[np.ndarray]:
        """The outputs of a model for all records, in inference."""
        parts = [listed(model(batch, training=False)) for batch in self.batches()]
        reset_states(model)
        return [np.concatenate(arrays) for arrays in zip(*parts)]

    def compile(self, model: Any, rate: float = 0.0, k: Any = None) -> None:
        """Compiles a model as the row says, to run without tracing."""
        k = k or (keras2 if isinstance(model, keras2.Model) else self.k)
        model.compile(optimizer=k.optimizers.SGD(rate), run_eagerly=True, **self.row.compile(k))

    def fit(self, model: Any, rate: float) -> Any:
        """One epoch at a learning rate; returns what `fit` does."""
        self.compile(model, rate)
        return model.fit(self.x, self.y, batch_size=self.row.batch, shuffle=False, verbose=0, **self.row.fit)

    @_once
    def _step(self) -> tuple[list[dict[str, float]], dict[int, np.ndarray]]:
        """One step of training, which is taken back: the logs of both models, and what their variables become."""
        count = len(tf.nest.flatten(self.x)[0])
        kwargs = tf.nest.map_structure(lambda a: a[: min(count, self.row.batch)], {"y": self.y, **self.row.fit})
        logs, after = [], {}
        with self.undone():
            for model in (self.quantized, self.float):
                self.compile(model, rate=0.1)
                found = model.train_on_batch(next(self.batches()), **kwargs, return_dict=True)
                logs.append({key: float(value) for key, value in found.items()})
                after.update({id(v): np.asarray(v) for v in model.variables})
                reset_states(model)
        return logs, after

    @property
    def logs(self) -> list[dict[str, float]]:
        """What a step of training logs, of the quantized and of the float model."""
        return self._step[0]

    @property
    def trained(self) -> dict[int, np.ndarray]:
        """The values of both models' variables after a step of training, by identity."""
        return self._step[1]

    @contextlib.contextmanager
    def undone(self, *models: Any) -> Iterator[None]:
        """A scope whose changes of weights are taken back."""
        kept = [[(v, np.asarray(v)) for v in model.variables] for model in models or (self.float, self.quantized)]
        try:
            yield
        finally:
            for variable, value in (pair for pairs in kept for pair in pairs):
                variable.assign(value)


def _is_parameter(variable: Any) -> bool:
    # Ranges and bit-widths are scalars; the states of random generators are integers.
    value = np.asarray(variable)
    return value.ndim > 0 and np.issubdtype(value.dtype, np.floating)


def _values(variable: Any) -> bytes:
    return np.asarray(variable).ravel().tobytes()


def find(model: Any, name: str) -> Any:
    """The layer that has, or stands for the one that had, a name of the float model."""
    names = {layer.name: layer for layer in model.layers}
    return names.get(name) or names[f"quant_{name}"]


def settle(model: Any, batches: Iterator[Any]) -> None:
    """Sets the averages of BatchNormalization to the records': ranges of training are those of inference then."""
    norms = [layer for layer in model._flatten_layers() if type(layer).__name__ == "BatchNormalization"]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        # Not 0: the same records would give the same averages again, which then seem frozen.
        norm.momentum = 0.02
    if norms:
        model(next(batches), training=True)
    for norm, momentum in zip(norms, kept):
        norm.momentum = momentum


def reset_states(model: Any) -> None:
    """Begins the sequences of stateful layers anew."""
    for layer in model.layers:
        layer = getattr(layer, "layer", layer)
        if getattr(layer, "stateful", False) and hasattr(layer, "reset_states"):
            layer.reset_states()


def input_names(model: Any) -> list[str]:
    """Names of the inputs, of either Keras."""
    return list(model.input_names) if isinstance(model, keras2.Model) else [t.name for t in model.inputs]


def output_names(model: Any) -> list[str]:
    """Names of the outputs, of either Keras; a Sequential model of Keras 3 keeps them in the model inside."""
    return list((getattr(model, "_functional", None) or model).output_names)


def _label(variable: Any) -> str:
    return f"{getattr(variable, 'path', variable.name)} {tuple(variable.shape)}"


# The properties.


def outputs(case: Case) -> None:
    """Outputs agree within a few steps of 8 bits."""
    quantized = case.quantized
    expected, found = case.outputs(case.float), case.outputs(quantized)
    tf.nest.assert_same_structure(
        tf.nest.map_structure(lambda _: 0, case.float(next(case.batches()), training=False)),
        tf.nest.map_structure(lambda _: 0, quantized(next(case.batches()), training=False)),
    )
    for one, other in zip(expected, found):
        assert one.shape == other.shape
        step = (max(one.max(), 0.0) - min(one.min(), 0.0)) / 255
        error = float(np.abs(one - other).max() / step)
        assert error <= case.row.steps, f"outputs differ by {error:.1f} steps of 8 bits"


def loss(case: Case) -> None:
    """The loss, with what the model adds to it and weights of records, and the names in the logs agree."""
    (found, expected), inner = case.logs, []
    for model in (case.quantized, case.float):
        model(next(case.batches()), training=False)
        inner.append(sum(float(tf.reduce_sum(value)) for value in model.losses))
        reset_states(model)
    np.testing.assert_allclose(*inner, rtol=0.03, atol=1e-3, err_msg="sum of model.losses")
    if case.k is keras2:
        assert set(found) == set(expected)
    # The other names of Keras 3 are not those of Keras 2.
    for key in expected if case.k is keras2 else ("loss",):
        # An accuracy moves by one record's label.
        atol = 0.01 if key == "loss" else 0.07
        np.testing.assert_allclose(found[key], expected[key], rtol=0.05, atol=atol, err_msg=key)


def trainable(case: Case) -> None:
    """The same variables are trained, and no others."""
    quantized = case.quantized
    trained = {id(v) for v in case.float.trainable_variables}
    found = {id(v) for v in quantized.trainable_variables}
    faults = [f"constant {_label(v)} is trainable" for v in case.extra if id(v) in found]
    for variable, twin in case.twins:
        if id(variable) in trained and twin is None:
            faults.append(f"{_label(variable)} is not in the quantized model")
        elif id(variable) in trained and id(twin) not in found:
            faults.append(f"{_label(variable)} is not trainable")
        elif id(variable) not in trained and twin is not None and id(twin) in found:
            faults.append(f"{_label(variable)} is frozen, and trainable in the quantized model")
    assert not faults, "; ".join(faults)


def training(case: Case) -> None:
    """A step of training moves the same variables, and each constraint holds on the axes that the user meant."""
    after = case.trained
    faults = [f"constant {_label(v)} has moved" for v in case.extra if _moved(v, after)]
    for variable, twin in case.twins:
        pair = [one for one in (variable, twin) if one is not None]
        # A bias in front of a BatchNormalization has a gradient of rounding errors, or none; `trainable` holds it.
        is_rounding = all(np.abs(np.asarray(one) - after[id(one)]).max() < 1e-6 for one in pair)
        if twin is not None and not is_rounding and _moved(variable, after) != _moved(twin, after):
            faults.append(
                f"{_label(variable)} {'has not moved' if _moved(variable, after) else 'has moved, and is frozen'}"
            )
        constraint = getattr(variable, "constraint", None)
        if constraint is None or twin is None:
            continue
        value = after[id(twin)].reshape(variable.shape)
        if not np.allclose(value, np.asarray(constraint(tf.constant(value))), atol=1e-5):
            faults.append(f"{_label(variable)} does not obey its {type(constraint).__name__}")
    assert not faults, "; ".join(faults)


def _moved(variable: Any, after: dict[int, np.ndarray]) -> bool:
    return not np.array_equal(np.asarray(variable), after[id(variable)])


def names(case: Case) -> None:
    """Inputs and outputs have the user's names."""
    assert list(case.quantized.output_names) == output_names(case.float)
    assert list(case.quantized.input_names) == input_names(case.float)


def _reloaded(case: Case, suffix: str) -> None:
    quantized = case.quantized
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = os.path.join(folder, f"model{suffix}")
        quantized.save(path)
        loaded = tfmiaq.load_model(path)
    for one, other in zip(case.outputs(quantized), case.outputs(loaded)):
        np.testing.assert_array_equal(other, one)
    for kind in ("trainable_variables", "non_trainable_variables"):
        kept, found = ([_values(v) for v in getattr(m, kind) if _is_parameter(v)] for m in (quantized, loaded))
        assert sorted(found) == sorted(kept), f"{kind} differ"


def reload_keras(case: Case) -> None:
    """A .keras file gives the same outputs, weights and trainability."""
    _reloaded(case, ".keras")


def reload_h5(case: Case) -> None:
    """A .h5 file gives the same outputs, weights and trainability."""
    _reloaded(case, ".h5")


def _file(case: Case, target: str) -> None:
    quantized = case.quantized
    with case.undone(quantized):
        buffer = case.buffer(target)
        result = tfmiaq.verify(quantized, buffer, case.x)
        assert result.exact, str(result)
        assert result.agreement >= 0.9, str(result)
        expected = case.outputs(quantized)
        stored = run(case, buffer)
        # `signature` holds the names to the user's.
        order = next(
            (names for names in (quantized.output_names, output_names(case.float)) if set(names) == set(stored)), stored
        )
        by_name = dict(zip(order, expected))
        for name, (found, own_scale) in stored.items():
            kept = by_name[name][: len(found)]
            scale = own_scale or (max(kept.max(), 0.0) - min(kept.min(), 0.0)) / 255
            error = float(np.abs(found - kept).max() / scale)
            assert error <= case.row.file_steps, f"{name} of the file differs by {error:.1f} steps\n{result}"
            other = float(np.mean(np.abs(found - kept) > 0.5 * scale))
            assert not own_scale or other <= case.row.codes, f"{other:.0%} of the codes of {name} differ\n{result}"
    if case.row.mapped and target == "edgetpu":
        left = [f"{o.operation}: {o.reason}" for o in tfmiaq.edgetpu.check(buffer).operations if not o.mapped]
        assert not left, f"not mapped: {left}"


def run(case: Case, buffer: bytes) -> dict[str, tuple[np.ndarray, float]]:
    """The outputs of a file for the first records, by nothing but `tf.lite.Interpreter`.

    Never another batch than the file's own. Returns by output name the values and their scale, 0 for floats.
    """
    interpreter = tf.lite.Interpreter(model_content=buffer)
    runner = interpreter.get_signature_runner()
    inputs, outs = runner.get_input_details(), runner.get_output_details()
    user = input_names(case.float)
    arrays = case.x if isinstance(case.x, dict) else dict(zip(user, case.x if isinstance(case.x, list) else [case.x]))
    metadata = tfmiaq.tflite.read_metadata(buffer) or {}
    arrays = {name: _prepared(arrays[name], inputs[name], metadata, name) for name in inputs}
    signature = next(iter(inputs.values()))["shape_signature"]
    batch = int(signature[0]) if signature[0] > 0 else 1
    parts: dict[str, list[np.ndarray]] = {name: [] for name in outs}
    for start in range(0, max(batch, FILE_RECORDS), batch):
        feed = {name: array[start : start + batch] for name, array in arrays.items()}
        if len(next(iter(feed.values()))) < batch:
            break
        for name, value in runner(**feed).items():
            scale, zero_point = outs[name]["quantization"]
            parts[name].append((value.astype(np.float32) - zero_point) * scale if scale else value)
    return {name: (np.concatenate(found), float(outs[name]["quantization"][0])) for name, found in parts.items()}


def _prepared(array: np.ndarray, details: dict[str, Any], metadata: dict[str, Any], name: str) -> np.ndarray:
    known = (metadata.get("normalization") or {}).get(name)
    if known is not None:
        array = array * np.asarray(known["scale"], np.float32) + np.asarray(known["offset"], np.float32)
    scale, zero_point = details["quantization"]
    kind = details["dtype"]
    if scale and np.issubdtype(kind, np.integer):
        limits = np.iinfo(kind)
        array = np.clip(np.round(array / scale) + zero_point, limits.min, limits.max)
    return np.asarray(array).astype(kind)


def file_mobile(case: Case) -> None:
    """The mobile file is exact, and its outputs are the quantized model's."""
    _file(case, "mobile")


def file_edgetpu(case: Case) -> None:
    """The Edge TPU file is exact, and its outputs are the quantized model's."""
    _file(case, "edgetpu")


def signature(case: Case) -> None:
    """The file's signature has the user's names."""
    for target in case.row.targets:
        runner = tf.lite.Interpreter(model_content=case.buffer(target)).get_signature_runner()
        assert sorted(runner.get_input_details()) == sorted(input_names(case.float))
        assert sorted(runner.get_output_details()) == sorted(output_names(case.float))


def accepted(case: Case) -> None:
    """`quantize_model` takes the model, or raises the one error that the row allows."""
    assert case.refused or case.quantized is not None


# What every row has; the quantized copy of a Keras 3 model is one of Keras 2, whose own row reloads it.
COMMON = (outputs, loss, trainable, training, names)
RELOADS = {"keras": reload_keras, "h5": reload_h5}
FILES = {"mobile": file_mobile, "edgetpu": file_edgetpu}


def properties_of(row: Situation, k: Any) -> list[Callable[[Case], None]]:
    """The properties that a row must have, as a model of a Keras module."""
    is_first = k is keras2
    # By turns, and by the name: a new row changes no other. Every second row does without.
    formats = row.reloads or tuple(RELOADS)[zlib.crc32(row.name.encode()) % 4 :][:1]
    reloads = [RELOADS[name] for name in formats] if row.common and is_first else []
    files = [FILES[target] for target in row.targets] if is_first or row.k3_files else []
    return [
        accepted,
        *(COMMON if row.common else ()),
        *reloads,
        *files,
        *([signature] if files else []),
        *row.checks,
    ]


def hold(case: Case, has: Callable[[Case], None]) -> None:
    """Asserts a property, or nothing where the row allows to refuse the model and that is what happened."""
    if not case.refused:
        has(case)


def rows(table: tuple[Situation, ...]) -> dict[str, tuple[Situation, Any]]:
    """Row and Keras module by the name of the test: those of Keras 3 come after those of Keras 2."""
    k3 = keras3()
    found = {row.name: (row, keras2) for row in table}
    if k3 is not None:
        found.update({f"K3 {row.name}": (row, k3) for row in table if row.k3})
    return found

"""Files of TFLite from outside: what they declare is checked before an interpreter is built; what is left may die."""

from __future__ import annotations

import os
import signal
import time

import flatbuffers
import numpy as np
import pytest
from tensorflow.lite.python import schema_py_generated as schema

import tfmiaq
from tfmiaq import cli
from tfmiaq._backend import keras
from tfmiaq.loading.tflite_files import check_tflite
from tfmiaq.tflite import flatbuffer, runtimes
from tfmiaq.tflite.interpreter import Interpreter


@pytest.fixture(scope="module")
def quantized():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(3, 3, padding="same"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    quantized = tfmiaq.quantize_model(model, tfmiaq.BitwidthPolicy.uniform(2, 4))
    tfmiaq.calibrate(quantized, records(32))
    return quantized


def records(count):
    return np.random.default_rng(0).normal(size=(count, 4, 4, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def good(quantized):
    """A file of another process: this one does not know it."""
    buffer = tfmiaq.convert(quantized)
    flatbuffer._OWN.discard(flatbuffer.hashlib.sha256(buffer).digest())
    return buffer


def changed(data, change):
    """Returns a file with its ModelT changed."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(data), 0))
    change(model, model.subgraphs[0])
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def set_shape(model, graph):
    graph.tensors[int(graph.operators[0].outputs[0])].shape = np.array([1, 2**30, 2**20], np.int32)
    graph.tensors[int(graph.operators[0].outputs[0])].shapeSignature = None


def read_own(model, graph):
    graph.operators[1].inputs[0] = graph.operators[1].outputs[0]


def cross(model, graph):
    one, two = graph.operators[1], graph.operators[2]
    one.inputs[0], two.outputs[0] = two.outputs[0], one.outputs[0]


def swap(model, graph):
    graph.operators[0], graph.operators[-1] = graph.operators[-1], graph.operators[0]


def constant(model, graph):
    """Returns the first constant."""
    return next(tensor for tensor in graph.tensors if model.buffers[tensor.buffer].data is not None)


def call_itself(model, graph):
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.WHILE
    model.operatorCodes[graph.operators[1].opcodeIndex] = code
    graph.operators[1].builtinOptionsType = schema.BuiltinOptions.WhileOptions
    graph.operators[1].builtinOptions = schema.WhileOptionsT()


CHANGES = {
    "an operation reads its own output": (read_own, r"reads tensor \d+ before it is written"),
    "two read one another's": (cross, r"reads tensor \d+ before it is written"),
    "another order": (swap, r"before it is written|no operation of graph 0 writes its output"),
    "a huge tensor": (set_shape, r"declares tensors of 1,125,[\d,]+ bytes in memory"),
    "a negative size": (lambda m, g: g.tensors[0].shape.__setitem__(-1, -5), r"tensor 0 of graph 0 has shape"),
    "a buffer too small": (
        lambda m, g: constant(m, g).shape.__setitem__(0, 400),
        r"takes [\d,]+ bytes, and its buffer has|scales along",
    ),
    "a buffer that is not there": (lambda m, g: setattr(g.tensors[1], "buffer", 999), "has buffer 999 of"),
    "a type that is none": (lambda m, g: setattr(g.tensors[1], "type", 99), "has type 99"),
    "an input beyond": (lambda m, g: g.operators[0].inputs.__setitem__(0, 999), "name tensors beyond"),
    "an output beyond": (lambda m, g: g.operators[0].outputs.__setitem__(0, 999), "name tensors beyond"),
    "a missing input": (lambda m, g: g.operators[0].inputs.__setitem__(0, -1), "no tensor for an input that it needs"),
    "a constant that is written": (
        lambda m, g: g.operators[0].outputs.__setitem__(0, g.tensors.index(constant(m, g))),
        "which is written already",
    ),
    "a code beyond": (lambda m, g: setattr(g.operators[0], "opcodeIndex", 99), "has code 99 of"),
    "a graph that runs itself": (call_itself, r"graph 0 runs itself"),
    "an infinite scale": (
        lambda m, g: g.tensors[0].quantization.__setattr__("scale", np.array([np.inf], np.float32)),
        r"none that is finite",
    ),
    "a signature of another graph": (lambda m, g: setattr(m.signatureDefs[0], "subgraphIndex", 7), "of graph 7 of 1"),
    "metadata of no buffer": (lambda m, g: setattr(m.metadata[0], "buffer", 77), "has buffer 77"),
    "another version": (lambda m, g: setattr(m, "version", 4), "its version is 4"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_contradicts_itself_is_refused_before_an_interpreter_is_built(case, good, monkeypatch):
    change, expected = CHANGES[case]
    monkeypatch.setattr(runtimes.InChild, "__init__", lambda *given: pytest.fail("an interpreter was built"))
    with pytest.raises(ValueError, match=expected) as raised:
        Interpreter(changed(good, change))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_a_file_that_is_cut_anywhere_is_damaged(good):
    assert check_tflite(good) is None
    cuts = np.unique(np.linspace(8, len(good) - 1, 60).astype(int))
    outcomes = []
    for cut in cuts:
        try:
            check_tflite(good[:cut])
        except ValueError as error:
            outcomes.append(str(error))
    assert len(outcomes) > len(cuts) - 3 and all(text.startswith("damaged .tflite: ") for text in outcomes)


def test_bits_that_are_flipped_never_raise_another_error(good):
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        data = np.frombuffer(good, np.uint8).copy()
        places = generator.integers(0, len(data), 4)
        data[places] = generator.integers(0, 256, 4)
        try:
            check_tflite(data.tobytes())
        except ValueError:
            refused += 1
    assert 50 < refused < 300


def test_parts_that_overlap_without_end_are_refused(good):
    builder = flatbuffers.Builder(1024)
    builder.StartVector(4, 5000, 4)
    for _ in range(5000):
        builder.PrependInt32(1)
    shape = builder.EndVector()
    schema.TensorStart(builder)
    schema.TensorAddShape(builder, shape)
    tensor = schema.TensorEnd(builder)
    builder.StartVector(4, 5000, 4)
    for _ in range(5000):
        builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    graph = schema.SubGraphEnd(builder)
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    start = time.process_time()
    with pytest.raises(ValueError, match="its parts overlap"):
        check_tflite(bytes(builder.Output()))
    assert time.process_time() - start < 20


def test_the_limit_is_of_tensors_in_memory(good):
    with pytest.raises(ValueError, match=r"declares tensors of [\d,]+ bytes in memory, above the limit of 100\."):
        check_tflite(good, max_bytes=100)


def test_files_from_outside_run_in_a_child_and_give_the_same(good, quantized):
    x = records(300)
    outside, inside = Interpreter(good), Interpreter(good, isolated=False)
    assert outside.isolated and not inside.isolated
    np.testing.assert_array_equal(outside.predict(x, 64), inside.predict(x, 64))
    assert [t["name"] for t in outside.tensor_details()] == [t["name"] for t in inside.tensor_details()]
    assert not Interpreter(tfmiaq.convert(quantized)).isolated


def test_a_fixed_batch_goes_to_the_child_in_one_piece(quantized, monkeypatch):
    buffer = tfmiaq.convert(quantized, "edgetpu")
    outside, inside = Interpreter(buffer, isolated=True), Interpreter(buffer)
    calls = []
    run = runtimes.InChild.run
    monkeypatch.setattr(runtimes.InChild, "run", lambda self, *given: calls.append(1) or run(self, *given))
    np.testing.assert_array_equal(outside.predict(records(50), 25), inside.predict(records(50), 25))
    assert len(calls) == 2


def test_an_interpreter_that_dies_costs_one_error(good):
    interpreter = Interpreter(good, isolated=True)
    os.kill(interpreter._runtime._process.pid, signal.SIGSEGV)
    with pytest.raises(ValueError, match=r"^damaged \.tflite: the interpreter dies \(SIGSEGV\) when it is run\.$"):
        interpreter.predict(records(2))


def test_an_interpreter_that_never_ends_is_ended(good):
    interpreter = Interpreter(good, isolated=True, timeout=0.5)
    process = interpreter._runtime._process
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(ValueError, match=r"does not end within 0\.5 s"):
        interpreter.predict(records(2))
    assert process.wait(10) == -signal.SIGKILL


def test_a_child_ends_with_its_interpreter(good):
    interpreter = Interpreter(good, isolated=True)
    process = interpreter._runtime._process
    del interpreter
    assert process.wait(10) is not None


@pytest.mark.parametrize("model", [5, None, ["model.tflite"]])
def test_what_is_no_file_is_named(model):
    with pytest.raises(TypeError, match=r"Expected the bytes or the path of a \.tflite"):
        Interpreter(model)


def test_metadata_that_is_no_object_is_damaged(good):
    for text in (b"[1]", b"{", b"\xff", b"[" * 5000):

        def change(model, graph, text=text):
            (own,) = [entry for entry in model.metadata if entry.name == b"tfmiaq"]
            model.buffers[own.buffer].data = np.frombuffer(text, np.uint8)

        with pytest.raises(ValueError, match=r"damaged \.tflite: its metadata"):
            tfmiaq.tflite.read_metadata(changed(good, change))


def test_the_command_line_tells_one_line(good, tmp_path, capsys):
    for name, data in {"cut": good[:500], "own": changed(good, read_own), "text": b"no model", "empty": b""}.items():
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(data)
        with pytest.raises(SystemExit) as left:
            cli.main(["check", str(path)])
        printed = capsys.readouterr().err
        assert left.value.code == 2 and printed.count("\n") == 1 and str(path) in printed
        assert ("damaged .tflite" in printed) == (name in ("cut", "own"))

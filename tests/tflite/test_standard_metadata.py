"""TensorFlow Lite's standard metadata, read by a reader of its own: slots of metadata_schema.fbs, and a zip archive."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from flatbuffers import number_types
from flatbuffers.table import Table

import tfmiaq
from tfmiaq._backend import keras, tf
from tfmiaq.tflite import associated_files
from tfmiaq.tflite.flatbuffer import read_model

# The tables of the schema as far as they are used: fields in their order, with what they hold. A union's type is a
# field in front of it.
_FILE = {"name": "text", "description": "text", "type": "byte"}
_SIZE = {"width": "uint", "height": "uint"}
_CONTENT = {"properties_type": "byte", "properties": {"color_space": "byte", "default_size": _SIZE}, "range": {}}
_UNIT = {"options_type": "byte", "options": {"mean": "floats", "std": "floats"}}
_TENSOR = {
    **{"name": "text", "description": "text", "dimension_names": "skip", "content": _CONTENT, "process_units": [_UNIT]},
    **{"stats": {"max": "floats", "min": "floats"}, "associated_files": [_FILE]},
}
_GRAPH = {"name": "text", "description": "text", "inputs": [_TENSOR], "outputs": [_TENSOR]}
_MODEL = {
    **{"name": "text", "description": "text", "version": "text", "graphs": [_GRAPH], "author": "text"},
    **{"license": "text", "associated_files": [_FILE], "parser": "text"},
}
LABELS = ["cat", "dog", "röv"]


def _read(table, schema):
    found = {}
    for slot, (name, kind) in enumerate(schema.items()):
        place = table.Offset(4 + 2 * slot)
        if not place or kind == "skip":
            continue
        at = table.Pos + place
        if kind == "text":
            found[name] = table.String(at).decode()
        elif kind == "byte":
            found[name] = table.Get(number_types.Uint8Flags, at)
        elif kind == "uint":
            found[name] = table.Get(number_types.Uint32Flags, at)
        elif kind == "floats":
            found[name] = table.GetVectorAsNumpy(number_types.Float32Flags, place).tolist()
        elif isinstance(kind, list):
            start = table.Vector(place)
            parts = [table.Indirect(start + 4 * index) for index in range(table.VectorLen(place))]
            found[name] = [_read(Table(table.Bytes, part), kind[0]) for part in parts]
        else:
            found[name] = _read(Table(table.Bytes, table.Indirect(at)), kind)
    return found


def standard(buffer):
    """Returns the standard metadata of a file."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(buffer, 0)
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    (entry,) = [entry for entry in entries if entry.Name() == b"TFLITE_METADATA"]
    data = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    assert data[4:8] == b"M001"
    return _read(Table(bytearray(data), int.from_bytes(data[:4], "little")), _MODEL)


def labels_of(buffer):
    """Returns the lines of the file of labels, which lies uncompressed in an archive behind the model."""
    with zipfile.ZipFile(io.BytesIO(buffer)) as archive:
        (member,) = archive.infolist()
        assert member.filename == "labels.txt" and member.compress_type == zipfile.ZIP_STORED
        return archive.read(member).decode().splitlines()


@pytest.fixture(scope="module")
def calibrated():
    """A small quantized model of images whose first layer scales bytes, and records."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((6, 5, 3), name="pixels")
    x = layers.Conv2D(2, 3, activation="relu", name="conv")(layers.Rescaling(1 / 127.5, -1.0, name="scale")(inputs))
    outputs = layers.Dense(3, name="logits")(layers.Flatten(name="flat")(x))
    model = tfmiaq.quantize_model(keras.Model(inputs, outputs, name="animals"))
    records = np.random.default_rng(0).uniform(0, 255, (32, 6, 5, 3)).astype(np.float32)
    return tfmiaq.calibrate(model, records, rounding="nearest"), records


ENDS = {"float": ("mobile", None), "int8": ("mobile", "int8"), "uint8": ("mobile", "uint8"), "edge": ("edgetpu", None)}


@pytest.fixture(scope="module", params=ENDS)
def made(request, calibrated):
    """The kind of ends, and the file."""
    target, io_type = ENDS[request.param]
    return request.param, tfmiaq.convert(calibrated[0], target, io_type=io_type, labels=LABELS)


def test_readers_find_labels_and_normalization(made):
    kind, buffer = made
    found = standard(buffer)
    assert (found["name"], found["parser"], found["version"]) == ("animals", "1.0.0", tfmiaq.__version__)
    (graph,) = found["graphs"]
    (taken,), (given,) = graph["inputs"], graph["outputs"]
    assert taken["name"] == "pixels" and given["name"] == "logits"
    assert taken["content"]["properties"] == {"color_space": 1, "default_size": {"width": 5, "height": 6}}
    # (value - mean) / std: the float file scales by itself.
    mean, std = (0.0, 1.0) if kind == "float" else (127.5, 127.5)
    (unit,) = taken["process_units"]
    assert unit["options_type"] == 1
    assert (unit["options"]["mean"], unit["options"]["std"]) == (pytest.approx([mean]), pytest.approx([std]))
    (file,) = given["associated_files"]
    assert (file["name"], file["type"]) == ("labels.txt", 2)
    assert labels_of(buffer) == LABELS == tfmiaq.tflite.read_metadata(buffer)["labels"]


def test_stats_are_the_ends_of_the_codes(made):
    kind, buffer = made
    interpreter = tf.lite.Interpreter(model_content=buffer)
    sides = (("inputs", interpreter.get_input_details()), ("outputs", interpreter.get_output_details()))
    for side, (details,) in sides:
        (tensor,) = standard(buffer)["graphs"][0][side]
        assert ("stats" in tensor) == (kind != "float")
        if "stats" in tensor:
            scale, zero = details["quantization"]
            info = np.iinfo(details["dtype"])
            ends = [[(code - zero) * scale] for code in (info.max, info.min)]
            assert [tensor["stats"]["max"], tensor["stats"]["min"]] == [pytest.approx(end, rel=1e-5) for end in ends]


def test_the_file_is_whole_and_runs_everywhere(made, calibrated):
    kind, buffer = made
    model, records = calibrated
    assert read_model(buffer) == buffer and tfmiaq.verify(model, buffer, records).exact
    interpreter = tf.lite.Interpreter(model_content=buffer)
    expected = {"float": np.float32, "int8": np.int8, "uint8": np.uint8, "edge": np.int8}[kind]
    ends = (*interpreter.get_input_details(), *interpreter.get_output_details())
    assert {details["dtype"] for details in ends} == {expected}
    pytest.importorskip("ai_edge_litert")
    outputs = [tfmiaq.tflite.Interpreter(buffer, runtime=name).predict(records) for name in ("tensorflow", "litert")]
    np.testing.assert_allclose(*outputs, atol=float(np.ptp(outputs[0])) / 100)


def test_the_same_model_is_the_same_file(calibrated):
    one, other = (tfmiaq.convert(calibrated[0], labels=LABELS, check=False) for _ in range(2))
    assert one == other


@pytest.mark.parametrize(("labels", "lines"), [(["well", "ill"], ["ill"]), (["ill"], ["ill"])])
def test_one_unit_may_name_both_of_its_classes(labels, lines):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")])
    quantized = tfmiaq.quantize_model(model)
    tfmiaq.calibrate(quantized, np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32), verbose=False)
    buffer = tfmiaq.convert(quantized, labels=labels, check=False)
    assert labels_of(buffer) == lines and tfmiaq.tflite.read_metadata(buffer)["labels"] == labels
    with pytest.raises(ValueError, match="Expected 2 or 1 labels, one for each class"):
        tfmiaq.convert(quantized, labels=["a", "b", "c"], check=False)


def test_labels_stay_behind_a_file_that_is_written_again(calibrated):
    buffer = tfmiaq.convert(calibrated[0], labels=LABELS, pack=True, check=False)
    again = tfmiaq.tflite.write_metadata(buffer, {"a": 1})
    assert labels_of(again) == LABELS and standard(again) == standard(buffer)
    assert tfmiaq.tflite.read_metadata(again) == {"a": 1}
    without = tfmiaq.convert(calibrated[0], check=False)
    assert not zipfile.is_zipfile(io.BytesIO(without)) and "associated_files" not in str(standard(without))


def test_an_archive_that_is_damaged_is_told(calibrated):
    buffer = bytearray(tfmiaq.convert(calibrated[0], labels=LABELS, check=False))
    buffer[buffer.rindex(b"cat\ndog")] ^= 1
    with pytest.raises(ValueError, match=r"The archive behind the \.tflite is damaged"):
        associated_files.read_files(bytes(buffer))
    with pytest.raises(ValueError, match=r"The archive behind the \.tflite is damaged"):
        tfmiaq.tflite.write_metadata(bytes(buffer), {})


def test_an_input_that_nothing_scales_says_nothing_of_it():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)])
    quantized = tfmiaq.calibrate(tfmiaq.quantize_model(model), np.random.default_rng(0).normal(size=(20, 3)))
    (tensor,) = standard(tfmiaq.convert(quantized, check=False))["graphs"][0]["inputs"]
    assert "process_units" not in tensor and tensor["content"]["properties_type"] == 1


def test_ends_that_stay_float_cannot_be_integers(calibrated):
    policy = tfmiaq.BitwidthPolicy(layers={"conv": tfmiaq.LayerBits(None, None)})
    model = keras.Sequential([keras.Input((6, 5, 3)), keras.layers.Conv2D(2, 3, name="conv"), keras.layers.Flatten()])
    model.add(keras.layers.Dense(3))
    quantized = tfmiaq.calibrate(tfmiaq.quantize_model(model, policy), calibrated[1], rounding="nearest")
    with pytest.raises(ValueError, match=r"which cannot be int8\. Give these layers 8 bits"):
        tfmiaq.convert(quantized, io_type="int8")
    with pytest.raises(ValueError, match="labels of one line each"):
        tfmiaq.convert(quantized, labels=["a\nb", "c", "d"])

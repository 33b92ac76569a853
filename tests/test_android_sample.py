"""The Android sample: its integer ends beside those of Python, and what it expects of a file."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

SAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "android"
SOURCES = SAMPLE / "app" / "src" / "main" / "kotlin" / "org" / "tfmiaq" / "sample"
MAIN = """
import org.tfmiaq.sample.End
import org.tfmiaq.sample.Kind
import org.tfmiaq.sample.Normalization

fun main(arguments: Array<String>) {
    val end = End(Kind.valueOf(arguments[0]), arguments[1].toFloat(), arguments[2].toInt())
    val numbers = generateSequence(::readLine).map { it.toFloat() }.toList().toFloatArray()
    Normalization(floatArrayOf(2f), floatArrayOf(4f)).apply(numbers)
    val buffer = end.buffer(numbers.size)
    end.write(numbers, buffer)
    val codes = if (end.kind == Kind.FLOAT) List(numbers.size) { 0 } else List(numbers.size) { buffer.get().toInt() }
    for ((code, number) in codes.zip(end.read(buffer, numbers.size).toList())) println("$code $number")
}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("kotlinc") is None, reason="kotlinc compiles the sample")
def test_integer_ends_are_those_of_python(tmp_path):
    (tmp_path / "Main.kt").write_text(MAIN)
    command = ["kotlinc", "-nowarn", "-include-runtime", "-d", str(tmp_path / "main.jar")]
    subprocess.run([*command, str(SOURCES / "End.kt"), str(tmp_path / "Main.kt")], check=True, capture_output=True)
    numbers = np.random.default_rng(0).normal(0, 8, 200).astype(np.float32)
    normalized = (numbers - 2) / np.float32(4)
    for kind, low, high, zero in (("INT8", -128, 127, -3), ("UINT8", 0, 255, 128), ("FLOAT", 0, 0, 0)):
        run = ["java", "-cp", str(tmp_path / "main.jar"), "MainKt", kind, "0.03", str(zero)]
        text = "\n".join(str(number) for number in numbers)
        done = subprocess.run(run, input=text, capture_output=True, text=True, check=True)
        codes, read = np.array([line.split() for line in done.stdout.splitlines()], float).T
        if kind == "FLOAT":
            np.testing.assert_allclose(read, normalized, rtol=1e-6)
            continue
        expected = np.clip(np.round(normalized.astype(float) / 0.03) + zero, low, high)
        np.testing.assert_array_equal(codes.astype(np.int8), expected.astype(int).astype(np.int8))
        np.testing.assert_allclose(read, (expected - zero) * 0.03, rtol=1e-5, atol=1e-6)


def test_the_sample_reads_what_convert_writes():
    from tfmiaq.tflite.standard_metadata import LABELS_FILE

    classifier = (SOURCES / "Classifier.kt").read_text()
    assert f'getAssociatedFile("{LABELS_FILE}")' in classifier
    gradle = (SAMPLE / "app" / "build.gradle.kts").read_text()
    assert 'noCompress += "tflite"' in gradle
    assert re.search(r"com\.google\.ai\.edge\.litert:litert:2\.\d", gradle), "packed files take LiteRT 2.1 or later"

"""Notes of C++ code stay off the terminal; errors and other threads' lines do not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings

import pytest

from tfmiaq.tflite.quiet import quiet, without_notes

SUMMARY = b"""Summary on the non-converted ops:
---------------------------------
 * Accepted dialects: tfl, builtin, func
 * Non-Converted Ops: 12, Total Ops 74, % non-converted = 16.22 %
 * 12 ARITH ops

- arith.constant:   12 occurrences  (i64: 1, f32: 5, i32: 6)



  (f32: 3)
  (uq_8: 2, uq_32: 1)
"""


def test_the_summary_and_notes_are_left_out_and_errors_stay():
    notes = SUMMARY + b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n"
    notes += b"2026-01-02 03:04:05.678901: W tensorflow/compiler/mlir/lite/python/tf_tfl_flatbuffer_helpers.cc:378] x\n"
    assert without_notes(notes) == b""
    error = b"error: 'tf.Foo' op is neither a custom op nor a flex op\nTraceback (most recent call last):\n\n  x\n"
    assert without_notes(SUMMARY + error + SUMMARY + error) == error + error
    assert without_notes(b"  (f32: 3)\n - mine\n") == b"  (f32: 3)\n - mine\n"


def test_what_is_written_within_comes_out_behind(capfd):
    with quiet():
        os.write(2, SUMMARY + b"kept\n")
        print("an error", file=sys.stderr)
        print("printed")
    out, err = capfd.readouterr()
    assert out == "printed\n"
    assert sorted(err.splitlines()) == ["an error", "kept"]
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_an_exception_ends_it(capfd):
    with pytest.raises(RuntimeError, match="lost"), quiet():
        os.write(2, SUMMARY)
        raise RuntimeError("lost")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_threads_are_quiet_together(capfd):
    import logging

    logger = logging.getLogger("tensorflow")
    level, begun, end = logger.level, threading.Barrier(5), threading.Barrier(5)

    def work(index):
        begun.wait()
        for _ in range(20):
            with quiet():
                os.write(2, SUMMARY)
                os.write(2, b"line %d\n" % index)
        end.wait()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    begun.wait()
    end.wait()
    for thread in threads:
        thread.join()
    assert logger.level == level
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines) == sorted(f"line {index}" for index in range(4) for _ in range(20))
    with pytest.warns(UserWarning, match="told"):
        warnings.warn("told", UserWarning, stacklevel=1)


def test_a_conversion_prints_nothing():
    code = (
        "import numpy as np, tfmiaq; layers = tfmiaq.keras.layers;"
        "m = tfmiaq.keras.Sequential([tfmiaq.keras.Input((8, 8, 1)), layers.Conv2D(4, 3, activation='relu'),"
        "layers.GlobalAveragePooling2D(), layers.Dense(4)]); q = tfmiaq.quantize_model(m);"
        "q(np.ones((4, 8, 8, 1), 'float32'), training=True); print('BEGIN', flush=True);"
        "import sys; sys.stderr.write('BEGIN'); sys.stderr.flush(); tfmiaq.convert(q)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.partition("BEGIN")[2].strip() == ""
    assert done.stderr.partition("BEGIN")[2].strip() == ""

"""Every family of keras.applications: quantized, trained for a step, saved, loaded, converted, run and verified.

    python benchmarks/applications.py
    python benchmarks/applications.py --only=MobileNetV2,ResNet50

Weights are random, inputs the smallest that the architecture takes, widths the narrowest that it has an argument for.
Rows are written as they come; finished ones are not done again unless --overwrite is given.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings
from typing import Any

from absl import app, flags
from tqdm import tqdm

# Constructor, size of the input, and arguments that make it narrow.
MODELS: dict[str, tuple[int, dict[str, Any]]] = {
    "MobileNet": (32, {"alpha": 0.25}),
    "MobileNetV2": (32, {"alpha": 0.35}),
    "MobileNetV3Small": (32, {"minimalistic": False}),
    "MobileNetV3Large": (32, {"minimalistic": False}),
    "ResNet50": (32, {}),
    "ResNet50V2": (32, {}),
    "VGG16": (32, {}),
    "InceptionV3": (75, {}),
    "Xception": (71, {}),
    "DenseNet121": (32, {}),
    "EfficientNetB0": (32, {}),
    "EfficientNetV2B0": (32, {}),
    "NASNetMobile": (32, {}),
    "ConvNeXtTiny": (32, {}),
}
ONLY = flags.DEFINE_list("only", [], f"Some of {', '.join(MODELS)}; all if not given.")
RESULTS = flags.DEFINE_string("results", "benchmarks/applications.json", "Result file.")
TABLE = flags.DEFINE_string("table", "docs/applications.md", "Markdown table, written at the end.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Do finished rows again.")
_ROW = flags.DEFINE_string("row", None, "Does one row and prints it as JSON; used by the script itself.")

flags.register_validator(
    "only", lambda names: set(names) <= set(MODELS), message=f"expected some of {', '.join(MODELS)}"
)


def _stage(row: dict[str, Any], name: str, do: Any) -> Any:
    """Runs a stage; its failure is the row's outcome, in the words of whoever refused."""
    started = time.perf_counter()
    try:
        result = do()
    except Exception as error:
        row[name] = {"ok": False, "error": f"{type(error).__name__}: {error}"[:1500]}
        return None
    row[name] = {"ok": True, "seconds": round(time.perf_counter() - started, 1)}
    return result


def one(name: str) -> dict[str, Any]:
    """The row of one architecture."""
    import numpy as np

    import tfmiaq

    keras = tfmiaq.keras
    keras.utils.set_random_seed(0)
    warnings.simplefilter("ignore")
    size, arguments = MODELS[name]
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10, **arguments)
    x = np.random.default_rng(0).uniform(0, 255, (16, size, size, 3)).astype(np.float32)
    y: np.ndarray = np.arange(16) % 10
    row: dict[str, Any] = {
        "model": name,
        "input": size,
        "parameters": model.count_params(),
        "layers": len(model.layers),
    }
    quantized = _stage(row, "quantize", lambda: tfmiaq.quantize_model(model))
    if quantized is None:
        return row
    rows = tfmiaq.summary(quantized).layers
    plan = tfmiaq.summary(model).layers
    row["kernels"] = sum(r.weight_bits is not None for r in rows)
    row["float_layers"] = {r.name: f"{r.kind}: {r.note}" for r in plan if r.note}
    quantized.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy")
    _stage(row, "train", lambda: quantized.fit(x, y, batch_size=8, epochs=1, verbose=0))

    def through_a_file(saved: Any, load: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = str(pathlib.Path(folder) / "model.keras")
            saved.save(path)
            return load(path)

    def save_and_load() -> None:
        loaded = through_a_file(quantized, tfmiaq.load_model)
        np.testing.assert_array_equal(loaded.predict(x[:4], verbose=0), quantized.predict(x[:4], verbose=0))

    _stage(row, "save_and_load", save_and_load)
    if not row["save_and_load"]["ok"]:
        # Whose limit is it? Keras cannot load every model of its own.
        _stage(row, "float_save_and_load", lambda: through_a_file(model, keras.models.load_model))
    for target in ("mobile", "edgetpu"):
        buffer = _stage(row, target, lambda target=target: tfmiaq.convert(quantized, target, check=False))
        if buffer is None:
            continue
        result = _stage(row, f"{target}_verify", lambda buffer=buffer: tfmiaq.verify(quantized, buffer, x))
        if result is not None:
            row[f"{target}_verify"].update(
                {
                    "exact_levels": result.exact,
                    "inexact": [f"{level.name} {level.tensor}" for level in result.layers if not level.exact],
                    "agreement": result.agreement,
                    "largest_difference": result.largest_difference,
                }
            )
        row[f"{target}_bytes"] = len(buffer)
    return row


def _outcome(row: dict[str, Any], target: str) -> str:
    for stage in ("quantize", "train", target):
        if not row.get(stage, {}).get("ok"):
            return f"no: {stage}"
    verified = row[f"{target}_verify"]
    if not verified["ok"]:
        return "no: run"
    return "exact" if verified["exact_levels"] else f"levels differ in {len(verified['inexact'])}"


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| model | kernels | stay float | save, load | mobile | labels agree | largest difference | edgetpu |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes = []
    for name, row in rows.items():
        floats = {reason for reason in row.get("float_layers", {}).values() if "preprocessing" not in reason}
        verified = row.get("mobile_verify", {})
        agreement, difference = (verified.get(key) for key in ("agreement", "largest_difference"))
        lines.append(
            f"| {name} | {row.get('kernels', '-')} | {len(row.get('float_layers', {}))} | "
            f"{'yes' if row.get('save_and_load', {}).get('ok') else 'no'} | {_outcome(row, 'mobile')} | "
            f"{'-' if agreement is None else f'{agreement:.3f}'} | "
            f"{'-' if difference is None else f'{difference:.4f}'} | {_outcome(row, 'edgetpu')} |"
        )
        if floats:
            notes.append(f"- {name}, float: {'; '.join(sorted(floats))}.")
        for stage, value in row.items():
            if isinstance(value, dict) and value.get("ok") is False:
                notes.append(f"- {name}, {stage}: {value['error'].splitlines()[0]}")
    return "\n".join([*lines, "", *notes]) + "\n"


def main(argv: list[str]) -> None:
    del argv
    if _ROW.value:
        print(json.dumps(one(_ROW.value)))
        return
    results = pathlib.Path(RESULTS.value)
    rows = json.loads(results.read_text())["rows"] if results.is_file() else {}
    wanted = ONLY.value or list(MODELS)
    todo = [name for name in wanted if OVERWRITE.value or name not in rows]
    with tqdm(todo) as bar:
        for name in bar:
            bar.set_postfix_str(name)
            # A process for each, so that the memory of one is not the next one's.
            command = [sys.executable, __file__, f"--row={name}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
            rows[name] = json.loads(done.stdout.splitlines()[-1])
            rows = {key: rows[key] for key in MODELS if key in rows}
            text = json.dumps({"command": "python benchmarks/applications.py", "seed": 0, "rows": rows}, indent=1)
            results.write_text(text + "\n", encoding="utf-8")
    path = pathlib.Path(TABLE.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = (
        "Written by `python benchmarks/applications.py`: default policy, random weights, one epoch on 16 records. See "
        "in the table that every mobile file is exact. The outputs are probabilities in steps of 1/256; where all "
        "classes are about as likely, a step decides the label, so that labels may differ though the file is exact."
    )
    path.write_text(f"# keras.applications\n\n{head}\n\n{table(rows)}", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    app.run(main)

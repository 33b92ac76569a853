"""Wrong calls of the API: each costs one line that names the thing and the way out, before long work starts."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

import tfmiaq
from tfmiaq import signals
from tfmiaq._backend import keras


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What right calls are made of; nothing is trained."""
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("given")
    x = generator.normal(size=(60, 4, 4, 1)).astype(np.float32)
    y = np.arange(60) % 3
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    quantized = tfmiaq.quantize_model(model)
    calibrated = tfmiaq.quantize_model(model)
    tfmiaq.calibrate(calibrated, x)
    (folder / "empty.npz").write_bytes(b"")
    (folder / "text.json").write_text("no report")
    np.savez(folder / "words.npz", x_train=["a"], y_train=["b"], x_test=["c"], y_test=["d"])
    scores, classes = generator.normal(size=(60, 3)), (None, y[:30])
    report = tfmiaq.audit((scores[:30], scores[30:]), classes, classes, ["confidence"], verbose=False)
    return SimpleNamespace(
        report=report,
        **{"x": x, "y": y, "set": (x, y), "model": model, "quantized": quantized, "calibrated": calibrated},
        **{"folder": folder, "file": tfmiaq.convert(calibrated), "policy": tfmiaq.BitwidthPolicy.mia_default()},
        train=lambda x, y: pytest.fail("a model was trained"),
        nan=float("nan"),
    )


SET = "given.set, given.set"
# Each call, and what its error says.
CALLS = {
    # Policies.
    "tfmiaq.LayerBits(0)": "weight to be an integer from 1 to 8",
    "tfmiaq.LayerBits(weight='2')": "weight to be an integer from 1 to 8",
    "tfmiaq.LayerBits(2, given.nan)": "activation to be an integer from 1 to 8",
    "tfmiaq.LayerBits(True)": "weight to be an integer from 1 to 8",
    "tfmiaq.OutputBits(9)": "bits to be an integer from 1 to 8",
    "tfmiaq.OutputBits(4, given.nan)": "clip to be a finite number above 0",
    "tfmiaq.BitwidthPolicy(2)": "BitwidthPolicy.default: Expected a LayerBits",
    "tfmiaq.BitwidthPolicy(layers=5)": "BitwidthPolicy.layers: Expected a mapping",
    "tfmiaq.BitwidthPolicy(layers=['ab', 'c'])": "BitwidthPolicy.layers: Expected a mapping",
    "tfmiaq.BitwidthPolicy(layers={'a': 4})": "BitwidthPolicy.layers['a']: Expected a LayerBits",
    "tfmiaq.BitwidthPolicy(layers={3: tfmiaq.LayerBits()})": "Expected names or globs as keys",
    "tfmiaq.BitwidthPolicy(first=8)": "BitwidthPolicy.first: Expected a LayerBits or None",
    "tfmiaq.BitwidthPolicy(output=4)": "BitwidthPolicy.output: Expected an OutputBits or None",
    "tfmiaq.BitwidthPolicy.uniform(9, 4)": "BitwidthPolicy.uniform: Expected weight",
    "tfmiaq.BitwidthPolicy.from_json(5)": "policy's JSON: Expected a text",
    "tfmiaq.BitwidthPolicy.from_json('{')": "policy's JSON: not JSON",
    "tfmiaq.BitwidthPolicy.from_json('[' * 100000)": "policy's JSON: nested too deep",
    "tfmiaq.BitwidthPolicy.from_json('[1]')": 'JSON object with "schema": 1',
    "tfmiaq.BitwidthPolicy.from_json('{\"schema\": 1}')": "lacks 'default'",
    "tfmiaq.BitwidthPolicy.from_json(given.policy.to_json().replace('layers', 'layrs'))": "Did you mean 'layers'?",
    "tfmiaq.BitwidthPolicy.from_json(given.policy.to_json().replace('weight', 'weigth', 1))": "Did you mean 'weight'?",
    "tfmiaq.BitwidthPolicy.from_json(given.policy.to_json().replace('[]', '[5]'))": "'layers' has 5",
    "tfmiaq.BitwidthPolicy.from_json(given.policy.to_json().replace('[]', '{}'))": "Expected 'layers' to be a list",
    "tfmiaq.BitwidthPolicy.from_json(given.policy.to_json().replace('null', '7'))": "'output'",
    # Models.
    "tfmiaq.quantize_model(None)": "quantize_model: Expected a keras.Model",
    "tfmiaq.quantize_model(given.model, 'w2a4')": "Expected a BitwidthPolicy",
    "tfmiaq.quantize_model(given.quantized)": "quantized already",
    "tfmiaq.set_policy(given.quantized, 2)": "set_policy: Expected a BitwidthPolicy",
    "tfmiaq.set_policy(given.model, given.policy)": "which has no quantized layer",
    "tfmiaq.get_policy(given.model)": "which has no quantized layer",
    "tfmiaq.get_policy(5)": "Expected a model from tfmiaq.quantize_model. Received int",
    "tfmiaq.summary(5)": "Expected a keras.Model",
    "tfmiaq.calibrate(given.quantized, given.x[:3])": "calibrate: Expected at least",
    "tfmiaq.calibrate(given.quantized, given.x[..., 0])": "calibrate",
    "tfmiaq.calibrate(given.model, given.x)": "which has no quantized layer",
    "tfmiaq.calibrate(given.quantized, None)": "calibrate",
    "tfmiaq.calibrate(given.quantized, 'records')": "calibrate",
    "tfmiaq.load_model('none.keras')": "No model at 'none.keras'",
    "tfmiaq.load_model(None)": "Expected the path of a model",
    "tfmiaq.load_model(given.folder / 'text.json')": "no Keras model",
    "tfmiaq.load_model('x.keras', trust='yes')": "Expected trust to be True or False",
    "tfmiaq.load_model('x.keras', max_bytes=0)": "Expected max_bytes to be an integer of at least 1",
    # Files.
    "tfmiaq.convert(given.model)": "which has no quantized layer",
    "tfmiaq.convert(5)": "Expected a model from tfmiaq.quantize_model. Received int",
    "tfmiaq.convert(given.quantized)": "calibrate",
    "tfmiaq.convert(given.calibrated, 'mobil')": "Did you mean 'mobile'?",
    "tfmiaq.convert(given.calibrated, audit={})": "convert: Expected audit to be a report",
    "tfmiaq.convert(given.calibrated, labels=['a'])": "labels",
    "tfmiaq.convert(given.calibrated, labels='abc')": "labels",
    "tfmiaq.convert(given.calibrated, io_type='int4')": "io_type",
    "tfmiaq.convert(given.calibrated, input_shape=(3, 3))": "input_shape",
    "tfmiaq.verify(given.calibrated, given.file, given.x[:0])": "Expected at least one record",
    "tfmiaq.verify(given.calibrated, 5, given.x)": "Expected the bytes or the path of a .tflite",
    "tfmiaq.verify(given.model, given.file, given.x)": "which has no quantized layer",
    "tfmiaq.verify(given.calibrated, given.file, None)": "verify",
    "tfmiaq.tflite.Interpreter(5)": "Expected the bytes or the path of a .tflite",
    "tfmiaq.tflite.Interpreter('none.tflite')": "No .tflite file at 'none.tflite'",
    "tfmiaq.tflite.Interpreter(b'no model')": "no TFLite model",
    "tfmiaq.tflite.Interpreter(given.file, runtime='tensorflw')": "Did you mean 'tensorflow'?",
    "tfmiaq.tflite.Interpreter(given.file, threads=0)": "threads to be an integer of at least 1",
    "tfmiaq.tflite.Interpreter(given.file, timeout=given.nan)": "timeout to be a finite number above 0",
    "tfmiaq.tflite.Interpreter(given.file, isolated='no')": "isolated to be True, False or None",
    "tfmiaq.tflite.Interpreter(given.file).predict(given.x, batch_size=0)": "batch_size to be an integer of at least 1",
    "tfmiaq.tflite.Interpreter(given.file).predict(given.x[:, :2])": "takes records of shape (4, 4, 1)",
    "tfmiaq.tflite.Interpreter(given.file).predict(None)": "takes records of shape (4, 4, 1)",
    "tfmiaq.tflite.Interpreter(given.file).predict(given.x[:0])": "Expected at least one record",
    "tfmiaq.tflite.Interpreter(given.file).predict({'other': given.x})": "predict: Expected records of",
    "tfmiaq.tflite.Interpreter(given.file).predict([given.x, given.x])": "The model has 1 inputs. Received 2 arrays",
    "tfmiaq.tflite.Interpreter(given.file).predict('records')": "takes records of shape (4, 4, 1)",
    "tfmiaq.tflite.read_metadata(None)": "Expected the bytes or the path of a .tflite",
    "tfmiaq.edgetpu.check(5)": "Expected the bytes or the path of a .tflite",
    "tfmiaq.edgetpu.check(b'')": "no TFLite model",
    # Audits.
    f"tfmiaq.audit(given.model, {SET}, ['lirra'])": "lirra",
    f"tfmiaq.audit(given.model, {SET}, 5)": "audit: Expected attacks",
    f"tfmiaq.audit(5, {SET})": "as target. Received int",
    f"tfmiaq.audit(given.model, {SET}, batch_size=0)": "batch_size to be an integer of at least 1",
    f"tfmiaq.audit(given.model, {SET}, seed=-1)": "seed to be an integer from 0",
    f"tfmiaq.audit(given.model, {SET}, threads=given.nan)": "threads",
    f"tfmiaq.audit(given.model, {SET}, access='fil')": "access",
    f"tfmiaq.audit(given.model, {SET}, reference_models=4)": "reference_models",
    f"tfmiaq.audit(given.model, {SET}, canaries=4)": "canaries",
    f"tfmiaq.audit(given.model, {SET}, groups=5)": "groups",
    "tfmiaq.audit(given.model, given.x, given.set)": "Expected members as a pair (x, y)",
    "tfmiaq.audit(given.model, (given.x, given.y[:5]), given.set)": "60 records and 5 labels",
    "tfmiaq.audit(given.model, (given.x * given.nan, given.y), given.set)": "NaN or infinity",
    "tfmiaq.audit(given.model, (given.x, given.y + 50), given.set)": "beyond the target's 3 classes",
    "tfmiaq.audit(given.model, (given.x[:3], given.y[:3]), given.set)": "Expected at least",
    "tfmiaq.audit(('none.npy', 'none.npy'), given.set, given.set)": "No .npy file at 'none.npy'",
    "tfmiaq.audit((given.x,), given.set, given.set)": "saved outputs as a pair",
    "tfmiaq.compare(None)": "compare: Expected",
    "tfmiaq.compare({})": "compare",
    "tfmiaq.compare({'a': 5})": "compare",
    "tfmiaq.compare([1, 2])": "compare: Expected",
    "tfmiaq.AuditReport.load(given.folder / 'none')": "No",
    "tfmiaq.AuditReport.load(given.folder / 'text.json')": "text.json",
    "tfmiaq.AuditReport.load(None)": "AuditReport.load: Expected",
    "signals.ReferenceModels([given.train], 1)": "count to be an integer of at least 2",
    "signals.ReferenceModels([])": "ReferenceModels",
    "signals.ReferenceModels([5])": "ReferenceModels",
    "signals.extract(given.model, given.set, batch_size=0)": "batch_size",
    "signals.extract(given.model, None)": "Expected records as a pair (x, y)",
    "tfmiaq.Canaries('mislabeled')": "Did you mean 'mislabelled'?",
    "tfmiaq.Canaries(count=0)": "count to be an integer",
    "tfmiaq.audit_canaries(5, given.set, given.set)": "reference_models",
    # Trainings.
    "tfmiaq.TrainingRecipe(epochs=0)": "epochs to be an integer of at least 1",
    "tfmiaq.TrainingRecipe(learning_rate=given.nan)": "learning_rate to be a finite number above 0",
    "tfmiaq.TrainingRecipe(batch_size=2.5)": "batch_size to be an integer of at least 1",
    "tfmiaq.TrainingRecipe(weight_decay=-1)": "weight_decay to be a finite number of at least 0",
    "tfmiaq.CrossDistillation(folds=1)": "folds to be an integer of at least 2",
    "tfmiaq.CrossDistillation(teacher_weight=given.nan)": "teacher_weight to be a finite number",
    f"tfmiaq.defend(given.train, {SET}, target='mobil')": "target to be one of 'mobile', 'edgetpu'",
    f"tfmiaq.defend(given.train, {SET}, labels=['a'])": "labels to be 3 names",
    f"tfmiaq.defend(given.train, {SET}, labels=5)": "labels to be a list of names or None",
    f"tfmiaq.defend(given.model, {SET}, labels=['a'] * 4)": "labels to be 3 names",
    f"tfmiaq.defend(given.train, {SET}, minutes=0)": "minutes to be a finite number above 0",
    f"tfmiaq.defend(given.train, {SET}, reference_models=1)": "reference_models to be an integer of at least 2, or 0",
    f"tfmiaq.defend(given.train, {SET}, policy='w2a4')": "policy to be a BitwidthPolicy",
    f"tfmiaq.defend(given.train, {SET}, cross_distillation=tfmiaq.CrossDistillation(copies=5))": "divide 24 or 30",
    "tfmiaq.cross_distill(given.train, given.model, given.x, given.y, seed=-1)": "seed to be an integer from 0",
    f"tfmiaq.defend(given.train, {SET}, seed=given.nan)": "seed to be an integer",
    f"tfmiaq.defend(given.train, {SET}, n_jobs=0)": "n_jobs to be an integer of at least 1",
    f"tfmiaq.defend(given.train, {SET}, folder=5)": "folder to be a path",
    f"tfmiaq.defend(given.train, {SET}, groups=5)": "groups",
    "tfmiaq.defend(given.train, given.set, (given.x[:9], given.y[:9]))": "test records, half of which are audited",
    f"tfmiaq.defend(None, {SET})": "model to be a keras.Model or a function",
    f"tfmiaq.defend(given.model, {SET}, cross_distillation=tfmiaq.CrossDistillation())": "trains teachers",
    "tfmiaq.distill(given.model, given.model, None)": "distill",
    "tfmiaq.distill(given.model, given.model, given.x, temperature=0)": "temperature",
    "tfmiaq.cross_distill(given.train, given.model, given.x, given.y, 5)": "cross_distill: Expected",
    "tfmiaq.cross_distill(5, given.model, given.x, given.y)": "Expected a function from (x, y) to a model",
    "tfmiaq.out_of_fold_predictions(given.train, given.x, given.y, folds=1)": "folds",
    "tfmiaq.TrainingRecipe(loss=5)": "loss to be a Keras loss, its name or None",
    "tfmiaq.TrainingRecipe(loss='mse2').fit(given.model, given.x, given.y)": "Received 'mse2'",
    "tfmiaq.TrainingRecipe().fit(5, given.x, given.y)": "Expected a keras.Model. Received int",
    "tfmiaq.TrainingRecipe().fit(given.model, given.x, given.y[:5])": "Received 60 records and 5 labels",
    "tfmiaq.TrainingRecipe().fit(given.model, None, None)": "Received no array records",
    "tfmiaq.TrainingRecipe().fit(given.model, given.x, given.y + 50)": "has 3 classes. Received labels from 50 to 52",
    "tfmiaq.TrainingRecipe().fit(given.model, given.x[:, :2], given.y)": "takes records of shape (4, 4, 1)",
    "tfmiaq.TrainingRecipe().fit(given.model, given.x * given.nan, given.y)": "NaN or infinity",
    "tfmiaq.QuantizedTraining('w2a4', tfmiaq.TrainingRecipe())": "Expected a BitwidthPolicy as policy",
    "tfmiaq.QuantizedTraining(given.policy, 5)": "QuantizedTraining: Expected a TrainingRecipe as recipe",
    "tfmiaq.CrossDistilledTraining(5, tfmiaq.TrainingRecipe(), given.train, tfmiaq.CrossDistillation())": "policy",
    "tfmiaq.CrossDistilledTraining(None, 5, given.train, tfmiaq.CrossDistillation())": "TrainingRecipe as recipe",
    "tfmiaq.CrossDistilledTraining(None, tfmiaq.TrainingRecipe(), 5, tfmiaq.CrossDistillation())": "train_fn",
    "tfmiaq.CrossDistilledTraining(None, tfmiaq.TrainingRecipe(), given.train, 5)": "a CrossDistillation as options",
    "tfmiaq.callbacks.BitwidthSchedule(5)": "BitwidthSchedule: Expected policies by epoch",
    f"tfmiaq.defend(given.model, {SET}, recipe=tfmiaq.TrainingRecipe(loss='mse2'))": "Expected the recipe's loss",
    f"tfmiaq.audit(given.model, {SET}, batch_size=given.x)": "batch_size to be an integer of at least 1",
    f"tfmiaq.audit(given.model, {SET}, slices={{'sex': (given.y, given.y[:3])}})": "parts of several lengths",
    f"tfmiaq.audit(given.model, {SET}, slices={{5: given.y}})": "Expected slices as a dict",
    "tfmiaq.audit(given.model, *[(given.x[:, :2], given.y)] * 2)": "takes records of shape (4, 4, 1)",
    "signals.predict_logits(given.model, given.x[:, :2])": "takes records of shape (4, 4, 1)",
    "signals.predict_logits(given.model, None)": "Expected records",
    "signals.find_duplicates(given.x, given.x[:, :2])": "find_duplicates: members are of shape (4, 4, 1)",
    "signals.find_duplicates(None, given.x)": "Expected members as an array",
    "signals.find_duplicates(given.x, given.x, near=given.nan)": "near to be a finite number from 0 to 1",
    "signals.ReferenceModels([given.train], 4, cache=5)": "cache to be a path",
    "tfmiaq.out_of_fold_predictions(given.train, given.x, given.y, cache=5)": "to be a path",
    "given.policy.resolve(5)": "Expected the names of layers",
    # Figures.
    "tfmiaq.metrics.roc([1.0, 2.0], [given.nan])": "roc: Expected non_members as scores",
    "tfmiaq.metrics.roc([], [1.0])": "roc: Expected members as scores",
    "tfmiaq.metrics.roc(5, [1.0])": "roc: Expected members as scores",
    "tfmiaq.metrics.roc([[1.0, 2.0]], [1.0])": "roc: Expected members as scores",
    "tfmiaq.metrics.roc('ab', [1.0])": "roc: Expected members as scores",
    "tfmiaq.metrics.best_threshold([], [])": "best_threshold: Expected members as scores",
    "tfmiaq.metrics.auc_estimate([1.0, given.nan], [2.0, 3.0])": "auc_estimate: Expected members as scores",
    "tfmiaq.metrics.tpr_at_fpr([0.0, 1.0], [0.0, 1.0], given.nan)": "limit to be a finite number from 0 to 1",
    "tfmiaq.metrics.clopper_pearson(5, 3)": "successes",
    "tfmiaq.metrics.clopper_pearson(1, 0)": "total to be a finite number above 0",
    "tfmiaq.metrics.clopper_pearson(1, 3, 2.0)": "confidence to be a finite number above 0 and below 1",
    "tfmiaq.metrics.holm([given.nan])": "holm: Expected a list of p-values",
    "tfmiaq.metrics.holm(5)": "holm: Expected a list of p-values",
    # Reports.
    "given.report.gate(5)": "gate: Expected conditions such as",
    "given.report.gate(None)": "gate: Expected conditions such as",
    "given.report.gate(['auc>70'])": "to be a finite number from 0.5 to 1",
    "given.report.gate(['auc>nan'])": "to be a finite number from 0.5 to 1",
    "given.report.save(None)": "to be a path",
    "given.report.records(5)": "to be a path",
    # Data.
    "tfmiaq.datasets.load_unlabelled(5)": "name to be a path",
    "tfmiaq.datasets.load_files(5, 5, 'label')": "members to be a path",
    "tfmiaq.datasets.load('digit')": "Unknown data set 'digit'",
    "tfmiaq.datasets.load(5)": "data set",
    "tfmiaq.datasets.load('digits', seed=-1)": "seed",
    "tfmiaq.datasets.load(str(given.folder / 'empty.npz'))": "empty.npz",
    "tfmiaq.datasets.load(str(given.folder / 'words.npz'))": "words.npz",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_call_costs_one_line(call, given):
    start = time.process_time()
    with pytest.raises((ValueError, TypeError)) as raised:
        eval(call, {"tfmiaq": tfmiaq, "given": given, "signals": signals})
    message = str(raised.value)
    assert CALLS[call] in message
    assert "\n" not in message and len(message) < 700
    # No model is trained: what is wrong is told first.
    assert time.process_time() - start < 5


def test_long_errors_are_cut():
    rules = {f"layer_{number}_that_is_not_there": tfmiaq.LayerBits() for number in range(10_000)}
    policy = tfmiaq.BitwidthPolicy(layers=rules)
    with pytest.raises(ValueError, match=r"9,995 more") as raised:
        policy.resolve([f"dense_{number}" for number in range(300)])
    assert len(str(raised.value)) < 3000

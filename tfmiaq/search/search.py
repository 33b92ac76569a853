"""Leakage-aware search of bit-widths: on one shared model, trained at all bit-widths at once."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Optional

import numpy as np
from scipy import optimize, sparse
from sklearn import isotonic

from tfmiaq import metrics
from tfmiaq._backend import activation_quantizers, keras, tf, weight_quantizers
from tfmiaq._tables import format_table
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.policy import BitwidthPolicy
from tfmiaq.quantization.layer_graph import inner
from tfmiaq.quantization.quantize import quantize_model, set_policy
from tfmiaq.quantization.quantizers import ReluQuantizer
from tfmiaq.quantization.inspection import get_policy, quantized_layers
from tfmiaq.signals import signals
from tfmiaq.training.recipe import TrainingRecipe

Bits = dict[str, int]
Fit = Callable[[Any, Sequence[Any]], Any]

SAMPLERS = ("tpe", "nsga2", "random")
_FULL = 8
# BatchNormalization has to follow each change of bits within a few batches.
_FAST_MOMENTUM = 0.7
_BUDGETS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An allocation of bits, as the shared model sees it, or as it came out of a training of its own.

    Attributes:
        policy: The bits of each layer.
        leakage: AUC of the confidence attack on samples of members and non-members; 0.5 is a coin.
        accuracy: Accuracy on validation records.
        packed_bytes: Size of the weights if each took just its bits.
    """

    policy: BitwidthPolicy
    leakage: float
    accuracy: float
    packed_bytes: int

    def beats(self, other: Candidate) -> bool:
        """Whether this one is no worse in leakage, accuracy and size, and better in one."""
        ours = (self.leakage, -self.accuracy, self.packed_bytes)
        theirs = (other.leakage, -other.accuracy, other.packed_bytes)
        return all(a <= b for a, b in zip(ours, theirs)) and ours != theirs


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What `search_policy` found; prints as a table.

    Attributes:
        candidates: All allocations that were scored, in order.
        baseline: All layers at 8 bits.
        sensitivities: For each choice ("layer/weight", bits) alone, all others at 8 bits: what it takes off leakage,
            and what off accuracy.
        max_accuracy_drop: Accuracy that may be lost against the baseline.
        finalists: 8 bits everywhere first, then the others in order, each after a training of its own; empty if none
            was asked for.
    """

    candidates: tuple[Candidate, ...]
    baseline: Candidate
    sensitivities: dict[tuple[str, int], tuple[float, float]]
    max_accuracy_drop: float
    finalists: tuple[Candidate, ...] = ()

    @property
    def frontier(self) -> tuple[Candidate, ...]:
        """The candidates that no other one beats, least leakage first."""
        kept = [c for c in self.candidates if not any(other.beats(c) for other in self.candidates)]
        return tuple(sorted(kept, key=lambda candidate: candidate.leakage))

    @property
    def best(self) -> Candidate:
        """The least leakage within `max_accuracy_drop` of 8 bits: among the finalists, or else by the shared model."""
        field = self.finalists or (self.baseline, *self.candidates)
        floor = field[0].accuracy - self.max_accuracy_drop
        return min((c for c in field if c.accuracy >= floor), key=lambda candidate: candidate.leakage)

    def __str__(self) -> str:
        rows = [
            (name, f"{c.leakage:.3f}", f"{c.accuracy:.3f}", f"{c.packed_bytes:,} B")
            for name, c in (
                ("8 bits", self.baseline),
                *((f"finalist {i}, trained", c) for i, c in enumerate(self.finalists)),
                ("best", self.best),
                *((f"frontier {i}", c) for i, c in enumerate(self.frontier, start=1)),
            )
        ]
        return format_table(("policy", "leakage (AUC)", "accuracy", "packed"), rows)

    def save(self, folder: Any) -> pathlib.Path:
        """Writes `search.json`, `best.json` (a policy) and `frontier.png` into a folder, which is made if need be."""
        from tfmiaq.auditing.reporting import plots

        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)

        def values(candidate: Candidate) -> dict[str, Any]:
            return {**dataclasses.asdict(candidate), "policy": json.loads(candidate.policy.to_json())}

        found = {
            "baseline": values(self.baseline),
            "best": values(self.best),
            "retrained": [values(candidate) for candidate in self.finalists],
            "frontier": [values(candidate) for candidate in self.frontier],
            "sensitivities": [
                {"choice": name, "bits": bits, "leakage": leakage, "accuracy": accuracy}
                for (name, bits), (leakage, accuracy) in self.sensitivities.items()
            ],
        }
        (folder / "search.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (folder / "best.json").write_text(self.best.policy.to_json() + "\n", encoding="utf-8")
        points = {
            "all": [(c.leakage, c.accuracy) for c in self.candidates],
            "frontier": [(c.leakage, c.accuracy) for c in self.frontier],
            "8 bits": [(self.baseline.leakage, self.baseline.accuracy)],
            "finalists, trained": [(c.leakage, c.accuracy) for c in self.finalists],
            "best": [(self.best.leakage, self.best.accuracy)],
        }
        plots.save_points(points, "leakage (AUC of the confidence attack)", "accuracy", folder / "frontier.png")
        return folder


class _Shared:
    """A quantized model whose bits are knobs, trained at all of their settings at once.

    Args:
        model: The float model.
        weight_bits: What weights may have.
        activation_bits: What ReLU outputs may have.
    """

    def __init__(self, model: Any, weight_bits: Sequence[int], activation_bits: Sequence[int]) -> None:
        self.model = quantize_model(model, BitwidthPolicy.uniform(_FULL, _FULL, None, None))
        for layer in self.model.layers:
            if isinstance(inner(layer), keras.layers.BatchNormalization):
                inner(layer).momentum = _FAST_MOMENTUM
        self.knobs: dict[str, Any] = {}
        self.choices: dict[str, tuple[int, ...]] = {}
        self.sizes: dict[str, int] = {}
        # What a policy lowers is free; what stays at 8 bits has to.
        set_policy(self.model, BitwidthPolicy.uniform(2, 3, None, None))
        for wrapper in quantized_layers(self.model):
            name = wrapper.layer.name
            for kernel, _, variables in weight_quantizers(wrapper):
                if float(variables["bits"]) == 2:
                    self._add(f"{name}/weight", variables["bits"], weight_bits)
                    self.sizes[f"{name}/weight"] = int(np.prod(kernel.shape))
            for quantizer, variables in activation_quantizers(wrapper):
                if isinstance(quantizer, ReluQuantizer) and float(variables["bits"]) == 3:
                    self._add(f"{name}/activation", variables["bits"], activation_bits)
        self.set({})
        self._forward = tf.function(lambda x: self.model(x, training=False), reduce_retracing=True)
        self._adapt = tf.function(lambda x: self.model(x, training=True), reduce_retracing=True)

    def _add(self, name: str, variable: Any, choices: Sequence[int]) -> None:
        self.knobs[name] = variable
        self.choices[name] = tuple(sorted({*choices}))

    def set(self, bits: Bits) -> None:
        """Gives each knob its bits; 8 to those that are not named."""
        for name, variable in self.knobs.items():
            variable.assign(float(bits.get(name, _FULL)))

    def policy(self, bits: Bits) -> BitwidthPolicy:
        """The policy of an allocation, which the model keeps."""
        self.set(bits)
        return get_policy(self.model)

    def bits_of(self, policy: BitwidthPolicy) -> Bits:
        """The allocation that a policy comes to, which the model keeps."""
        set_policy(self.model, policy)
        found = {name: int(variable.numpy()) for name, variable in self.knobs.items()}
        for name, bits in found.items():
            if bits not in self.choices[name]:
                raise ValueError(
                    f"search_policy: A policy of policies gives {name} {bits} bits, which are none of its choices, "
                    f"{self.choices[name]}. Change the policy, weight_bits or activation_bits."
                )
        return found

    def packed_bytes(self, bits: Bits) -> int:
        """Size of the weights that have a choice."""
        return -(-sum(size * bits.get(name, _FULL) for name, size in self.sizes.items()) // 8)

    def score(self, bits: Bits, data: _Data) -> Candidate:
        """Scores an allocation; statistics and ranges follow the bits on a few batches, and are put back."""
        variables = self.model.non_trainable_variables
        before = [variable.numpy() for variable in variables]
        self.set(bits)
        for batch in data.calibration:
            self._adapt(batch)
        candidate = _measure(self.model, self._predict, data, self.packed_bytes(bits))
        for variable, value in zip(variables, before):
            variable.assign(value)
        return candidate

    def _predict(self, x: np.ndarray) -> np.ndarray:
        return np.concatenate([self._forward(x[start : start + 256]).numpy() for start in range(0, len(x), 256)])


def _measure(model: Any, predict: Callable[[np.ndarray], np.ndarray], data: _Data, packed_bytes: int) -> Candidate:
    inside, outside = signals.extract(predict, data.members, data.non_members)
    if inside.confidences is None or outside.confidences is None:
        raise ValueError("search_policy: Expected a model that answers scores of at least two classes.")
    correct = outside.correct
    if data.validation is not None:
        correct = predict(data.validation[0]).argmax(-1) == data.validation[1]
    return Candidate(
        policy=get_policy(model),
        leakage=metrics.auc_interval(inside.confidences, outside.confidences)[0],
        accuracy=float(np.mean(correct)),
        packed_bytes=packed_bytes,
    )


@dataclasses.dataclass(frozen=True)
class _Data:
    """What allocations are scored on; without validation records the non-members stand in for them."""

    members: signals.Records
    non_members: signals.Records
    validation: Optional[signals.Records]
    calibration: tuple[np.ndarray, ...]


class RandomBits(keras.callbacks.Callback):
    """Draws the bits of a shared model anew for every batch: half of the time one width for all, else each its own.

    Args:
        shared: The shared model.
        seed: Seed of the draws.
    """

    def __init__(self, shared: Any, seed: int = 0) -> None:
        super().__init__()
        self._shared = shared
        self._generator = np.random.default_rng(seed)

    def on_train_batch_begin(self, batch: int, logs: Optional[dict[str, Any]] = None) -> None:
        """Draws."""
        generator, level = self._generator, self._generator.random()
        same = generator.random() < 0.5
        bits = {}
        for name, choices in self._shared.choices.items():
            at = level if same else generator.random()
            bits[name] = choices[min(int(at * len(choices)), len(choices) - 1)]
        self._shared.set(bits)


def _default_fit(train: signals.Records, epochs: int) -> Fit:
    recipe = TrainingRecipe(epochs=epochs)
    return lambda model, callbacks: recipe.fit(model, *train, callbacks)


def _milp(shared: _Shared, sensitivities: dict[tuple[str, int], tuple[float, float]], budget: float) -> Bits:
    """The allocation of least leakage whose accuracies, lost one choice at a time, add up to a budget at most.

    One variable for each choice, one choice for each knob: the integer programme of HAWQ-V3 (Yao et al. 2021, equation
    5) with leakage in the place of its second-order sensitivity.
    """
    columns = [(name, bits) for name, choices in shared.choices.items() for bits in choices]
    gains = [sensitivities.get(column, (0.0, 0.0)) for column in columns]
    names = list(shared.choices)
    one_each = sparse.csr_matrix(
        (np.ones(len(columns)), ([names.index(name) for name, _ in columns], np.arange(len(columns))))
    )
    losses = np.array([[max(0.0, accuracy) for _, accuracy in gains]])
    found = optimize.milp(
        -np.array([leakage for leakage, _ in gains]),
        constraints=[optimize.LinearConstraint(one_each, 1, 1), optimize.LinearConstraint(losses, -np.inf, budget)],
        integrality=np.ones(len(columns)),
        bounds=optimize.Bounds(0, 1),
    )
    if found.x is None:
        return {}
    return {name: bits for (name, bits), chosen in zip(columns, found.x) if chosen > 0.5}


def _check(
    weight_bits: Sequence[int],
    activation_bits: Sequence[int],
    sampler: str,
    n_trials: int,
    max_accuracy_drop: float,
    finalists: int,
) -> None:
    for name, bits in (("weight_bits", weight_bits), ("activation_bits", activation_bits)):
        if not bits or any(isinstance(b, bool) or not isinstance(b, int) or not 1 <= b <= 8 for b in bits):
            raise ValueError(f"search_policy: Expected {name} as integers from 1 to 8. Received {bits!r}.")
    if sampler not in SAMPLERS:
        raise ValueError(
            f"search_policy: Unknown sampler {sampler!r}. Expected one of {', '.join(map(repr, SAMPLERS))}."
        )
    if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 1:
        raise ValueError(f"search_policy: Expected n_trials of at least 1. Received {n_trials!r}.")
    if isinstance(finalists, bool) or not isinstance(finalists, int) or finalists < 0:
        raise ValueError(f"search_policy: Expected finalists of at least 0. Received {finalists!r}.")
    if not 0 <= max_accuracy_drop < 1:
        raise ValueError(
            f"search_policy: Expected max_accuracy_drop from 0 up to 1, as a share. Received {max_accuracy_drop!r}."
        )


def search_policy(
    model: Any,
    train: Any,
    validation: Any,
    *,
    members: Optional[Any] = None,
    non_members: Optional[Any] = None,
    max_accuracy_drop: float = 0.01,
    n_trials: int = 100,
    weight_bits: Sequence[int] = (1, 2, 3, 4, 8),
    activation_bits: Sequence[int] = (2, 3, 4, 8),
    sampler: str = "tpe",
    epochs: int = 5,
    fit: Optional[Fit] = None,
    finalists: int = 4,
    policies: Sequence[BitwidthPolicy] = (),
    folder: Optional[Any] = None,
    storage: Optional[str] = None,
    sample: int = 2000,
    seed: int = 0,
    verbose: bool = True,
) -> SearchResult:
    """Searches bit-widths that tell least about who was trained on, at the accuracy that is asked for.

    One shared model is trained with bits that are drawn anew for every batch, so that afterwards each allocation can be
    scored without training. Every choice is scored by itself first; integer programmes over those sensitivities and
    uniform policies are the first trials, and Optuna goes on from there with leakage, accuracy and size as objectives.
    What the shared model says is an estimate, and harsh on low bits. So a few, the finalists, are trained by themselves
    from the float model, 8 bits everywhere first. What they come to tells what the shared model's accuracies are worth,
    and so which one to train next: that of least leakage which should keep the accuracy. The best is taken from the
    finalists, as they come out. Audit it on records that the search has not seen.

    Example:
        >>> result = tfmiaq.search_policy(model, (x_train, y_train), (x_validation, y_validation), folder="search")
        >>> quantized = tfmiaq.quantize_model(model, result.best.policy)

    Args:
        model: A trained float model, as for `quantize_model`.
        train: Pair (x, y) of training records; y integer classes or one-hot.
        validation: Pair (x, y) of records that choose the policy. Not those of the final audit.
        members: Pair (x, y) of records whose membership is attacked; the training records if not given.
        non_members: Their counterparts; the validation records if not given.
        max_accuracy_drop: Accuracy that the best policy may lose against 8 bits, as a share, 0 up to 1.
        n_trials: Allocations that are scored, beside each choice by itself.
        weight_bits: Bits that weights may get.
        activation_bits: Bits that ReLU outputs may get.
        sampler: "tpe", "nsga2" or "random".
        epochs: Epochs of training of the shared model, and of each finalist.
        fit: Function of a quantized model and a list of callbacks that trains it, in the place of SGD with a
            cross-entropy: your own recipe, for the shared model and the finalists.
        finalists: Number of allocations that are trained by themselves, beside 8 bits everywhere; 0 for none, which
            takes the shared model at its word.
        policies: Policies of your own, which are scored too: the first candidates of the result, in order. They count
            as trials.
        folder: Folder that keeps the shared model's weights and the study (SQLite), so that a search that was stopped
            goes on there. None keeps nothing.
        storage: URL of Optuna's storage, for a database that several machines share, in the place of the folder's.
        sample: Members and non-members that each allocation is attacked on, and validation records.
        seed: Seed of samples, draws and trials.
        verbose: Show progress bars where standard error is a terminal.

    Returns:
        The result.

    Raises:
        TypeError: Sets that are no pairs; a model that `quantize_model` does not take.
        ValueError: Bits, a sampler or numbers out of their range; a model without layers that have a choice; policies
            with bits that are no choice; sets as `audit` refuses them.
    """
    import optuna
    from tqdm import tqdm

    _check(weight_bits, activation_bits, sampler, n_trials, max_accuracy_drop, finalists)
    if len(policies) > n_trials:
        raise ValueError(f"search_policy: {len(policies)} policies take as many trials. Received n_trials={n_trials}.")
    train, validation = signals.check_records(train, validation, "search_policy", ("train", "validation"))
    attacked = signals.check_records(
        train if members is None else members, validation if non_members is None else non_members, "search_policy"
    )
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(train[1]))
    data = _Data(
        members=signals.sample(attacked[0], sample, generator),
        non_members=signals.sample(attacked[1], sample, generator),
        validation=None if non_members is None else signals.sample(validation, sample, generator),
        calibration=tuple(train[0][order[start : start + 64]] for start in range(0, min(len(order), 640), 64)),
    )
    shared = _Shared(model, weight_bits, activation_bits)
    if not shared.knobs:
        raise ValueError("search_policy: No layer of the model has bits to choose; tfmiaq.summary(model) says why.")
    own = [shared.bits_of(policy) for policy in policies]
    shared.set({})
    key = fingerprint(list(model.get_weights()), *train, weight_bits, activation_bits, epochs, fit, seed)[:24]
    _train_shared(shared, fit or _default_fit(train, epochs), folder, key, seed)

    # What is measured depends on the records too.
    measured = fingerprint(key, *data.members, *data.non_members, *(data.validation or ()))[:24]

    quiet = None if verbose else True
    baseline, scored = _score_singles(shared, data, folder, measured, quiet)
    sensitivities = {
        choice: (baseline.leakage - c.leakage, baseline.accuracy - c.accuracy) for choice, c in scored.items()
    }

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if storage is None and folder is not None:
        storage = f"sqlite:///{pathlib.Path(folder).absolute() / 'study.db'}"
    study = optuna.create_study(
        study_name=f"{sampler}-{fingerprint(measured, own)[:24] if own else measured}",
        storage=storage,
        load_if_exists=True,
        directions=["minimize", "maximize", "minimize"],
        sampler=_sampler(optuna, sampler, seed),
    )
    if not study.trials:
        for bits in [*own, *_first_trials(shared, sensitivities, max_accuracy_drop)]:
            study.enqueue_trial({name: bits.get(name, choices[-1]) for name, choices in shared.choices.items()})

    def objective(trial: Any) -> tuple[float, float, float]:
        bits = {name: trial.suggest_categorical(name, choices) for name, choices in shared.choices.items()}
        candidate = shared.score(bits, data)
        trial.set_user_attr("policy", candidate.policy.to_json())
        return candidate.leakage, candidate.accuracy, float(candidate.packed_bytes)

    done = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    with tqdm(total=n_trials, initial=min(len(done), n_trials), desc="search", disable=quiet) as bar:
        study.optimize(objective, max(0, n_trials - len(done)), callbacks=[lambda study, trial: bar.update()])
    complete = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    candidates = [
        Candidate(BitwidthPolicy.from_json(t.user_attrs["policy"]), t.values[0], t.values[1], int(t.values[2]))
        for t in complete
    ]
    result = SearchResult((*candidates, *scored.values()), baseline, sensitivities, max_accuracy_drop)
    if finalists:

        def train_one(candidate: Candidate) -> Candidate:
            return _trained(model, candidate, data, fit or _default_fit(train, epochs), folder, measured, seed)

        result = dataclasses.replace(result, finalists=_train_finalists(result, finalists, train_one, quiet))
    if folder is not None:
        result.save(folder)
    return result


def _score_singles(
    shared: _Shared, data: _Data, folder: Optional[Any], key: str, quiet: Optional[bool]
) -> tuple[Candidate, dict[tuple[str, int], Candidate]]:
    """The shared model at 8 bits, and with each choice by itself, as far as an earlier search has not scored them."""
    from tqdm import tqdm

    path = None if folder is None else pathlib.Path(folder) / f"singles-{key}.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}
    choices = [(name, bits) for name, widths in shared.choices.items() for bits in widths if bits != _FULL]
    found = {}
    for name, bits in tqdm([("", _FULL), *choices], desc="sensitivities", disable=quiet):
        allocation = {name: bits} if name else {}
        label = f"{name} {bits}"
        if label in kept:
            leakage, accuracy = kept[label]
            found[name, bits] = Candidate(shared.policy(allocation), leakage, accuracy, shared.packed_bytes(allocation))
            continue
        found[name, bits] = candidate = shared.score(allocation, data)
        kept[label] = [candidate.leakage, candidate.accuracy]
        if path is not None:
            _write_json(path, kept)
    shared.set({})
    return found.pop(("", _FULL)), found


def _write_json(path: pathlib.Path, values: Any) -> None:
    """Writes a whole file or none."""
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps(values), encoding="utf-8")
    scratch.replace(path)


def _next_finalist(
    candidates: Sequence[Candidate], trained: Sequence[tuple[Candidate, Candidate]], max_accuracy_drop: float
) -> Optional[Candidate]:
    """The least leakage among what should keep the accuracy, or what should keep most of it; None if all are trained.

    Accuracies of the shared model are not those of a training of its own. What they come to is read off the line
    through what has been trained, which only rises (isotonic regression); through 8 bits alone it is flat, so that the
    least leakage of all comes first.

    Args:
        candidates: As the shared model sees them.
        trained: What the shared model saw and what came out, 8 bits first.
        max_accuracy_drop: Accuracy that may be lost against 8 bits.
    """
    done = {seen.policy for seen, _ in trained}
    rest = [candidate for candidate in candidates if candidate.policy not in done]
    if not rest:
        return None
    line = isotonic.IsotonicRegression(out_of_bounds="clip")
    line.fit([seen.accuracy for seen, _ in trained], [found.accuracy for _, found in trained])
    expected = line.predict([candidate.accuracy for candidate in rest])
    floor = trained[0][1].accuracy - max_accuracy_drop
    kept = [candidate for candidate, accuracy in zip(rest, expected) if accuracy >= floor]
    if not kept:
        return max(rest, key=lambda candidate: (candidate.accuracy, -candidate.leakage))
    return min(kept, key=lambda candidate: (candidate.leakage, -candidate.accuracy, candidate.packed_bytes))


def _train_finalists(
    result: SearchResult, count: int, train: Callable[[Candidate], Candidate], quiet: Any
) -> tuple[Candidate, ...]:
    """8 bits and then up to a number of candidates, each chosen by what has come out of those before."""
    from tqdm import tqdm

    chosen: Optional[Candidate] = result.baseline
    trained: list[tuple[Candidate, Candidate]] = []
    with tqdm(total=count + 1, desc="retrained", disable=quiet) as bar:
        while chosen is not None and len(trained) <= count:
            trained.append((chosen, train(chosen)))
            chosen = _next_finalist(result.candidates, trained, result.max_accuracy_drop)
            bar.update()
    return tuple(found for _, found in trained)


def _trained(
    model: Any, candidate: Candidate, data: _Data, fit: Fit, folder: Optional[Any], key: str, seed: int
) -> Candidate:
    """A candidate as it comes out of a training of its own, or as an earlier search has found it."""
    path = None
    if folder is not None:
        path = pathlib.Path(folder) / f"finalist-{fingerprint(key, candidate.policy)[:24]}.json"
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            return dataclasses.replace(candidate, leakage=found["leakage"], accuracy=found["accuracy"])
    keras.utils.set_random_seed(seed)
    quantized = quantize_model(model, candidate.policy)
    fit(quantized, [])
    measured = _measure(quantized, lambda x: quantized.predict(x, verbose=0), data, candidate.packed_bytes)
    if path is not None:
        _write_json(path, {"leakage": measured.leakage, "accuracy": measured.accuracy})
    return dataclasses.replace(measured, policy=candidate.policy)


def _sampler(optuna: Any, name: str, seed: int) -> Any:
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
    return optuna.samplers.RandomSampler(seed) if name == "random" else optuna.samplers.TPESampler(seed=seed)


def _first_trials(
    shared: _Shared, sensitivities: dict[tuple[str, int], tuple[float, float]], max_accuracy_drop: float
) -> list[Bits]:
    """Uniform policies, and integer programmes over the sensitivities for several budgets."""
    widths = sorted({bits for choices in shared.choices.values() for bits in choices})
    uniform = [
        {name: min(choices, key=lambda own, width=width: abs(own - width)) for name, choices in shared.choices.items()}  # type: ignore[misc]
        for width in widths
    ]
    worst = sum(
        max(0.0, *(sensitivities.get((name, bits), (0.0, 0.0))[1] for bits in choices))
        for name, choices in shared.choices.items()
    )
    budgets = [max_accuracy_drop, *(share * worst for share in _BUDGETS)]
    found: list[Bits] = []
    for bits in [*uniform, *(_milp(shared, sensitivities, budget) for budget in budgets)]:
        if bits not in found:
            found.append(bits)
    return found


def _train_shared(shared: _Shared, fit: Fit, folder: Optional[Any], key: str, seed: int) -> None:
    """Trains the shared model, or loads what an earlier search of the same key has trained."""
    path = None if folder is None else pathlib.Path(folder) / f"shared-{key}.npz"
    if path is not None and path.is_file():
        with np.load(path) as file:
            shared.model.set_weights([file[name] for name in file.files])
        return
    keras.utils.set_random_seed(seed)
    fit(shared.model, [RandomBits(shared, seed)])
    shared.set({})
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".part.npz")
        np.savez(scratch, *shared.model.get_weights())
        scratch.replace(path)

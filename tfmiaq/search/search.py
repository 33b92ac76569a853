"""Search of bit-widths of low membership leakage, on one shared model that is trained at all bit-widths."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from tqdm.auto import tqdm

from tfmiaq import signals
from tfmiaq._checks import SEED, InvalidArgumentError, check
from tfmiaq.caching.fingerprints import fingerprint
from tfmiaq.caching.store import Store, check_space
from tfmiaq.policy import BitwidthPolicy
from tfmiaq.search.allocation import Bits, first_trials, score_singles
from tfmiaq.search.measurement import draw_samples
from tfmiaq.search.options import PolicySearch
from tfmiaq.search.results import Candidate, SearchResult
from tfmiaq.training.recipe import FINE_TUNING, TrainingRecipe, check_recipe

if TYPE_CHECKING:
    from tfmiaq.search.supernet import Supernet

# The shared model and each retrained candidate start from the float model and need few epochs.
SEARCH_RECIPE = dataclasses.replace(FINE_TUNING, epochs=5)


def search_policy(
    model: Any,
    train: Any,
    validation: Any,
    search: Optional[PolicySearch] = None,
    *,
    members: Optional[Any] = None,
    non_members: Optional[Any] = None,
    recipe: Optional[TrainingRecipe] = None,
    policies: Sequence[BitwidthPolicy] = (),
    groups: Optional[Any] = None,
    folder: Optional[Any] = None,
    seed: int = 0,
    verbose: bool = True,
) -> SearchResult:
    """Searches the bit-widths of least membership leakage at an accuracy that you set.

    One shared model is trained with bits that are drawn anew for each batch, so that each allocation can then be scored
    without training. Each choice is scored on its own first. Integer programmes over these sensitivities, and uniform
    policies, are the first trials. Optuna goes on from there, with leakage, accuracy and size as objectives.

    The shared model's scores are estimates, and too low for low bits. So a few candidates are trained on their own from
    the float model, 8 bits everywhere first. Their accuracies tell what the shared model's are worth, and so which
    candidate is trained next: the one of least leakage that should keep the accuracy. The best is one of the retrained
    candidates. Leakage is the AUC of the confidence attack, and stronger attackers find more: audit the best on records
    that the search has not seen.

    Example:
        >>> result = tfmiaq.search_policy(model, (x_train, y_train), (x_validation, y_validation), folder="search")
        >>> quantized = tfmiaq.quantize_model(model, result.best.policy)

    Args:
        model: A trained float model, as for `quantize_model`.
        train: Pair (x, y) of training records; y integer classes or one-hot.
        validation: Pair (x, y) of records that choose the policy. Not those of the final audit.
        search: Trials, bits that may be chosen, and what the accuracy may lose. None for `PolicySearch()`.
        members: Pair (x, y) of records whose membership is attacked. None for the training records.
        non_members: Their counterparts. None for the validation records.
        recipe: How the shared model, and each retrained candidate, is trained. None for 5 epochs of fine-tuning.
        policies: Policies of your own, which are scored too: the first candidates of the result, in order. They count
            as trials.
        groups: Pair of arrays, (groups of the training records, groups of the validation records): one value for each
            record, such as its person. None may be in both. None where each record is a group of its own.
        folder: Folder for `search.json`, `best.json` and `frontier.png`. Its folder `cache` keeps the shared model's
            weights and all scores, so that a search that was stopped goes on. None writes and keeps nothing.
        seed: Seed of samples, draws, trainings and trials.
        verbose: Show progress bars where standard error is a terminal.

    Returns:
        The result.

    Raises:
        InvalidArgumentError: A seed out of its range; options, a recipe or policies of another type; more policies than
            trials; a group that is in both sets.
        TypeError: Sets that are no pairs; a model that `quantize_model` does not take.
        ValueError: A model without layers that have a choice; policies with bits that are no choice; sets as `audit`
            refuses them.
    """
    search = PolicySearch() if search is None else search
    seed = _check_arguments(search, recipe, policies, seed)
    from tfmiaq.search.candidates import Retraining, retrain
    from tfmiaq.search.supernet import CachedScores, Supernet

    recipe = SEARCH_RECIPE if recipe is None else recipe
    quiet = None if verbose else True
    train, validation = signals.check_records(train, validation, "search_policy", ("train", "validation"))
    if groups is not None:
        sizes = len(train[1]), len(validation[1])
        signals.check_group_pair(groups, sizes, "search_policy", ("train", "validation"))
    check_space(None if folder is None else pathlib.Path(folder) / "cache")
    samples = draw_samples(train, validation, members, non_members, search.sample, seed)
    supernet = Supernet(model, search.weight_bits, search.activation_bits)
    own = [supernet.bits_of(policy) for policy in policies]
    supernet.set({})

    store = Store(None if folder is None else pathlib.Path(folder) / "cache")
    choices = (search.weight_bits, search.activation_bits)
    key = fingerprint([model.to_json(), *model.get_weights()], *train, *choices, recipe, seed)[:24]
    supernet.train(train, recipe, store, key, seed)

    # Scores depend on the samples too.
    key = fingerprint(key, *samples.arrays())[:24]
    score = CachedScores(supernet, samples, store, key)
    baseline, singles = score_singles(supernet.choices, score, quiet)
    sensitivities = {
        choice: (baseline.leakage - c.leakage, baseline.accuracy - c.accuracy) for choice, c in singles.items()
    }
    first = [*own, *first_trials(supernet.choices, sensitivities, search.max_accuracy_drop)]
    name = f"{search.sampler}-{fingerprint(key, own)[:24] if own else key}"
    candidates = _run_trials(search, supernet, score, first, name, seed, quiet)
    result = SearchResult((*candidates, *singles.values()), baseline, sensitivities, search.max_accuracy_drop)
    if search.retrained:
        train_one = Retraining(model, train, recipe, samples, store, key, seed)
        result = dataclasses.replace(result, retrained=retrain(result, search.retrained, train_one, quiet))
    if folder is not None:
        result.save(folder)
    return result


def _check_arguments(search: Any, recipe: Any, policies: Sequence[Any], seed: Any) -> int:
    """Returns the seed as a plain integer, or raises an error about any of the arguments."""
    if not isinstance(search, PolicySearch):
        raise InvalidArgumentError(
            f"search_policy: Expected a PolicySearch or None as search. Received {search!r:.200}."
        )
    check_recipe("search_policy", recipe)
    if not all(isinstance(policy, BitwidthPolicy) for policy in policies):
        raise InvalidArgumentError(f"search_policy: Expected BitwidthPolicy values as policies. Received {policies!r}.")
    if len(policies) > search.n_trials:
        raise InvalidArgumentError(
            f"search_policy: {len(policies)} policies take as many trials. Received n_trials={search.n_trials}."
        )
    return check("search_policy", seed=(seed, SEED))["seed"]


def _run_trials(
    search: PolicySearch,
    supernet: Supernet,
    score: Callable[[Bits], Candidate],
    first: Sequence[Bits],
    name: str,
    seed: int,
    quiet: Optional[bool],
) -> list[Candidate]:
    """Returns the candidates of an Optuna study, the given allocations first.

    Each trial draws from a seed of its own, that of its number. Without a storage the study is repeated from its first
    trial on, and the scores of trials that an earlier call has finished come from the store: it draws the same trials
    as one that was not stopped. In a storage a trial that was under way when its process died keeps its number, so that
    the search goes on with the draws of the next number, as it would beside a process that still runs. Allocations that
    are given are put in again where their trial was not finished.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=name,
        storage=search.storage,
        load_if_exists=True,
        directions=["minimize", "maximize", "minimize"],
    )
    states = optuna.trial.TrialState

    def trials(*of_states: Any) -> list[Any]:
        return study.get_trials(deepcopy=False, states=of_states or None)

    queue = [{name: bits.get(name, choices[-1]) for name, choices in supernet.choices.items()} for bits in first]
    known = [trial.system_attrs.get("fixed_params") for trial in trials(states.COMPLETE, states.WAITING)]
    for fixed in queue:
        if fixed in known:
            known.remove(fixed)
        else:
            study.enqueue_trial(fixed)

    def objective(trial: Any) -> tuple[float, float, float]:
        bits = {name: trial.suggest_categorical(name, choices) for name, choices in supernet.choices.items()}
        candidate = score(bits)
        trial.set_user_attr("policy", candidate.policy.to_json())
        return candidate.leakage, candidate.accuracy, float(candidate.packed_bytes)

    done = len(trials(states.COMPLETE))
    missing = range(done, search.n_trials)
    for _ in tqdm(missing, initial=min(done, search.n_trials), total=search.n_trials, desc="search", disable=quiet):
        study.sampler = _sampler(optuna, search.sampler, seed, len(trials()))
        study.optimize(objective, 1)
    return [
        Candidate(BitwidthPolicy.from_json(t.user_attrs["policy"]), t.values[0], t.values[1], int(t.values[2]))
        for t in trials(states.COMPLETE)
    ]


def _sampler(optuna: Any, name: str, *seeds: int) -> Any:
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
    return optuna.samplers.RandomSampler(seed) if name == "random" else optuna.samplers.TPESampler(seed=seed)

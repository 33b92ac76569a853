from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfmiaq.policy import BitwidthPolicy, LayerBits, OutputBits

_bits = st.one_of(st.none(), st.integers(1, 8))
_layer_bits = st.builds(LayerBits, _bits, _bits)
_policies = st.builds(
    BitwidthPolicy,
    _layer_bits,
    st.dictionaries(st.text(min_size=1, max_size=8), _layer_bits, max_size=4),
    st.none() | _layer_bits,
    st.none() | _layer_bits,
    st.none() | st.builds(OutputBits, st.integers(1, 8), st.floats(0.1, 100)),
)


@given(_policies)
def test_json_round_trip_gives_an_equal_policy(policy):
    again = BitwidthPolicy.from_json(policy.to_json())
    assert again == policy
    assert hash(again) == hash(policy)


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match=r"LayerBits.weight: Expected 1 to 8 bits"):
        LayerBits(weight=bits)


@pytest.mark.parametrize("bits", ["4", 2.0, True])
def test_bits_that_are_no_integers_are_refused(bits):
    with pytest.raises(TypeError, match=r"LayerBits.activation: Expected an integer"):
        LayerBits(activation=bits)


def test_the_last_match_wins_and_ends_yield_to_patterns():
    policy = BitwidthPolicy(
        default=LayerBits(2, 4),
        layers={"conv*": LayerBits(3, 3), "conv2": LayerBits(1, 1)},
        first=LayerBits(8, 8),
        last=LayerBits(7, 7),
    )
    names = ["stem", "conv1", "conv2", "relu", "head"]
    resolved = policy.resolve(names, first=["stem"], last=["head"], followers={"relu": "conv2"})
    assert resolved == {
        "stem": LayerBits(8, 8),
        "conv1": LayerBits(3, 3),
        "conv2": LayerBits(1, 1),
        "relu": LayerBits(1, 1),
        "head": LayerBits(7, 7),
    }


def test_a_fused_relu_follows_an_end():
    policy = BitwidthPolicy.uniform(2, 4, first=8, last=8)
    assert policy.resolve(["a", "relu", "b"], ["a"], ["b"], {"relu": "a"})["relu"] == LayerBits(8, 8)


def test_patterns_match_other_names_of_a_layer_too():
    policy = BitwidthPolicy(layers={"backbone/*": LayerBits(1, 1), "sep": LayerBits(3, 3)})
    aliases = {"conv": ["conv", "backbone/conv"], "sep_depthwise": ["sep", "backbone/sep"]}
    resolved = policy.resolve(["conv", "sep_depthwise", "head"], aliases=aliases)
    assert resolved == {"conv": LayerBits(1, 1), "sep_depthwise": LayerBits(3, 3), "head": LayerBits(8, 8)}


def test_all_unknown_names_are_listed_with_the_nearest():
    policy = BitwidthPolicy(layers={"cnov1": LayerBits(2, 2), "conv*": LayerBits(2, 2), "zzz": LayerBits(2, 2)})
    with pytest.raises(ValueError, match=r"(?s)'cnov1'. Did you mean 'conv1'.*'zzz'") as error:
        policy.resolve(["conv1", "dense"])
    assert "conv*" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}', '{"schema": 1}', '{"schema": 1, "default": {"w": 2}}'])
def test_json_that_is_no_policy_is_refused(text):
    with pytest.raises(ValueError, match="policy"):
        BitwidthPolicy.from_json(text)


def test_a_policy_does_not_load_tensorflow():
    code = "import sys, tfmiaq; tfmiaq.BitwidthPolicy.uniform(); assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bits": 9}, ValueError, r"OutputBits.bits: Expected 1 to 8 bits. Received 9"),
        ({"bits": None}, TypeError, r"OutputBits.bits: Expected an integer from 1 to 8. Received None"),
        ({"clip": 0}, ValueError, r"OutputBits.clip: Expected a finite number above 0. Received 0"),
        ({"clip": float("nan")}, ValueError, r"OutputBits.clip: Expected a finite number above 0"),
        ({"clip": "8"}, TypeError, r"OutputBits.clip: Expected a number above 0. Received '8'"),
    ],
)
def test_output_bits_out_of_range_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        OutputBits(**arguments)


def test_the_output_takes_output_bits_only():
    with pytest.raises(TypeError, match=r"BitwidthPolicy.output: Expected an OutputBits or None. Received LayerBits"):
        BitwidthPolicy(output=LayerBits(4, 4))

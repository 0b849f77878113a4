"""For any rule: it means what its words say, or the settings are refused for it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import Fault, SettingsError
from config.schema import RouteSettings
from dicomnode.series.conditions import Rule, compile_rule
from dicomnode.series.facts import facts_of
from dicomnode.series.routing import decide
from tests import factories

EXAMPLES = settings(max_examples=200, deadline=None)

CT = facts_of(factories.ct_series(6))
OTHERS = [
    CT,
    facts_of([factories.us_image(frames=3, colour=True)]),
    facts_of([factories.structured_report()]),
]

# Conditions that hold for `CT`, and such that do not.
TRUE = [{"Modality": "CT"}, {"slices": {"min": 2}}, {"derived": False}, {"KVP": [100, 120]}]
FALSE = [{"Modality": "MR"}, {"slices": {"max": 2}}, {"contrast": True}, {"KVP": {"not": 120}}]
leaves = st.sampled_from([(rule, True) for rule in TRUE] + [(rule, False) for rule in FALSE])


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        several.map(lambda parts: ({"any": [r for r, _ in parts]}, any(v for _, v in parts))),
        several.map(lambda parts: ({"all": [r for r, _ in parts]}, all(v for _, v in parts))),
        inner.map(lambda part: ({"not": part[0]}, not part[1])),
    )


@EXAMPLES
@given(rule=st.recursive(leaves, combined, max_leaves=8))
def test_any_all_and_not_are_what_logic_says(rule: tuple[dict[str, Any], bool]) -> None:
    when, wanted = rule
    decision = decide([RouteSettings(name="r", when=when, model="m")], CT)[0]
    assert decision.matched is wanted
    json.dumps(decision.as_json())


NAMES = "Modality KVP PixelData slices orientation contrast any all not regex min max exists x"
junk = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("(a+)+")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from([*NAMES.split(), ""]), inner, max_size=3),
    ),
    max_leaves=8,
)


def compiled(when: dict[str, Any]) -> Rule | tuple[Fault, ...]:
    try:
        return compile_rule(when)
    except SettingsError as error:
        return error.faults


@EXAMPLES
@given(when=st.dictionaries(st.sampled_from(NAMES.split()), junk, max_size=3))
def test_any_table_is_a_rule_that_can_be_asked_or_has_faults(when: dict[str, Any]) -> None:
    made = compiled(when)
    if isinstance(made, Rule):
        assert all(len(made.check(facts)) == len(when) for facts in OTHERS)
    else:
        assert made
        assert all(fault.key.startswith("when.") and fault.allowed for fault in made)

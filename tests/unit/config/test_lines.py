"""Every key of a TOML text is found on its line."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from config.lines import key_lines

TEXT = '''\
# comment = 1
top = """
[not.a.table]
x = 1
"""   # after
"quoted.key" = 'a = [#'

[node]                    # a table
port = 104
tls.profile = "bcp195"
dotted."k\\u0065y" . c = [ 1, # one
  { a = 1, b = [2,
     3] },
  """]""" ,
]

[[routes]]
name = "A"
[routes.when]
Modality = "CT"
[[routes]]
when = { Modality = ["CR", "DX"], slices = { min = 10 } }
'''


def test_lines_of_every_kind_of_key() -> None:
    lines = key_lines(TEXT)
    assert lines[("top",)] == 2
    assert lines[("quoted.key",)] == 6
    assert lines[("node",)] == 8
    assert lines[("node", "port")] == 9
    assert lines[("node", "tls", "profile")] == 10
    assert lines[("node", "dotted", "key", "c")] == 11
    assert lines[("node", "dotted", "key", "c", 1, "a")] == 12
    assert lines[("node", "dotted", "key", "c", 1, "b", 1)] == 13
    assert lines[("node", "dotted", "key", "c", 2)] == 14
    assert lines[("routes", 0)] == 17
    assert lines[("routes", 0, "when", "Modality")] == 20
    assert lines[("routes", 1)] == 21
    assert lines[("routes", 1, "when", "Modality", 1)] == 22
    assert lines[("routes", 1, "when", "slices", "min")] == 22
    assert lines.keys() == set(paths(tomllib.loads(TEXT)))


def paths(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    entries = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    found = [(*at, key) for key, _ in entries]
    return found + [path for key, entry in entries for path in paths(entry, (*at, key))]


SCALARS = st.sampled_from(
    [
        *("1", "-2.5", "true", "0xf", "2026-01-01 10:00:00", "1979-05-27T07:32:00Z"),
        *('"x # y"', "'a]'", '"\\\\"', '"\\""', '""', "''"),
        *('"""a\n[b]\n"""', "'''}\n'''", '""""quoted" """'),
    ]
)
KEYS = st.sampled_from(["a", "b-c", '"d e"', "'f.g'", "7", '"\\u0041"'])
GAPS = st.sampled_from(["", " ", "\n", " # note ] }\n", "\n\n  "])


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.sampled_from(["scalar", "array", "table"])) if depth else "scalar"
    if kind == "array":
        gap = draw(GAPS)
        entries = draw(st.lists(values(depth - 1), max_size=3))
        return f"[{gap}" + f"{gap},{gap}".join(entries) + f"{gap}]"
    if kind == "table":
        pairs = draw(st.dictionaries(KEYS, values(depth - 1), max_size=3))
        return "{ " + ", ".join(f"{key} = {value}" for key, value in pairs.items()) + " }"
    return draw(SCALARS)


@settings(max_examples=300, deadline=None)
@given(
    tables=st.lists(
        st.tuples(
            st.sampled_from(["[t]", "[ t . u ]", "[[l]]", "[l.m]", "[[l.n]]", '["t".v]']),
            st.dictionaries(KEYS, values(), max_size=3),
            GAPS,
        ),
        max_size=5,
    )
)
def test_each_path_of_the_data_has_a_line_that_holds_it(
    tables: list[tuple[str, dict[str, str], str]],
) -> None:
    text = "".join(
        f"{header}\n" + "".join(f"{key} = {value}{gap}\n" for key, value in pairs.items())
        for header, pairs, gap in tables
    )
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # a table defined twice, say: the walk is never asked
    lines = key_lines(text)
    assert lines.keys() == set(paths(data))
    written = text.split("\n")
    for path, line in lines.items():
        if isinstance(path[-1], str) and path[-1] != "A":
            assert path[-1] in written[line - 1]

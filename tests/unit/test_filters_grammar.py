"""The filter language, rule by rule. Each text and its outcome was seen on a containerd 1.6.20."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.api.errors import InvalidArgument
from longshore.containerd import filters

OBJECT = {
    "id": "c1",
    "image": "other",
    "runtime.name": "io.containerd.runc.v2",
    "labels.a.b/c": "1",
    "labels.n": "é",
}


def lookup(path: Sequence[str]) -> str | None:
    return OBJECT.get(".".join(path))


def matches(*texts: str) -> bool:
    return filters.compile(texts)(lookup)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "id",
        "id==c1",
        "  id  ==  c1",
        'id=="c1"',
        '"id"==c1',
        "id!=c2",
        "nosuch!=x",
        "id~=c",
        "id~=^c[12]$",
        "id~=/^c[12]$/",
        "id~=|^c[12]$|",
        r"id~=|c\\d|",
        r'id~="c\\d"',
        "id~=//",
        r'id=="\x63\061"',
        r'id=="\u0063\U00000031"',
        r'labels.n=="\xc3\xa9"',
        "labels.n==é",
        'labels."a.b/c"==1',
        'labels.a."b/c"==1',
        "id==c1,image==other",
        "id==c1,labels.n,nosuch!=x",
        "runtime.name==io.containerd.runc.v2",
        "id\u2028==c1",
    ],
)
def test_holds(text: str) -> None:
    assert matches(text)


@pytest.mark.parametrize(
    "text",
    [
        "nosuch",
        "id==c2",
        "id!=c1",
        "id==c1,nosuch",
        "id==c1=",
        "id==c1]",
        "id==-c1",
        "id=='c1'",
        "id==\x01",
        'id==""',
        "id~=(",
        r"id~=/\//",
        "id~=^1",
        r'id=="\ud800"',
    ],
)
def test_does_not_hold(text: str) -> None:
    assert not matches(text)


BAD = {
    " ": "[ ]: expected field or quoted",
    "id==": "[id==]: expected value or quoted",
    "id=c1": '[id >|=|< c1]: unsupported operator "="',
    "id===c1": '[id >|=|< ==c1]: unsupported operator "==="',
    "==c1": "[ >|=|< =c1]: expected field or quoted",
    "id==c1,": "[id==c1,]: expected field or quoted",
    "id.==c1": "[id. >|=|< =c1]: expected field or quoted",
    "id c1": '[id  >|c|< 1]: expected an operator ("=="|"!="|"~=")',
    "id==c1 c2": "[id==c1 >| |< c2]: unexpected input:  ",
    "id==c1 , id": "[id==c1 >| |< , id]: unexpected input:  ",
    "id==/c1/": "[id== >|/|< c1/]: invalid quote encountered",
    "/id/==c1": "[ >|/|< id/==c1]: invalid quote encountered",
    'id=="c1': '[id== >|"|< c1]: quoted literal not terminated',
    r'id=="c\q"': r'[id== >|"|< c\q"]: illegal escape sequence',
    r"id~=/\|/": r"[id~= >|/|< \|/]: illegal escape sequence",
    r'id=="\x6"': r'[id== >|"|< \x6"]: illegal numeric escape sequence',
    r'id=="\400"': r'[id== >|"|< \400"]: unquoting failed: quote syntax error',
    r'id=="\U00110000"': r'[id== >|"|< \U00110000"]: unquoting failed: quote syntax error',
    "id~=.": "[id~= >|.|< ]: expected value or quoted",
    "é==c1": "[ >|\ufffd|< \ufffd==c1]: expected field or quoted",
    "id==c\u200b1": "[id==c >|\ufffd|< \ufffd\ufffd1]: unexpected input: \u200b",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_syntax_is_pointed_at(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        filters.compile([text])
    assert caught.value.message == f"filters: parse error: {BAD[text]}: invalid argument"


def test_several_strings_are_alternatives() -> None:
    assert matches("id==c2", "id==c1")
    assert matches("nosuch", "")
    assert matches()
    assert not matches("id==c2", "nosuch")
    with pytest.raises(InvalidArgument):
        matches("id==c1", "id==")


def test_only_no_filter_and_one_empty_filter_need_no_decoding() -> None:
    assert filters.matches_all([])
    assert filters.matches_all([""])
    assert not filters.matches_all(["", "id=="])
    assert not filters.matches_all([" "])


@given(st.text(alphabet='abc_19.,=!~"/|\\xu \té\u2028', max_size=20))
def test_any_text_compiles_or_is_refused(text: str) -> None:
    try:
        filters.compile([text])(lookup)
    except InvalidArgument as error:
        assert error.message.startswith("filters: parse error: [")

"""The XML of products: what is refused, and that every missing or wrong value is named."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundswell.errors import ProductError
from groundswell.products.safe.xml import Document, parse


def document(body: str, root: str = "product") -> Document:
    return parse(f"<?xml version='1.0' encoding='UTF-8'?><{root}>{body}</{root}>".encode(), "folder/a.xml", root)


HOSTILE = {
    "external": b'<!DOCTYPE product [<!ENTITY x SYSTEM "file:///etc/hostname">]><product>&x;</product>',
    "parameter": b'<!DOCTYPE product [<!ENTITY % x SYSTEM "http://127.0.0.1:9/"> %x;]><product/>',
    "laughs": b"<!DOCTYPE p ["
    + b"".join(b'<!ENTITY a%d "%s">' % (i, b"&a%d;" % (i - 1) * 10) for i in range(1, 12))
    + b"]><product>&a11;</product>",
    "doctype alone": b"<!DOCTYPE product><product/>",
    "small letters": b"<!doctype product><product/>",
    "utf-16": "<!DOCTYPE product [<!ENTITY x 'y'>]><product>&x;</product>".encode("utf-16"),
    "utf-16 plain": "<product/>".encode("utf-16"),
    "utf-7": b'<?xml version="1.0" encoding="UTF-7"?>+ADw-!DOCTYPE product+AD4-<product/>',
    "gzip": gzip.compress(b"<product/>"),
    "empty": b"",
    "text": b"hello",
    "two roots": b"<product/><product/>",
    "undeclared entity": b"<product>&x;</product>",
    "deep": b"<product>" + b"<a>" * 300 + b"</a>" * 300 + b"</product>",
    "long": b"<product><a>" + b"1 " * (6 * 2**20) + b"</a></product>",
    "another document": b"<noise/>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_documents_are_refused(name: str) -> None:
    with pytest.raises(ProductError) as caught:
        parse(HOSTILE[name], "product.zip:annotation/a.xml", "product")
    assert str(caught.value).startswith("a.xml")
    assert len(str(caught.value)) < 1000


def test_bytes_beyond_the_limit_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundswell.products.safe.xml.METADATA_LIMIT", 100)
    with pytest.raises(ProductError, match="too large"):
        parse(b"<product>" + b" " * 100 + b"</product>", "a.xml", "product")


def test_namespaces_are_left_out_of_account() -> None:
    data = b'<x:XFDU xmlns:x="urn:a"><a xmlns="urn:b"><b k="v">1</b></a></x:XFDU>'
    assert parse(data, "m", "XFDU").get("a/b", "k") == "v"


BAD_NUMBERS = ("", "nan", "inf", "-inf", "1e999", "one", "1_0", "0x10", "1 2", "\u0661", "--1")


@pytest.mark.parametrize("text", BAD_NUMBERS)
def test_what_is_no_number_is_named(text: str) -> None:
    with pytest.raises(ProductError, match="<x>") as caught:
        document(f"<x>{text}</x>").number("x")
    assert caught.value.where == "folder/a.xml"


@pytest.mark.parametrize("text", [t for t in BAD_NUMBERS if t not in ("1 2", "")])
def test_rows_with_what_is_no_number_are_named(text: str) -> None:
    with pytest.raises(ProductError, match="<x>"):
        document(f"<x count='3'>1 {text} 3</x>").floats("x")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20), st.integers(-2, 2))
def test_rows_must_be_as_long_as_they_say(values: list[float], lost: int) -> None:
    text = " ".join(map(repr, values))
    body = document(f"<x count='{len(values) + lost}'>{text}</x>")
    if lost:
        with pytest.raises(ProductError, match="incomplete"):
            body.floats("x")
    else:
        np.testing.assert_array_equal(body.floats("x"), values)


def test_limits_flags_times_and_doubles() -> None:
    body = document(
        "<n>7.5</n><i>7</i><f>true</f><f2>yes</f2><t>2021-04-03T08:30:25.749829</t><t2>soon</t2><d>1</d><d>1</d>"
    )
    assert body.number("n", 0, 10) == 7.5
    assert body.integer("i", 0, 10) == 7
    assert body.flag("f")
    assert body.time("t").timestamp() == pytest.approx(1617438625.749829, abs=1e-6)
    for wrong in (
        lambda: body.number("n", 8, 10),
        lambda: body.integer("n", 0, 10),
        lambda: body.flag("f2"),
        lambda: body.time("t2"),
        lambda: body.number("d"),
        lambda: body.text("absent"),
    ):
        with pytest.raises(ProductError):
            wrong()
    assert math.isclose(document("<x>1</x>").number("x"), 1.0)

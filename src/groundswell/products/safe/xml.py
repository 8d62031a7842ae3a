"""The XML of product metadata, from the wild: no document type, no entities, no network, and values that are checked.

Every value is read through a function that names file and element when it is missing, is no number or is not finite.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
from lxml import etree
from numpy.typing import NDArray

from groundswell.errors import ProductError
from groundswell.products.safe.container import METADATA_LIMIT

Floats = NDArray[np.float64]


def parse(data: bytes, where: str, root: str) -> Document:
    """The document in ``data``, whose outermost element must be ``root`` (without namespace).

    Raises
    ------
    ProductError
        When it is no well-formed UTF-8 XML, is larger than `METADATA_LIMIT`, has a document type declaration
        (product metadata has none; entities, bombs and files fetched from elsewhere all need one), or is another
        kind of document.
    """
    if len(data) > METADATA_LIMIT:
        raise _bad(where, "is too large", f"{len(data)} bytes, more than the limit of {METADATA_LIMIT}")
    folded = data.lower()
    if b"<!doctype" in folded or b"<!entity" in folded or b"\0" in data:
        raise _bad(
            where,
            "is refused",
            "it declares a document type or entities, or is not UTF-8: product metadata never does",
            fix="do not use this file: get the product again from its publisher",
        )
    parser = etree.XMLParser(
        encoding="utf-8",  # whatever it declares: no encoding may hide a document type
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        element = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise _bad(where, "is no well-formed XML", str(error)) from error
    if element.getroottree().docinfo.doctype:
        raise _bad(where, "is refused", "it declares a document type")
    if etree.QName(element).localname != root:
        raise _bad(where, "is another document", f"its outermost element is <{element.tag}>, not <{root}>")
    return Document(element, where)


def _bad(where: str, what: str, why: str, fix: str = "download the product again") -> ProductError:
    name = where.replace(":", "/").rpartition("/")[2]
    return ProductError(f"{name} {what}", where=where, why=why, fix=fix)


class Document:
    """One element of a document; paths are of child elements, names without namespaces, as ``a/b``."""

    def __init__(self, element: Any, where: str) -> None:
        self._element = element
        self.where = where

    def error(self, what: str, why: str) -> ProductError:
        """An error about a value of this document."""
        return ProductError(what, where=self.where, why=why, fix="download the product again")

    def all(self, path: str) -> list[Document]:
        """The elements at ``path``, in order."""
        return [Document(found, self.where) for found in self._element.findall(_any_namespace(path))]

    def items(self, path: str) -> list[Document]:
        """The elements of the list at ``path`` (``list/item``), in order, as many as its ``count`` says; [] if absent.

        An item that was lost must not leave its neighbours to be interpolated over the gap.
        """
        name, _, item = path.rpartition("/")
        lists = self.all(name)
        found = [element for each in lists for element in each.all(item)]
        for each in lists:
            count = each.get("", "count")
            if len(lists) > 1 or (count is not None and count != str(len(found))):
                why = f"{len(found)} <{item}> in {len(lists)} lists where it says {count}, {each._context()}"
                raise self.error(f"<{name}> is incomplete", why)
        return found

    def one(self, path: str) -> Document:
        """The one element at ``path``."""
        found = self.all(path)
        if len(found) != 1:
            raise self.error(f"<{path}> is {'missing' if not found else 'there more than once'}", self._context())
        return found[0]

    def _context(self) -> str:
        line = self._element.sourceline
        return f"in <{etree.QName(self._element).localname}>" + (f", line {line}" if line else "")

    def get(self, path: str, attribute: str | None = None) -> str | None:
        """The text at ``path`` (or an attribute of that element), None where it is absent or empty."""
        found = self._element.find(_any_namespace(path)) if path else self._element
        if found is None:
            return None
        text = found.text if attribute is None else found.get(attribute)
        return text.strip() or None if text else None

    def text(self, path: str) -> str:
        """The text at ``path``, which must be there once."""
        text = self.one(path).get("")
        if text is None:
            raise self.error(f"<{path}> is empty", self._context())
        return text

    def number(self, path: str, low: float = -math.inf, high: float = math.inf) -> float:
        """The finite number at ``path``, between ``low`` and ``high``."""
        text = self.text(path)
        try:
            value = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            expected = "a finite number" if low == -math.inf else f"a number between {low:g} and {high:g}"
            raise self.error(f"<{path}> is {text[:40]!r}, not {expected}", self._context())
        return value

    def integer(self, path: str, low: int, high: int) -> int:
        """The whole number at ``path``, between ``low`` and ``high``."""
        value = self.number(path, low, high)
        if value != int(value):
            raise self.error(f"<{path}> is {value}, not a whole number", self._context())
        return int(value)

    def flag(self, path: str) -> bool:
        """``true`` or ``false`` at ``path``."""
        text = self.text(path).lower()
        if text not in ("true", "false"):
            raise self.error(f"<{path}> is {text[:40]!r}, not true or false", self._context())
        return text == "true"

    def time(self, path: str) -> datetime:
        """The UTC time at ``path``."""
        text = self.text(path)
        try:
            return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC)
        except ValueError:
            raise self.error(f"<{path}> is {text[:40]!r}, not a time", self._context()) from None

    def floats(self, path: str) -> Floats:
        """The finite numbers at ``path``, separated by blanks; as many as its ``count`` says."""
        element = self.one(path)
        text = element.get("") or ""
        try:
            values = np.fromiter(map(float, text.split()), np.float64)
        except ValueError as error:
            raise self.error(f"<{path}> holds what is no number", f"{error}, {element._context()}") from None
        count = element.get("", "count")
        if len(values) == 0 or (count is not None and count != str(len(values))):
            why = f"{len(values)} values where it says {count}, {element._context()}"
            raise self.error(f"<{path}> is incomplete", why)
        if not text.isascii() or "_" in text or not np.isfinite(values).all():
            raise self.error(f"<{path}> holds values that are not finite numbers", element._context())
        return values


def _any_namespace(path: str) -> str:
    return "/".join(f"{{*}}{part}" for part in path.split("/"))

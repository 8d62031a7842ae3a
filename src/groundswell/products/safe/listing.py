"""Which images lie in a set of SAFE products: each once, with all its copies, and what is unusual about them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from groundswell import progress
from groundswell.errors import DataError
from groundswell.products.safe.find import Found
from groundswell.products.safe.noise import parse_ipf
from groundswell.products.safe.sentinel1 import Product, open_product
from groundswell.products.source import reason_of

POLARISATIONS = ("VV", "VH", "HH", "HV")


@dataclass(frozen=True, slots=True)
class Image:
    """One image among the products: every copy of it as (product, key), the best first, and what its name says."""

    copies: tuple[tuple[int, int | str], ...]
    mode: str
    beam: str
    polarisations: tuple[str, ...]
    keys: tuple[str, int, str, int]


@dataclass(slots=True)
class Listing:
    """What the products hold.

    Attributes
    ----------
    products : list of Path
        Those that could be opened.
    images : dict
        Name to `Image`, sorted: the stem of the measurement of its first polarisation, with ``sim-`` before it where
        groundswell simulated the product.
    broken : dict
        Name to the reason, of products that could not be opened.
    doubles : dict
        Name of an image to the products with copies of it that are passed over.
    notes : list of str
        What the owner of the products should know.
    bytes : int
        Of all products.
    """

    products: list[Path] = field(default_factory=list)
    images: dict[str, Image] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    doubles: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    bytes: int = 0


def list_products(found: Found) -> Listing:
    """Open every product and list its images; no pixel is read, and no annotation."""
    listing = Listing()
    copies: dict[str, list[tuple[tuple[int, int], int, int | str]]] = {}
    with progress.bar("list", total=len(found.products), unit="products") as bar:
        for path in found.products:
            bar.advance(1)
            try:
                product = open_product(path)
            except DataError as error:
                name = path.name.removesuffix(".SAFE")
                listing.broken[path.as_posix() if name in listing.broken else name] = reason_of(error)
                continue
            number = len(listing.products)
            listing.products.append(path)
            listing.bytes += product.bytes
            listing.notes += _notes(product)
            for key in product:
                name, image = _image(product, key)
                listing.images.setdefault(name, image)
                # The newest processor first, then the order of the paths.
                age = parse_ipf(product.ipf_version) or (0, 0)
                copies.setdefault(name, []).append(((-age[0], -age[1]), number, key))
    for name in sorted(copies):
        best = sorted(copies[name], key=lambda copy: copy[:2])
        listing.images[name] = replace(listing.images.pop(name), copies=tuple(copy[1:] for copy in best))
        if len(best) > 1:
            listing.doubles[name] = [str(listing.products[number]) for _, number, _ in best[1:]]
    return listing


def _image(product: Product, key: int | str) -> tuple[str, Image]:
    names = sorted(product.names(key), key=lambda name: POLARISATIONS.index(name.polarisation))
    one = names[0]
    keys = (one.mission, one.orbit, one.datatake, one.image_number)
    image = Image((), one.mode, one.beam, tuple(name.polarisation for name in names), keys)
    return ("sim-" if product.simulated else "") + one.stem, image


def _notes(product: Product) -> list[str]:
    notes = [f"{product.id}: {note}" for note in product.notes]
    if product.faults:
        first, more = product.faults[0], len(product.faults) - 1
        notes.append(f"{product.id}: {first.file}: {first.what}" + (f", and {more} more" if more else ""))
    numbers = [key for key in product if isinstance(key, int)]
    gaps = sorted(set(range(min(numbers), max(numbers) + 1)) - set(numbers)) if numbers else []
    if gaps:
        shown = ", ".join(map(str, gaps[:8])) + (" ..." if len(gaps) > 8 else "")
        notes.append(f"{product.id}: no image number {shown}")
    return notes

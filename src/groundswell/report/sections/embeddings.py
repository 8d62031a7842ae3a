"""What the encoder sees as alike: a flat map of the embeddings, and the nearest neighbours of some images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundswell import progress
from groundswell.report.blocks import Block, Figure, Gallery, Section, Text, Tile, Tone
from groundswell.report.figures import draw_map, embedding_map
from groundswell.report.inputs import Inputs, TableFile
from groundswell.report.labels import class_column, spaced
from groundswell.report.sections.data import tiles
from groundswell.search.index import exclusion_codes, top_k

if TYPE_CHECKING:
    from groundswell.archive.reader import Archive

MOST_MAPS = 2
MAPPED = 1500
NEIGHBOURS = 7
MOST_QUERIES = 12


def map_section(inputs: Inputs) -> Section | None:
    """t-SNE maps of the first encoder and, beside it, of a control (image statistics where they are given)."""
    chosen = _mapped(inputs.tables)
    if not chosen:
        return None
    column = class_column(chosen[0].table.frame, inputs.probed)
    panels, count = [], 0
    with progress.bar("map", total=len(chosen), unit="tables") as bar:
        for file in chosen:
            found = embedding_map(standardised(file.table.vectors), MAPPED)
            frame = file.table.frame.iloc[found.rows]
            labels = frame[column].astype("string").fillna("unknown") if column in frame else ["images"] * len(frame)
            panels.append((file.name, found.positions, list(labels)))
            count = len(found.rows)
            bar.advance()
    total = len(chosen[0].table)
    part = f"a random {count:,} of its {total:,} rows" if count < total else f"all {total:,} rows"
    caption = (
        f"t-SNE of {part}: columns standardised, rows set to unit length, at most 50 principal components. "
        "Neighbourhoods mean something in such a map; distances between clusters, their sizes and the axes do not."
    )
    alt = "Maps of embeddings coloured by class: " + ", ".join(title for title, _, _ in panels)
    return Section("map", "Map", [Figure(draw_map(panels, "map"), alt, caption)], _map_lead(chosen, column))


def _map_lead(chosen: Sequence[TableFile], column: str | None) -> str:
    lead = f"Each point is an image, placed by the embeddings of {chosen[0].name} alone."
    if column is not None:
        lead += f" The colour is its {spaced(column)}, which the map was not told."
    return lead + (f" Beside it, the same for {chosen[1].name}." if len(chosen) > 1 else "")


def _mapped(tables: Sequence[TableFile]) -> list[TableFile]:
    wide = [t for t in tables if t.table.vectors.shape[1] >= 3 and len(t.table) >= 5]
    models = [t for t in wide if not t.is_control]
    statistics = [t for t in wide if t.table.header.model.startswith("statistics")]
    randoms = [t for t in wide if t.table.header.model.startswith("random:")]
    return [*models, *statistics, *randoms][:MOST_MAPS]


def standardised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Columns of ``[N, D]`` with mean 0 and standard deviation 1; constant columns 0."""
    spread = vectors.std(axis=0)
    return np.asarray((vectors - vectors.mean(axis=0)) / np.where(spread > 0, spread, 1), dtype=np.float32)


def gallery_section(inputs: Inputs) -> Section | None:
    """Nearest neighbours (cosine) of one image of each class, drawn at random, from ``test`` where there is one."""
    file = next((t for t in inputs.tables if not t.is_control), None)
    if file is None:
        return None
    archives = _archives_of(file, inputs.archives)
    if not archives:
        return None
    frame, vectors = file.table.frame, file.table.vectors
    column = class_column(frame, inputs.probed)
    queries = choose_queries(frame, column)
    places = _places(frame, archives)
    queries = queries[np.array([places[q] is not None for q in queries], dtype=bool)]
    if not len(queries):
        return None
    scores, found = neighbours(vectors, frame, queries)
    rows = []
    for query, score, near in zip(queries, scores, found, strict=True):
        label = None if column is None else frame[column].iloc[query]
        shown = [_tile(archives, places, query, "query", "none")]
        for s, n in zip(score[near >= 0], near[near >= 0], strict=True):
            other = None if column is None else frame[column].iloc[n]
            tone: Tone = "none" if other is None or pd.isna(other) else "win" if other == label else "loss"
            caption = f"{s:.3f}" if other is None or pd.isna(other) else f"{spaced(other)} {s:.3f}"
            shown.append(_tile(archives, places, int(n), caption, tone))
        rows.append((spaced(label) if label is not None else str(frame["id"].iloc[query]), shown))
    blocks: list[Block] = [Gallery(rows, lead=1)]
    if column is not None:
        blocks.append(
            Text(
                "Under each neighbour: its class and the cosine similarity; bold green where the class is the query's.",
                note=True,
            )
        )
    lead = f"Framed, a query; beside it the {NEIGHBOURS} images that {file.name} sees closest, among all {len(frame):,}"
    lead += " but those of the query's own group." if frame["group"].notna().any() else " but itself."
    return Section(
        "search", "Search", blocks, lead + " Queries are drawn at random, one a class, not chosen for their answers."
    )


def choose_queries(frame: pd.DataFrame, column: str | None, seed: int = 3) -> NDArray[np.int64]:
    """Rows to ask for: one of each class (twelve at most) from split ``test`` where there is one."""
    generator = np.random.default_rng(seed)
    pool = np.flatnonzero((frame["split"].astype("string") == "test").fillna(False).to_numpy(dtype=bool))
    if not len(pool):
        pool = np.arange(len(frame))
    if column is None:
        return np.sort(generator.choice(pool, min(6, len(pool)), replace=False))
    labels = frame[column].astype("string").iloc[pool]
    names = sorted(labels.dropna().unique())[:MOST_QUERIES]
    return np.array(
        [generator.choice(pool[(labels == name).fillna(False).to_numpy(dtype=bool)]) for name in names], dtype=np.int64
    )


def neighbours(
    vectors: NDArray[np.float32], frame: pd.DataFrame, queries: NDArray[np.int64], k: int = NEIGHBOURS
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Cosines and rows, ``[Q, k]``, of the nearest of each query outside its own group (-1: none left)."""
    codes = exclusion_codes(
        frame.assign(group=frame["group"].astype("string").fillna(frame["id"].astype("string"))), "group"
    )
    return top_k(vectors[queries], vectors, k, exclude=(codes[queries], codes))


def _archives_of(file: TableFile, given: Sequence[Archive]) -> list[Archive]:
    """The archives of a table in its own order, where all can be opened: those given, else where the table says."""
    from groundswell.archive.reader import open_archive
    from groundswell.archive.schema import is_archive

    by_path = {a.path.resolve(): a for a in given}
    paths = file.archive_paths()
    if not all(p in by_path or is_archive(p) for p in paths):
        return []
    return [by_path[p] if p in by_path else open_archive(p) for p in paths]


def _places(frame: pd.DataFrame, archives: Sequence[Archive]) -> list[tuple[int, int] | None]:
    """For each row of a table, its archive and row there; None where the archive no longer has it."""
    positions = [pd.Index(a.catalogue["id"]) for a in archives]
    places: list[tuple[int, int] | None] = [None] * len(frame)
    number = frame["archive"].to_numpy()
    for i, index in enumerate(positions):
        mine = np.flatnonzero(number == i)
        for row, at in zip(mine, index.get_indexer(frame["id"].iloc[mine]), strict=True):
            places[row] = (i, int(at)) if at >= 0 else None
    return places


def _tile(
    archives: Sequence[Archive], places: Sequence[tuple[int, int] | None], row: int, caption: str, tone: Tone
) -> Tile:
    place = places[row]
    if place is None:
        return Tile("data:,", alt="no longer in the archive", caption=caption, tone=tone)
    return tiles(archives[place[0]], np.array([place[1]]), captions=[caption], tone=tone)[0]

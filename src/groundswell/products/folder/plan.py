"""What an image folder would become, in words and numbers, and the traps that its numbers show."""

from __future__ import annotations

from typing import Any

from groundswell.products.folder.images import ImageFolder
from groundswell.products.folder.survey import size_leak

_SHOWN = 3


def facts(folder: ImageFolder) -> dict[str, Any]:
    """What was found in a folder, JSON-able."""
    labels, boxes = folder.labels, folder.boxes
    return {
        "root": str(folder.listing.root),
        "files": len(folder.ids()),
        "bytes": folder.survey.bytes,
        **folder.survey.counts(),
        "channels": [channel.name for channel in folder.channels],
        "quantity": folder.channels[0].quantity.value,
        "unreadable": [{"id": item.id, "reason": item.reason} for item in folder.survey.unreadable],
        "ignored": folder.listing.ignored,
        "labels": None
        if labels is None
        else {
            "key": labels.key,
            "matched_images": len(labels.rows.keys() & set(folder.ids())),
            "unmatched_images": unlabelled(folder),
            "unmatched_rows": labels.unmatched_rows,
            "label_columns": [f"label_{name}" for name in labels.label_names],
            "metadata_columns": list(labels.metadata_names),
            "masks": dict(folder.description["masks"]),
        },
        "boxes": None
        if boxes is None
        else {
            "boxes": sum(len(rows) for rows in boxes.rows.values()),
            "images": len(boxes.rows),
            "unmatched": boxes.unmatched,
        },
    }


def unlabelled(folder: ImageFolder) -> list[str]:
    """Ids of the images without a row in the label table."""
    return [] if folder.labels is None else [id_ for id_ in folder.ids() if id_ not in folder.labels.rows]


def notes(folder: ImageFolder, fit: str) -> list[str]:
    """What the owner of the data should know before ingesting it, most serious first."""
    said: list[str] = []
    leak = _leak(folder, fit)
    if leak is not None:
        said.append(leak)
    if folder.inferred:
        said.append(
            "the values are decibels, and were taken for sigma0_db (Earth Engine's S1_GRD); terrain-flattened gamma0 "
            "looks the same: name it in what you publish; another quantity needs --quantity"
        )
    labels, boxes = folder.labels, folder.boxes
    if labels is not None:
        bare = unlabelled(folder)
        if bare:
            said.append(
                f"{len(bare)} images have no row in the label table (--only-labelled leaves them out): {_some(bare)}"
            )
        if labels.unmatched_rows:
            said.append(
                f"{len(labels.unmatched_rows)} rows of the label table found no image: {_some(labels.unmatched_rows)}"
            )
        said += labels.notes
    if boxes is not None:
        if boxes.unmatched:
            said.append(f"{len(boxes.unmatched)} images of the box file found no file: {_some(boxes.unmatched)}")
        bare = [id_ for id_ in folder.ids() if id_ not in boxes.rows]
        if bare:
            said.append(f"{len(bare)} images are not in the box file, and count as without objects: {_some(bare)}")
        said += boxes.notes
    return said


def _leak(folder: ImageFolder, fit: str) -> str | None:
    """The trap of image size: what pad and resize make of it, and what it tells of the labels here."""
    sizes = set(folder.sizes().values())
    if len(sizes) < 2 or fit in ("crop", "none"):  # none: cut into chips of one size
        return None
    trace = "the filled margin" if fit == "pad" else "the scale of the pixels"
    text = f"images have {len(sizes)} sizes, and {fit} leaves a trace of them ({trace}), which a model can read"
    told = []
    for name in folder.labels.label_names if folder.labels is not None else ():
        assert folder.labels is not None
        found = size_leak(folder.survey.facts, {i: row.labels[name] for i, row in folder.labels.rows.items()})
        # A column that is the size (width, height) is no discovery.
        if found is not None and found[0] > 0.05 and name not in ("width", "height"):
            told.append((found[0], name, found[1]))
    text += "".join(f"; label_{name} {words}" for _, name, words in sorted(told, reverse=True)[:2])
    return text + ". --fit crop with a size that every image has leaves no trace; else report a size-only baseline."


def _some(items: list[str]) -> str:
    more = f" ... and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more


def describe(found: dict[str, Any]) -> list[str]:
    """`facts` as lines of text."""

    def counted(values: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in values.items())

    low, middle, high = (f"{h} x {w}" for h, w in zip(found["height"], found["width"], strict=True))
    lines = [
        f"source      {found['root']}: {found['files']} files, {size_text(found['bytes'])}",
        f"formats     {counted(found['formats'])}; samples {counted(found['types'])}; bands {counted(found['bands'])}",
        f"sizes       {found['sizes']} (rows x columns): smallest {low}, median {middle}, largest {high}",
        f"channels    {', '.join(found['channels'])}, each {found['quantity']}",
    ]
    if found["ignored"]:
        lines.append(f"passed over {counted(found['ignored'])}")
    labels = found["labels"]
    if labels is not None:
        columns = ", ".join([*labels["label_columns"], *labels["metadata_columns"]])
        lines.append(
            f"labels      {labels['matched_images']} of {found['files']} images by column {labels['key']}: {columns}"
        )
        lines += [f"mask        {name} ({rule})" for name, rule in labels["masks"].items()]
    if found["boxes"] is not None:
        lines.append(f"boxes       {found['boxes']['boxes']} on {found['boxes']['images']} images")
    if found["unreadable"]:
        lines += [f"unreadable  {len(found['unreadable'])} files", *listed(found["unreadable"])]
    return lines


def listed(items: list[dict[str, str]], shown: int = 20) -> list[str]:
    """Items that were set aside, one a line, the first ``shown`` of them."""
    lines = [f"  {item['id']}: {item['reason']}" for item in items[:shown]]
    return lines + ([f"  ... and {len(items) - shown} more"] if len(items) > shown else [])


def size_text(count: float) -> str:
    """A number of bytes for people, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

"""``groundswell attend``: what an encoder looks at, and whether that is where something is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundswell.cli.app import Outcome, verb

if TYPE_CHECKING:
    from groundswell.evaluation.attention import AttentionScores


@verb
def attend(
    model: Annotated[str, typer.Argument(help="A model directory, or random:MODEL[:SEED].")],
    archive: Annotated[Path, typer.Argument(help="The archive to look at.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The sheet to write (.png, .jpg, .pdf, .svg).")],
    where: Annotated[str | None, typer.Option(help="Rows to show and to score: \"split == 'test'\".")] = None,
    count: Annotated[int, typer.Option(min=1, max=40, help="Images on the sheet, spread over the classes.")] = 8,
    rows: Annotated[str | None, typer.Option(metavar="A,B", help="These images: ids or positions, from 0.")] = None,
    block: Annotated[int, typer.Option(help="Whose attention: 0 is the first block, -1 the last.")] = -1,
    score: Annotated[bool, typer.Option("--score/--no-score", help="Score attention against masks and boxes.")] = True,
    most: Annotated[int, typer.Option(min=2, help="Images to score for each mask, evenly spaced.")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the control with fresh weights.")] = 3,
    draws: Annotated[int, typer.Option(min=100, help="Resamples behind an interval.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the halves that heads are chosen on, and of the resamples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    spacing_tolerance: Annotated[
        float | None, typer.Option(min=0, help="Let through this relative departure from the model's pixel spacing.")
    ] = None,
) -> Outcome:
    """Show what an encoder looks at: attention maps of each head, and its patch vectors as colours.

    Each row of the sheet is an image: what is known to be there (outlined), attention of the class token in the mean
    and head by head, and the first three principal components of the patch vectors, fitted over the sheet. Where the
    archive has masks or boxes, attention is scored as a detector of them, beside the same architecture with fresh
    weights, the distance of a pixel from the median, and the best that maps of this grid could reach. A ResNet has no
    attention: of it the colours alone are shown.

    Example: `groundswell attend run/model archive -o attention.png --where "split == 'test'"`
    """
    from rich.markup import escape

    from groundswell.archive.reader import open_archive
    from groundswell.encoder.encoder import Encoder
    from groundswell.errors import UsageError
    from groundswell.evaluation.attention import score_attention
    from groundswell.evaluation.controls import open_embedder
    from groundswell.files import try_place
    from groundswell.report.attention import attention_sheet, check_format, choose_rows

    check_format(output)
    given = [part.strip() for part in (rows or "").split(",") if part.strip()]
    if rows is not None and not given:
        raise UsageError("--rows names no image", where=repr(rows), fix="give ids or positions, as in --rows 3,7")
    encoder = open_embedder(model, device=device, spacing_tolerance=spacing_tolerance)
    if not isinstance(encoder, Encoder):
        raise UsageError(f"{model!r} has no patches to look at", fix="give a model directory, such as run/model")
    chosen = open_archive(archive).where(where)
    shown = choose_rows(chosen, count, given)
    try_place(output)  # before the scores, which take minutes
    notices = []
    scores = None
    if not encoder.settings.name.startswith("vit"):
        notices.append(f"{encoder.settings.name} has no attention: the sheet shows its vectors alone")
    elif score:
        scores = score_attention(encoder, chosen, block=block, most=most, seeds=range(seeds), draws=draws, seed=seed)
        if scores is None:
            notices.append("no mask or box to score against: the archive has none that some images show in part")
        else:
            notices += [f"{name}: not scored, it is in {n} group only" for name, n in scores.left_out.items()]
    sheet = attention_sheet(encoder, chosen, shown, output, block=block, scores=scores)
    data: dict[str, Any] = {
        "sheet": str(output),
        "model": encoder.id,
        "block": block,
        **vars(sheet),
        "notices": notices,
        "scores": [] if scores is None else scores.scores,
        "differences": [] if scores is None else scores.differences,
        "heads_chosen": {} if scores is None else scores.heads,
    }
    lines = [
        f"{output}: {len(sheet.ids)} images, {sheet.heads or 'no'} heads, {sheet.grid[0]} x {sheet.grid[1]} patches."
    ]
    colours = ", ".join(f"{part:.0%}" for part in sheet.explained)
    lines.append(f"The three colours hold {colours} of the variance of the patch vectors.")
    lines += notices
    if scores is not None:
        lines += _table(scores)
    from groundswell.evaluation.results import for_json

    return Outcome(for_json(data), escape("\n".join(lines)))


def _table(scores: AttentionScores) -> list[str]:
    """Of each truth the scores of every detector, then what attention is better or worse than."""
    lines = ["", "AUROC (average precision) in an image, mean over images [95 % interval over groups; * few groups]"]
    precision = {(r["truth"], r["detector"]): r["value"] for r in scores.scores if r["metric"] == "ap"}
    areas = [r for r in scores.scores if r["metric"] == "auroc"]
    for truth in dict.fromkeys(row["truth"] for row in areas):
        own = [row for row in areas if row["truth"] == truth]
        lines.append(f"{truth}, {own[0]['images']} images")
        for row in own:
            interval = f"{row['value']:.3f}{'*' * row['indicative']} [{row['low']:.3f}, {row['high']:.3f}]"
            lines.append(f"  {row['detector']:<44} {interval}  ({precision[truth, row['detector']]:.3f})")
        for row in scores.differences:
            if (row["truth"], row["metric"]) == (truth, "auroc"):
                side = {"table": "better", "control": "worse"}.get(row["favours"] or "", "undecided")
                interval = f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
                lines.append(f"  {row['detector']} - {row['control']}: {interval}, {side}")
    return lines

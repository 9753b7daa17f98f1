"""Connected components of a map that arrives strip by strip; each is handed out once it is complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asd_cli.vector.attributes import Facts, Histograms
from asd_cli.vector.outlines import Corners, Outline, find_corners, resolve_pieces
from asd_cli.vector.runs import Ints, Mask, Runs, join_runs


@dataclass(frozen=True)
class Closed:
    """Components that no later row can reach, numbered 0 .. n-1 in `histograms` and ``corners.owner``."""

    facts: Facts
    histograms: Histograms
    corners: Corners


@dataclass(frozen=True)
class _Strip:
    """Runs of a sheet, component (0 .. number - 1) and piece of each; the first `carried` are known."""

    runs: Runs
    owner: Ints
    piece: Ints
    number: int
    carried: int


class OpenComponents:
    """Components that reach the last row seen. Memory: their corners, and their scores as sparse histograms.

    Args:
        shape: (H, W) of the scene in pixels.
        connectivity: 4 (pixels that share a side) or 8 (or a corner).
        min_pixels: smaller components are dropped when they close.
        lower_is_anomalous: the best score of a component is the lowest.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        connectivity: Literal[4, 8],
        min_pixels: float,
        lower_is_anomalous: bool,
    ) -> None:
        self._shape = shape
        self._corners_join = connectivity == 8
        self._min_pixels = min_pixels
        self._lower = lower_is_anomalous
        self._pieces = 0
        self._outlines: list[Outline] = []
        self._facts = self._no_facts(0)
        nothing = np.zeros(0, np.int64)
        self._histograms = Histograms(nothing, nothing, nothing)
        self._last_owner, self._last_piece = nothing, nothing

    def advance(self, sheet: Mask, scores: NDArray[np.float32], row: int) -> Closed | None:
        """Go on by one strip.

        Args:
            sheet: (h + 1, W + 2), see `asd_cli.vector.runs`; its top row is the last row of the strip before.
            scores: those of the anomalous pixels below the sheet's top row, row-major; finite, >= 0.
            row: row of the scene at which the strip starts.
        """
        runs = Runs.of(sheet)
        if len(runs) == 0:
            return None
        strip = self._join(runs)
        facts, histograms, names = self._describe(strip, scores, row)
        open_ = np.zeros(strip.number, np.bool_)
        in_last_row = runs.row == sheet.shape[0] - 1
        open_[strip.owner[in_last_row]] = True
        closed = ~open_ & (facts.pixels >= self._min_pixels)
        to_open, to_closed = _numbered(open_), _numbered(closed)
        word, run = find_corners(sheet, runs, row)
        corners = Corners(word, strip.piece[run], strip.owner[run])
        complete = self._complete(corners, names, to_closed)
        self._keep(corners, names, to_open)
        result = Closed(facts.take(closed), histograms.renamed(to_closed), complete) if closed.any() else None
        self._facts, self._histograms = facts.take(open_), histograms.renamed(to_open)
        self._last_owner, self._last_piece = to_open[strip.owner[in_last_row]], strip.piece[in_last_row]
        return result

    def _no_facts(self, number: int) -> Facts:
        return Facts.empty(number, lower_is_anomalous=self._lower)

    def _join(self, runs: Runs) -> _Strip:
        """Label the runs, and note on the outlines which pieces of earlier strips go on as which."""
        carried = len(self._last_piece)
        number, piece = join_runs(runs, self._last_piece, corners=False)
        piece_id = piece + self._pieces
        self._pieces += number
        owner = piece
        if self._corners_join:
            number, owner = join_runs(runs, self._last_owner, corners=True)
        links = np.stack([self._last_owner, self._last_piece, piece_id[:carried]], axis=1)
        for slot, before, after in np.unique(links, axis=0).tolist():
            self._outlines[slot].links.append((before, after))
        return _Strip(runs, owner, piece_id, number, carried)

    def _describe(self, strip: _Strip, scores: NDArray[np.float32], row: int) -> tuple[Facts, Histograms, Ints]:
        """Facts and histograms of the strip's components, with what is known of them from above.

        The third value names the strip's component in which each component that was open has gone on.
        """
        height, width = self._shape
        runs, new = strip.runs, slice(strip.carried, None)
        length, owner = runs.length[new], strip.owner[new]
        line, start, stop = runs.row[new] + row - 1, runs.start[new], runs.stop[new]
        best = np.minimum if self._lower else np.maximum
        facts = self._no_facts(strip.number)
        if len(owner):
            runs_best = best.reduceat(scores, np.cumsum(length) - length)
            edge = (line == 0) | (line == height - 1) | (start == 0) | (stop == width)
            run_facts = Facts(length, line * width + start, runs_best, edge)
            facts.absorb(owner, run_facts, lower_is_anomalous=self._lower)
        names = np.zeros(len(self._outlines), np.int64)
        names[self._last_owner] = strip.owner[: strip.carried]
        facts.absorb(names, self._facts, lower_is_anomalous=self._lower)
        histograms = Histograms.of(np.repeat(owner, length), scores)
        return facts, histograms.merged(self._histograms.renamed(names)), names

    def _complete(self, corners: Corners, names: Ints, to_closed: Ints) -> Corners:
        """All corners of the components that close: those in this strip and those kept from above."""
        chosen = corners.take(to_closed[corners.owner] >= 0)
        words, pieces, owners = [chosen.word], [chosen.piece], [to_closed[chosen.owner]]
        links: list[tuple[int, int]] = []
        for outline, number in zip(self._outlines, to_closed[names].tolist(), strict=True):
            if number < 0:
                continue
            links.extend(outline.links)
            for word, piece in outline.chunks:
                words.append(word)
                pieces.append(piece)
                owners.append(np.full(len(word), number))
        piece_ids = resolve_pieces(np.concatenate(pieces), links)
        return Corners(np.concatenate(words), piece_ids, np.concatenate(owners))

    def _keep(self, corners: Corners, names: Ints, to_open: Ints) -> None:
        """Move the outlines to the components that stay open and add the corners of this strip."""
        kept: list[Outline | None] = [None] * (int(to_open.max()) + 1)
        for outline, number in zip(self._outlines, to_open[names].tolist(), strict=True):
            if number < 0:
                continue
            known = kept[number]
            if known is None or len(known.chunks) < len(outline.chunks):  # the short list goes into the long one
                known, outline = outline, known or Outline()  # noqa: PLW2901
            known.absorb(outline)
            kept[number] = known
        self._outlines = [outline or Outline() for outline in kept]
        chosen = corners.take(to_open[corners.owner] >= 0)
        owner = to_open[chosen.owner]
        chosen, owner = chosen.take(order := np.argsort(owner, kind="stable")), owner[order]
        ends = np.searchsorted(owner, np.arange(len(kept) + 1)).tolist()
        for outline, first, last in zip(self._outlines, ends[:-1], ends[1:], strict=True):
            if last > first:
                outline.chunks.append((chosen.word[first:last], chosen.piece[first:last]))


def _numbered(mask: Mask) -> Ints:
    """0, 1, 2 ... where the mask holds, -1 elsewhere."""
    return np.where(mask, np.cumsum(mask) - 1, -1)

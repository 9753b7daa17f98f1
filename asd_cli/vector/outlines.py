"""Outlines of components: from the corners of their boundary to valid MultiPolygons, many components at once.

A boundary is kept as its corners only: lattice points at which it turns. Corners do not depend on where
strips end, so nothing has to be mended at seams: a corner belongs to a *piece* (4-connected pixels of one
component, one polygon), and in every row of the lattice the corners pair off from left to right into
horizontal edges, in every column from top to bottom into vertical ones. Following the pairs gives the rings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

from asd_cli.vector.runs import Ints, Mask, Runs, join

_EAST, _SOUTH, _SIDEWAYS = 4, 2, 1

# Which pixels around a lattice point are anomalous (upper left 1, upper right 2, lower left 4, lower right
# 8): (edges that meet there: east rather than west, south rather than north; leave sideways when the
# component lies to the right of the direction of travel), (row, column of a pixel of the component, seen from
# the upper left one).
_CORNERS = {
    1: (_SIDEWAYS, 0, 0),
    2: (_EAST, 0, 1),
    4: (_SOUTH, 1, 0),
    8: (_EAST | _SOUTH | _SIDEWAYS, 1, 1),
    14: (0, 1, 1),
    13: (_EAST | _SIDEWAYS, 1, 0),
    11: (_SOUTH | _SIDEWAYS, 0, 1),
    7: (_EAST | _SOUTH, 0, 0),
}
_FLAGS, _DOWN, _RIGHT = np.zeros((3, 16), np.int64)
for _code, _row in _CORNERS.items():
    _FLAGS[_code], _DOWN[_code], _RIGHT[_code] = _row
_SPLIT = {9: (1, 8), 6: (2, 4)}  # two pixels that touch at the point only: a corner of each


@dataclass(frozen=True)
class Corners:
    """Corners of boundaries: `word` (lattice point << 3 | edges), the `piece` and `owner` each belongs to.

    The lattice has (H + 1) x (W + 1) points, numbered in row-major order.
    """

    word: Ints
    piece: Ints
    owner: Ints

    def take(self, rows: NDArray[Any]) -> Corners:
        """The rows that an index or a mask names."""
        return Corners(self.word[rows], self.piece[rows], self.owner[rows])


@dataclass
class Outline:
    """Boundary of an open component: chunks of (word, piece), and pairs of pieces that proved to be one."""

    chunks: list[tuple[Ints, Ints]] = field(default_factory=list)
    links: list[tuple[int, int]] = field(default_factory=list)

    def absorb(self, other: Outline) -> None:
        """Add the boundary of a component that turned out to be the same."""
        self.chunks.extend(other.chunks)
        self.links.extend(other.links)


def find_corners(sheet: Mask, runs: Runs, row: int) -> tuple[Ints, Ints]:
    """Corners between the rows of a sheet: the word of each and the run to which it belongs.

    Args:
        sheet: see `asd_cli.vector.runs`.
        runs: the runs of the sheet.
        row: row of the scene at which the sheet's second row lies.
    """
    upper, lower = sheet[:-1], sheet[1:]
    above, below = upper[:, 1:] ^ upper[:, :-1], lower[:, 1:] ^ lower[:, :-1]
    width = above.shape[1]
    places = np.flatnonzero((above ^ below) | (above & (upper[:, 1:] ^ lower[:, 1:])))
    line, column = np.divmod(places, width)
    code = sheet[line, column] + 2 * sheet[line, column + 1]
    code = code + 4 * sheet[line + 1, column] + 8 * sheet[line + 1, column + 1]
    for both, (one, other) in _SPLIT.items():
        twice = np.flatnonzero(code == both)
        line, column = np.append(line, line[twice]), np.append(column, column[twice])
        code[twice] = one
        code = np.append(code, np.full(len(twice), other))
    word = ((line + row) * width + column) << 3 | _FLAGS[code]
    return word, runs.at(line + _DOWN[code], column - 1 + _RIGHT[code])


def resolve_pieces(pieces: Ints, links: list[tuple[int, int]]) -> Ints:
    """Give pieces that are linked, directly or through others, one number."""
    if not links or not len(pieces):
        return pieces
    ids, ends = np.unique(np.array(links, np.int64), return_inverse=True)
    ends = ends.reshape(-1, 2)
    _, labels = join(len(ids), ends[:, 0], ends[:, 1])
    _, first = np.unique(labels, return_index=True)
    place = np.minimum(np.searchsorted(ids, pieces), len(ids) - 1)
    return np.where(ids[place] == pieces, ids[first[labels[place]]], pieces)


def build_polygons(corners: Corners, shape: tuple[int, int], transform: Affine) -> NDArray[np.object_]:
    """MultiPolygons of complete components, in the order of `owner` (0 .. n-1, each with all its corners).

    Valid by construction: one polygon per piece; rings touch themselves nowhere and one another in single
    points. Vertices stand where the boundary turns and nowhere else; rings start at their topmost leftmost
    pixel corner, pieces and holes follow in that order; shells run counter-clockwise in map coordinates.

    Args:
        corners: in any order.
        shape: (H, W) of the scene.
        transform: from pixel corners (column, row) to map coordinates.
    """
    corners = corners.take(np.argsort(corners.word, kind="stable"))
    following = _link(corners, shape, clockwise=transform.determinant > 0)
    order, starts = _follow(following)
    lengths = np.diff(starts, append=len(order))
    owner, piece = corners.owner[order[starts]], corners.piece[order[starts]]
    _, shell, inverse = np.unique(piece, return_index=True, return_inverse=True)
    shell = shell[inverse]  # rings come in the order of their starts, and of a piece's the shell starts first
    rank = np.lexsort((shell, owner))
    # One ring after the other, each closed by its own start.
    ring_ends = np.cumsum(lengths[rank] + 1)
    step = np.arange(ring_ends[-1]) - np.repeat(ring_ends - lengths[rank] - 1, lengths[rank] + 1)
    index = order[np.repeat(starts[rank], lengths[rank] + 1) + step % np.repeat(lengths[rank], lengths[rank] + 1)]
    row, column = np.divmod(corners.word[index] >> 3, shape[1] + 1)
    x = transform.a * column + transform.b * row + transform.c
    y = transform.d * column + transform.e * row + transform.f
    new_piece = np.flatnonzero(np.diff(shell[rank], prepend=-1))
    new_owner = np.flatnonzero(np.diff(owner[rank][new_piece], prepend=-1))
    offsets = (
        np.concatenate([[0], ring_ends]),
        np.append(new_piece, len(rank)),
        np.append(new_owner, len(new_piece)),
    )
    polygons = shapely.from_ragged_array(shapely.GeometryType.MULTIPOLYGON, np.stack([x, y], axis=1), offsets)
    return np.asarray(polygons, dtype=np.object_)


def _link(corners: Corners, shape: tuple[int, int], *, clockwise: bool) -> Ints:
    """The corner that follows each corner on its ring; `corners` in the order of their words.

    `clockwise`: the direction of shells as the scene is drawn, row 0 on top.
    """
    place, flags = corners.word >> 3, corners.word & 7
    south = (flags & _SOUTH) // _SOUTH
    # Two pixels of one piece that touch at a corner: turn around the empty pixels instead, so that the ring
    # is cut there into shell and hole. Pixels of two pieces keep a corner each.
    pinch = np.flatnonzero((np.diff(place) == 0) & (np.diff(corners.piece) == 0))
    south[pinch], south[pinch + 1] = south[pinch + 1], south[pinch]
    sideways = np.arange(len(place)) ^ 1  # words ascend, thus neighbours pair off into horizontal edges
    row, column = np.divmod(place, shape[1] + 1)
    order = np.argsort((column * (shape[0] + 1) + row) << 1 | south)
    upright = np.empty_like(order)
    upright[order[0::2]], upright[order[1::2]] = order[1::2], order[0::2]
    return np.where((flags & _SIDEWAYS > 0) == clockwise, sideways, upright)


def _follow(following: Ints) -> tuple[Ints, Ints]:
    """Cut a permutation into its cycles: elements cycle by cycle, and where each starts.

    Cycles start at, and come in the order of, their smallest elements.
    """
    left: list[int] = following.tolist()
    order: list[int] = []
    starts: list[int] = []
    for start in range(len(left)):
        if left[start] < 0:
            continue
        starts.append(len(order))
        at = start
        while (after := left[at]) >= 0:
            order.append(at)
            left[at] = -1
            at = after
    return np.array(order, np.int64), np.array(starts, np.int64)

"""Draw the house from its imports into docs/architecture.md: `python docs/drawing.py [--check]`.

A box is a package, an arrow an import. An arrow that two others already imply is left out, so
that what is drawn is the least that shows who rests on whom.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grimp

PAGE = Path(__file__).parent / "architecture.md"
FEATURES = ("migrations_app", "backups_app")
# What holds nothing but words and wiring is in nobody's way and in every arrow's.
LEFT_OUT = {
    "apps", "models", "migrations", "templatetags", "choices", "cli", "clock", "exceptions", "formats",
    "language", "outgoing", "sentences", "statuses", "url",
}  # fmt: skip
BEGIN, END = "<!-- drawing: begin -->\n", "<!-- drawing: end -->"

Arrows = dict[str, set[str]]


def rooms_of(graph: grimp.ImportGraph) -> list[str]:
    """The features, and each subject of the platform."""
    subjects = graph.find_children("opsconsole")
    return [*FEATURES, *sorted(s for s in subjects if s.rpartition(".")[2] not in LEFT_OUT)]


def arrows_between(graph: grimp.ImportGraph, rooms: list[str]) -> Arrows:
    """For each room the others that it imports something of."""
    inside = {room: {room, *graph.find_descendants(room)} for room in rooms}
    room_of = {module: room for room in rooms for module in inside[room]}
    return {
        room: {
            room_of[imported]
            for module in inside[room]
            for imported in graph.find_modules_directly_imported_by(module)
            if imported in room_of
        }
        - {room}
        for room in rooms
    }


def reduced(arrows: Arrows) -> Arrows:
    """Without the arrows that a longer way already shows. The arrows make no circle."""

    def below(room: str) -> set[str]:
        return arrows[room].union(*(below(step) for step in arrows[room]))

    return {
        room: targets - set().union(*(below(step) for step in targets))
        for room, targets in arrows.items()
    }


def drawing(graph: grimp.ImportGraph) -> str:
    """The drawing as a Mermaid flow chart."""
    rooms = rooms_of(graph)
    short = {room: room.removeprefix("opsconsole.") for room in rooms}
    lines = ["```mermaid", "flowchart TD"]
    for room, targets in reduced(arrows_between(graph, rooms)).items():
        lines += [f"    {short[room]} --> {short[to]}" for to in sorted(targets)]
    return "\n".join([*lines, "```", ""])


def main() -> int:
    graph = grimp.build_graph("opsconsole", *FEATURES)
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    drawn = f"{before}{BEGIN}{drawing(graph)}{END}{after}"
    if "--check" in sys.argv:
        return int(drawn != page)
    PAGE.write_text(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""docs/tour.svg, the README's picture: some stages of a real `cutaway tour`, as the terminal shows them.

Run: python docs/picture.py. It needs the default model; the numbers are those of the run that it makes.
"""

from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

import cutaway
from cutaway.show.layout import WIDTH
from cutaway.tour.draw import draw
from cutaway.tour.stages import Tour

STAGES = (1, 5, 6, 7, 8)
# rich's own frame fetches a font from the network when it is shown; this one uses what the reader has.
FRAME = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
    font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>{lines}</defs>
<rect fill="#0c0c0c" x="1" y="1" width="{width}" height="{height}" rx="8"/>
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g></svg>
"""


def main() -> None:
    lm = cutaway.load()
    settings = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "seed": 0, "max_new_tokens": 24}
    tour = Tour(lm, ["The sun rises in the"], block=0, head=0, **settings)
    console = Console(width=WIDTH, record=True, force_terminal=True, color_system="truecolor", file=StringIO())
    stages = [*tour.stages(), tour.draw_stage(list(tour.steps()))]
    for stage in stages:
        if stage.number in STAGES:
            for line in draw(stage):
                console.print(Text.assemble(*line))
    for text in stages[-1].data["texts"]:
        console.print(Text.assemble((text["prompt"], "dim"), (text["text"], "bold")))
    svg = console.export_svg(title="", theme=MONOKAI, code_format=FRAME, unique_id="tour")
    Path(__file__).with_name("tour.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Claim: 20 readers of one page's server at once, each generating 64 tokens, all finish, each with its own text.

The server is `cutaway serve` on the default model, a process of its own; the readers are sockets of this one. Beside it
one reader alone, and what a slider of the sampling stage costs while nobody generates, and while 19 others do.
"""

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path

from serving import served
from websockets.asyncio.client import connect

from measure import report, spread

READERS, TOKENS = 20, 64
PROMPT = "Chapter {}. It was a dark and stormy night, and the captain"
SAMPLING = {"do_sample": True, "temperature": 1.2, "top_k": 0, "top_p": 0.95, "min_p": 0.001, "repetition_penalty": 1.1}


class Reader:
    """One page's socket."""

    def __init__(self, socket) -> None:
        self.socket, self.id = socket, 0

    async def ask(self, name: str, **arguments) -> list[dict]:
        """The answers of one request."""
        self.id += 1
        await self.socket.send(json.dumps({"id": self.id, "ask": name, **arguments}))
        answers = []
        while True:
            message = await self.socket.recv()
            if isinstance(message, str):
                assert "error" not in message, message
                continue
            size = int.from_bytes(message[:8], "little")
            about = json.loads(message[8 : 8 + size])["__metadata__"]
            answers.append(json.loads(about["answer"]))
            if about["last"] == "true":
                return answers


async def generate(url: str, number: int, sliders: list[float] | None = None) -> tuple[str, float, int]:
    """One reader's text, seconds and tokens; with sliders, those of a hundred samplings of a step, too."""
    async with connect(f"ws{url[4:]}ws", origin=url.rstrip("/"), max_size=None, compression=None) as socket:
        reader = Reader(socket)
        await reader.ask("hello")
        began = time.perf_counter()
        answers = await reader.ask(
            "generate", text=PROMPT.format(number), max_new_tokens=TOKENS, settings={"do_sample": False}
        )
        seconds = time.perf_counter() - began
        tokens = sum("step" in answer for answer in answers)
        assert tokens == TOKENS or answers[-1]["ended"] == "eos"
        for step in range(100 if sliders is not None else 0):
            began = time.perf_counter()
            settings = SAMPLING | {"temperature": 0.5 + step / 100}
            await reader.ask("sampling", generation=answers[0]["generation"], step=0, settings=settings, seed=step)
            sliders.append(time.perf_counter() - began)
        return answers[-1]["text"], seconds, tokens


def memory(pid: int, name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(lines[name].split()[0]) * 1024


async def measured(url: str, pid: int) -> list[list[str]]:
    await generate(url, 0)
    before = memory(pid, "VmRSS")
    alone, idle, busy = [], [], []
    for _ in range(3):
        alone.append(await generate(url, 0, idle))
    texts = dict(enumerate([(await generate(url, number))[0] for number in range(READERS)]))
    found = await asyncio.gather(*(generate(url, number) for number in range(READERS)))
    own = {number: text for number, (text, _, _) in enumerate(found)} == texts
    peak = memory(pid, "VmHWM")
    written = sum(tokens for _, _, tokens in found)
    rate = written / max(seconds for _, seconds, _ in found)
    single = statistics.median(tokens / seconds for _, seconds, tokens in alone)
    others = [asyncio.create_task(generate(url, number)) for number in range(1, READERS)]
    await generate(url, 0, busy)
    await asyncio.gather(*others)
    return [
        ["one reader", f"{single:.0f} tokens/s", spread([s for _, s, _ in alone]), "", ""],
        [f"{READERS} readers at once", f"{rate:.0f} tokens/s in all", spread([s for _, s, _ in found]),
         f"{(peak - before) / 1e6:.0f} MB more at most",
         f"{written} tokens, {'each its own text' if own else 'NO: texts differ'}"],
        ["a slider, nobody generating", "", spread([1e3 * s for s in idle], "ms"), "", ""],
        ["a slider, while others generate", "", spread([1e3 * s for s in busy], "ms"), "", ""],
    ]  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--keep", action="store_true", help="write the result to bench/results")
    keep = options.parse_args().keep
    with served() as (url, pid):
        rows = asyncio.run(measured(url, pid))
    report("serve", f"{READERS} readers of one server, {TOKENS} tokens each, SmolLM2 in 8 bits",
           ["", "rate", "seconds a reader", "memory", "texts"], rows, keep=keep)  # fmt: skip


if __name__ == "__main__":
    main()

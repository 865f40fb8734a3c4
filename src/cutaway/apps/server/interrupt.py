"""A decoder whose passes end when the request that they are for is cancelled, between two blocks.

It knows the seam of the decoder (run_blocks) and the tap; it does not know requests, nor what is computed.
"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from cutaway.model.cache import Cache
from cutaway.model.decoder import Decoder
from cutaway.model.pass_info import PassInfo
from cutaway.model.tap import Chain, Tap, Untapped
from cutaway.quant.engine import NativeEngine

Check = Callable[[], None]  # raises where the pass is no longer wanted


def interruptible(decoder: Decoder, check: Check) -> None:
    """From now on every pass of this decoder calls `check` first, and a pass over several tokens before each block."""
    decoder.run_blocks = Interruptible(decoder.run_blocks, check)


class Interruptible(NativeEngine):
    """The decoder's own run_blocks with the check before it. It counts as an engine, as its bits are those of one."""

    def __init__(self, inner: Callable[..., Tensor], check: Check) -> None:
        super().__init__()
        self.inner, self.check = inner, check

    def __call__(
        self, blocks: Iterable[nn.Module], resid_BTD: Tensor, info: PassInfo, cache: Cache | None, tap: Tap
    ) -> Tensor:
        self.check()
        if resid_BTD.shape[1] > 1:  # one token is quick, and its engine would call each block by itself
            tap = Chain(_Stop(self.check), tap)
        return self.inner(blocks, resid_BTD, info, cache, tap)


class _Stop(Untapped):
    """Calls the check where a block begins. It wants no value: where it is not called the pass goes on."""

    def __init__(self, check: Check) -> None:
        self.check = check

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name.endswith("resid_pre"):
            self.check()
        return value

"""What a direction of the residual stream says directly: the final norm's gain and the unembedding, step by step."""

from torch import Tensor

from cutaway.analysis.derived import matrix
from cutaway.lm import LM


def unembedded(lm: LM, direction_D: Tensor) -> Tensor:
    """[V], without the norm's divisor and bias."""
    norm, project = lm.decoder.unembed.ln_final, lm.decoder.unembed.project_out
    if norm is not None:
        direction_D = direction_D - direction_D.mean() if norm.centered else direction_D
        direction_D = direction_D if norm.gain is None else direction_D * norm.gain
    return matrix(lm.decoder, "W_U") @ (direction_D if project is None else project.weight @ direction_D)

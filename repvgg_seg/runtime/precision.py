"""The precisions that a network is exported and run in: every fact about one of them stands in its row here."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..environment import cpu


@dataclass(frozen=True)
class Precision:
    """A precision of the arithmetic."""

    name: str
    # The largest deviation of a logit that is tolerated, over the largest magnitude of the float32 logits. Below it,
    # which of two classes wins is a matter of rounding. Of int8 nothing is demanded of a single logit: what it costs is
    # measured on images, see deploy.quantize.
    max_rel: float
    backends: tuple[str, ...]  # the runtimes that compute in it, by their names in runtime.backends
    dtype: str  # torch's name of the type of the parameters
    openvino: str  # OpenVINO's INFERENCE_PRECISION_HINT
    # Pattern of the instruction sets, as environment.cpu() spells them, without which a CPU only emulates it.
    instructions: str = ''
    rest: str = ''  # the precision of what is not quantized, where the device has it

    def fast_on_this_cpu(self) -> bool:
        """Whether this CPU is known to compute in it; emulated, it is far slower than float32."""
        return not self.instructions or any(re.search(self.instructions, name) for name in cpu()[1])


PRECISIONS = {
    row.name: row
    for row in (
        Precision('fp32', 1e-4, ('onnxruntime', 'openvino', 'torch'), 'float32', 'f32'),
        Precision('fp16', 1e-2, ('onnxruntime', 'openvino', 'torch'), 'float16', 'f16', 'fp16|fphp'),
        # ONNX Runtime cannot run convolutions in it on a CPU.
        Precision('bf16', 5e-2, ('openvino', 'torch'), 'bfloat16', 'bf16', 'bf16'),
        # The parameters are of float32 until the file is quantized.
        Precision('int8', math.inf, ('onnxruntime', 'openvino'), 'float32', 'f32', 'vnni|amx_int8|i8mm', rest='bf16'),
    )
}

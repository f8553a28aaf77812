# Copyright 2026 multihmr2_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Roofline of the large network in bf16: floating-point operations and bytes of each stage, and a GPU's limits.

    python scripts/roofline.py [--size 768x432] [--people 10]

The network runs on PyTorch's `meta` device, without computing. The bound of a stage is the larger of two times: its
matrix products at the speed measured for their precision, and its bytes at the memory's bandwidth. There are two counts
of bytes: `least` counts weights, inputs and results once; `unfused` counts the inputs and results of every operation,
as eager kernels read and write them, with attention in one kernel.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from multihmr2_ros.body import Body
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.model import MultiHMR2, place_bodies

# One H100 80GB (scripts/gpu_check.sh, step environment): TFLOP/s of products of 8192 x 8192 matrices. Memory bandwidth:
# the manufacturer's specification, not measured.
BF16_TFLOPS, FP32_TFLOPS, MEMORY_GB_PER_S = 788.0, 51.0, 3000.0


@dataclass(frozen=True)
class Stage:
    """One stage of the network.

    flops          of matrix products and attention: (bf16, float32)
    least_bytes    weights, inputs and results
    unfused_bytes  inputs and results of every operation
    """

    name: str
    flops: tuple[int, int]
    least_bytes: int
    unfused_bytes: int

    @property
    def matrix_ms(self) -> float:
        low, full = self.flops
        return 1e-9 * (low / BF16_TFLOPS + full / FP32_TFLOPS)

    @property
    def bound_ms(self) -> float:
        return max(self.matrix_ms, memory_ms(self.least_bytes))

    @property
    def unfused_ms(self) -> float:
        return max(self.matrix_ms, memory_ms(self.unfused_bytes))


def memory_ms(count: int) -> float:
    """Return the time (ms) to transfer `count` bytes."""
    return 1e-6 * count / MEMORY_GB_PER_S


class Traffic(TorchDispatchMode):
    """Counts the bytes read and written by operations (views: 0), and FLOPs of matrix products by precision."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.flops = {torch.bfloat16: 0, torch.float32: 0}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with FlopCounterMode(display=False) as counter:
            result = function(*args, **kwargs)
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if tensors and counter.get_total_flops():
            self.flops[tensors[0].dtype] += counter.get_total_flops()
        if not _is_view(function):
            self.bytes += sum(map(_size, {id(value): value for value in tree_leaves((tensors, result))}.values()))
        return result


def _is_view(function: Any) -> bool:
    aliases = [returned.alias_info for returned in function._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _size(value: Any) -> int:
    """Return the bytes that an operation reads of a tensor; expanded memory counts once."""
    if not isinstance(value, Tensor):
        return 0
    return min(value.numel() * value.element_size(), value.untyped_storage().nbytes())


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """Use the GPU's attention kernel; on `meta`, PyTorch would use matrix products and a softmax."""

    def attend(query: Tensor, key: Tensor, value: Tensor, bias: None = None) -> Tensor:
        result: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        return result

    with mock.patch.object(functional, "scaled_dot_product_attention", attend):
        yield


def count(name: str, work: Callable[[], Any], modules: list[torch.nn.Module], inputs: Any) -> Stage:
    """Count the operations and bytes of one stage.

    work     runs the stage
    modules  the modules whose weights are read
    inputs   the input tensors
    """
    with torch.no_grad(), fused_attention(), Traffic() as traffic:
        result = work()
    tensors = [value for module in modules for value in (*module.parameters(), *module.buffers())]
    least = sum(map(_size, {id(value): value for value in tree_leaves((tensors, inputs, result))}.values()))
    return Stage(name, (traffic.flops[torch.bfloat16], traffic.flops[torch.float32]), least, traffic.bytes)


def large_network(width: int, height: int, people: int) -> list[Stage]:
    """Return the stages for one image of width and height px, multiples of the patch size."""
    with torch.device("meta"):
        network = MultiHMR2(NetworkConfig()).set_precision(torch.bfloat16).to("meta").eval()
    body = Body("full").to("meta")
    image = torch.empty(1, 3, height, width, dtype=torch.uint8, device="meta")
    k, given = torch.empty(1, 3, 3, device="meta"), torch.empty(1, dtype=torch.bool, device="meta")
    with torch.no_grad():
        encoded = network.encode(image)
        decoded = network.decoder(encoded.patches)
        prediction = network(image, k, given, people)
    queries = decoded.queries
    heads = [network.detection, network.person, network.camera]
    return [
        count("encoder", lambda: network.encode(image)[:2], [network.backbone], image),
        count("decoder", lambda: network.decoder(encoded.patches).queries, [network.decoder], encoded.patches),
        count("heads", lambda: (
            network.detection(queries, None, None), network.person(queries[:, :people]),
            network.person.track_feature(queries[:, :people]),
            network.camera(encoded.class_token),
        ), heads, (queries, encoded.class_token)),
        count("body", lambda: tuple(vars(place_bodies(body, prediction)).values()), [body],
              (prediction.rotations, prediction.shape, prediction.center)),
    ]  # fmt: skip


def table(stages: list[Stage]) -> str:
    """Format the stages as a Markdown table with their sum."""
    lines = [
        "| stage | GFLOP bf16 | GFLOP fp32 | least MB | unfused MB | products ms | bound ms | unfused ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stage in stages:
        low, full = stage.flops
        lines.append(
            f"| {stage.name} | {low / 1e9:.1f} | {full / 1e9:.2f} | {stage.least_bytes / 1e6:.0f} "
            f"| {stage.unfused_bytes / 1e6:.0f} | {stage.matrix_ms:.2f} | {stage.bound_ms:.2f} "
            f"| {stage.unfused_ms:.2f} |"
        )
    sums = [sum(values) for values in zip(*((s.matrix_ms, s.bound_ms, s.unfused_ms) for s in stages), strict=True)]
    return "\n".join([*lines, "| sum | | | | | " + " | ".join(f"{value:.2f}" for value in sums) + " |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="768x432", help="size of the network's input in px (default: %(default)s)")
    parser.add_argument("--people", type=int, default=10, help="number of people (default: %(default)s)")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    print(table(large_network(width, height, args.people)))


if __name__ == "__main__":
    main()

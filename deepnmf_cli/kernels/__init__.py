"""The recursions of the networks, and the layers around them, in every form in which they run.

| form | file | runs |
|---|---|---|
| loop in PyTorch | `recursion` | everywhere; with gradients |
| Triton | `triton_recursion` | a chain in one launch, on a GPU |
| C++ | `grid_layer`, `grid_field`, `unit_sums` | whole layers, in training on a CPU with a compiler (`machine_code`) |
| ONNX operators | `onnx_operators` | in exported graphs |

`tests/kernels/` compares every form with the loop, and the loop with its definition.
"""

"""Batching: code for one task runs on many tasks, by a tensor subclass that hides the axis of tasks.

tensor.py       BatchedTensor, its layouts, and the table of rules
fallback.py     functions without a rule: under vmap, else one task after another
pointwise.py    elementwise functions
shapes.py       functions with axes
layers.py       Linear, convolution, pooling, embedding, dropout, attention, losses
recurrent.py    RNN, GRU and LSTM by their cells
norms.py        batch, group and layer norm, and running statistics
kernels.py      batch norm as an autograd function with all derivatives
vectorize.py    run a function of one task on all: batched, else under vmap, else one task after another
"""

from upstairs.functional.batching import fallback, layers, norms, pointwise, recurrent, shapes  # noqa: F401  (they register their rules)
from upstairs.functional.batching.tensor import BatchedTensor, NotBatchable, known_true, stack
from upstairs.functional.batching.vectorize import Explanation, vectorize

__all__ = ["BatchedTensor", "Explanation", "NotBatchable", "known_true", "stack", "vectorize"]

"""Many tasks at once on unmodified code for one: a tensor that hides the axis of tasks, with rules for functions.

tensor.py       BatchedTensor, its layouts, and how a function finds its rule
fallback.py     functions without a rule: under vmap, then one task after another
pointwise.py    functions of single values
shapes.py       functions of axes
layers.py       Linear, convolution, pooling, embedding, dropout, attention, losses
recurrent.py    RNN, GRU and LSTM by their cells
norms.py        batch, group and layer norm, and running statistics
kernels.py      batch norm as an autograd function, exact to any derivative
vectorize.py    run a function of one task on all: batched, else under vmap, else one task after another
"""

from upstairs.functional.batching import fallback, layers, norms, pointwise, recurrent, shapes  # noqa: F401  (they register their rules)
from upstairs.functional.batching.tensor import BatchedTensor, NotBatchable, known_true, stack
from upstairs.functional.batching.vectorize import Explanation, vectorize

__all__ = ["BatchedTensor", "Explanation", "NotBatchable", "known_true", "stack", "vectorize"]

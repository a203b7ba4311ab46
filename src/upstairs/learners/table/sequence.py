"""Meta neural networks and meta recurrent networks: networks that learn a task inside their own activations."""

from upstairs.learners.recurrent import LSTMLearner, MemoryLearner
from upstairs.learners.sequence import in_context, snail
from upstairs.learners.table.building import METRIC, Entry, on_encoder

_READER = METRIC | {"way": 5, "tasks": 8}

SEQUENCE: dict[str, Entry] = {
    # meta neural networks
    "snail": Entry(
        on_encoder(lambda net, size, s, way: snail(net, size, way=way, shot=s.shots[1])),
        _READER, "SNAIL: temporal convolution and causal attention over the support set (Mishra 2018)",
    ),
    "in_context": Entry(
        on_encoder(lambda net, size, s, way: in_context(net, size, way=way)),
        _READER, "a transformer that reads the support set and answers in one pass (TabPFN, Hollmann 2023)",
    ),
    # meta recurrent networks
    "lstm": Entry(
        on_encoder(lambda net, size, s, way: LSTMLearner(net, size, way=way)),
        _READER, "an LSTM that is told each label one step late (Hochreiter 2001)",
    ),
    "memory": Entry(
        on_encoder(lambda net, size, s, way: MemoryLearner(net, size, way=way)),
        _READER, "memory-augmented LSTM, told each label one step late (Santoro 2016)",
    ),
}  # fmt: skip

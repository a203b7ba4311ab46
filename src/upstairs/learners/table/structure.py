"""Learning of structure: which parameters adapt and in which geometry, what the network is, how deep it is."""

from upstairs.learners.structure import sparse_maml, t_net, transformed
from upstairs.learners.table.building import FUNCTIONS, INNER_LOOP, Entry, on_net

STRUCTURE: dict[str, Entry] = {
    "sparse_maml": Entry(
        on_net(sparse_maml), INNER_LOOP,
        "sparse-MAML: MAML that learns which weights adapt (von Oswald 2021)", FUNCTIONS,
    ),
    "t_net": Entry(
        on_net(t_net, transformed), INNER_LOOP,
        "T-Net: MAML with learned layers, which do not adapt, after those that do (Lee and Choi 2018)", FUNCTIONS,
    ),
}  # fmt: skip

"""The table: every learner by its published name, with defaults that train well with no option given.

Adding one touches three places: its class or function in a file of this room, an entry here, a row in the tests' table.
"""

from upstairs.learners.table.adversarial import ADVERSARIAL
from upstairs.learners.table.building import Entry, Shape, make_net
from upstairs.learners.table.categories import CATEGORIES
from upstairs.learners.table.conditioned import CONDITIONED
from upstairs.learners.table.generative import GENERATIVE
from upstairs.learners.table.gradient import GRADIENT
from upstairs.learners.table.optimizers import OPTIMIZERS
from upstairs.learners.table.sequence import SEQUENCE
from upstairs.learners.table.structure import STRUCTURE

LEARNERS: dict[str, Entry] = (
    GRADIENT | CATEGORIES | CONDITIONED | SEQUENCE | OPTIMIZERS | STRUCTURE | ADVERSARIAL | GENERATIVE
)

__all__ = ["LEARNERS", "Entry", "Shape", "make_net"]

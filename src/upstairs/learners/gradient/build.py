"""Builders of the gradient learners from settings."""

from upstairs.learners.building import on_net
from upstairs.learners.gradient.cavia import cavia
from upstairs.learners.gradient.maml import anil, boil, fomaml, imaml, maml, meta_curvature, meta_sgd
from upstairs.learners.gradient.maml_pp import maml_pp
from upstairs.learners.gradient.mtl import mtl
from upstairs.learners.gradient.reptile import reptile
from upstairs.learners.gradient.sparse_maml import sparse_maml, t_net
from upstairs.learners.learned_optimizer.rules import learned_optimizer

build_maml = on_net(maml)
build_anil = on_net(anil)
build_boil = on_net(boil)
build_maml_pp = on_net(maml_pp)
build_imaml = on_net(imaml)
build_cavia = on_net(cavia)
build_fomaml = on_net(fomaml)
build_meta_sgd = on_net(meta_sgd)
build_meta_curvature = on_net(meta_curvature)
build_reptile = on_net(reptile)
build_mtl = on_net(mtl)
build_learned_optimizer = on_net(learned_optimizer)
build_sparse_maml = on_net(sparse_maml)
build_t_net = on_net(t_net)

"""Learnable families: differentiable maps from theta to NSParams.

`bns` and `bst` are where a search starts; `constrained` and `preconditioned` make a
family out of another.
"""

from bns_jax.families.base import Family as Family
from bns_jax.families.bns import BNSTheta as BNSTheta
from bns_jax.families.bns import bns as bns
from bns_jax.families.bst import BSTTheta as BSTTheta
from bns_jax.families.bst import bst as bst
from bns_jax.families.constrained import constrained as constrained
from bns_jax.families.preconditioned import preconditioned as preconditioned

"""FID's Inception network, the features it sees, and weights of others for it."""

from bns_jax.models.inception.images import features as features
from bns_jax.models.inception.network import Inception as Inception
from bns_jax.models.inception.weights import convert as convert
from bns_jax.models.inception.weights import load as load

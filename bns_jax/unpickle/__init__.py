"""Pickles of others, read as data: nothing that they name is imported or called.

A pickle is a program that names functions and calls them. Here every name is looked up
in a table of stand-ins that build arrays and plain containers. Any other name, and what
it is called with, becomes an inert record.

A program can also build much from little. The pure Python reader of the standard
library keeps that in bounds, for three reasons: it remembers objects in a dictionary,
it takes from a file no more than there is, and its opcodes can be left out.
"""

from bns_jax.unpickle.reader import Unpickler as Unpickler
from bns_jax.unpickle.records import Foreign as Foreign
from bns_jax.unpickle.records import Record as Record
from bns_jax.unpickle.records import Refused as Refused
from bns_jax.unpickle.records import StandIn as StandIn
from bns_jax.unpickle.records import as_array as as_array
from bns_jax.unpickle.records import integers as integers

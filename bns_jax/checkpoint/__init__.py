"""Saving and restoring training state with orbax, verified by checksum.

One directory holds the last few steps. Orbax writes each step under a temporary name
and commits it whole, in the background, so a run that dies while saving leaves the
steps before intact. A flipped byte restores without complaint, so each step is sealed
before its commit by the checksums of its files, and damaged ones never reach orbax.
Nothing is removed but steps that this package wrote.
"""

from bns_jax.checkpoint.checkpointer import Checkpointer as Checkpointer
from bns_jax.checkpoint.checkpointer import Restored as Restored
from bns_jax.checkpoint.checkpointer import newest_metadata as newest_metadata
from bns_jax.checkpoint.checkpointer import restore as restore
from bns_jax.checkpoint.checkpointer import save as save

"""Scale-time transformations and changes of scheduler (eq. 6-8, eq. 14).

A scale-time solver is a combinator: `under` wraps the field by eq. 7 and rescales in
and out, and the trace folds it into three arrays over the original field.
"""

from bns_jax.scale_time.change import between as between
from bns_jax.scale_time.change import precondition as precondition
from bns_jax.scale_time.rescheduled import RescheduledVelocity as RescheduledVelocity
from bns_jax.scale_time.transformation import ScaleTime as ScaleTime
from bns_jax.scale_time.transformation import fold as fold
from bns_jax.scale_time.transformation import identity as identity
from bns_jax.scale_time.transformation import transform as transform
from bns_jax.scale_time.transformation import under as under

"""Searches whose settings a test gives by name, wherever `fit` takes them."""

from bns_jax import Problem, distill

_OF_OPTIMIZER = ("batch", "iterations", "evaluate_every", "patience", "microbatch")
_OF_REPORT = ("progress", "validated", "stop")


def arguments(vf, train, optimizer=None, mesh=None, weights=None, **settings):
    """The arguments of `distill.fit` but for its family and its validation pairs."""
    optimizer = optimizer or distill.gauss_newton()
    own = {name: settings.pop(name) for name in _OF_OPTIMIZER if name in settings}
    own = {name: value for name, value in own.items() if value is not None}
    told = {name: settings.pop(name) for name in _OF_REPORT if name in settings}
    if mesh is not None:
        vf = Problem(vf, mesh=mesh)
    if weights is not None:
        train = train._replace(weights=weights)
    if told:
        settings["report"] = distill.Report(**told)
    return {
        "vf": vf,
        "train": train,
        "optimizer": optimizer.replace(**own),
        **settings,
    }


def fit(family, vf, train, validation, **settings):
    """`distill.fit` of these."""
    given = arguments(vf, train, **settings)
    return distill.fit(family, validation=validation, **given)

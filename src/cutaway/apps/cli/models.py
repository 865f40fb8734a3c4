"""`cutaway models`: which models are on this machine and can be run, found without the network.

It prints a list; it does not know where models are stored.
"""

from cutaway.apps.cli.common import WithoutWeights, busy, verb


@verb
def models(options: WithoutWeights) -> None:
    """List the models on this machine; never uses the network.

    With --model, print only that one's folder.
    """
    with busy("looking") as report:
        from cutaway.show.models import finding, one
        from cutaway.weights.hub import resolve

        if options.model is None:
            found = finding()
        else:
            found = one(options.model, resolve(options.model, offline=True, progress=report))
    options.print(found)

"""Training: models, hospital records and the loops that put a secure sum between them.

The floor above `protocols`, and the only one that imports torch. Importing this package imports none of
its rooms, so `import fl_integration` needs no torch; name the room that you want:

* `fl_integration.vectors.vectorise`: a model's state <-> one flat vector and the manifest that describes it.
* `fl_integration.site.training`: one client's local training, repeatable from a seed. Needs `secagg[train]`.
* `fl_integration.loop.parties`: a client with its examples and a server with or without the model, sans-I/O.
* `fl_integration.loop.federated`: the federated loop over any protocol, and the same loop without one.
* `fl_integration.site.release_log`: what a client has released, durably. Needs no torch.
* `fl_integration.studies.heart`: the heart-disease records of four real hospitals, a model for them, and the
  demonstration `secagg-hospitals`. Needs `secagg[demo]`.
"""

__all__ = ["command", "loop", "site", "studies", "vectors"]

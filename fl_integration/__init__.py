"""Training: models, hospital records and the loops that put a secure sum between them.

The floor above `protocols`, and the only one that imports torch. Importing this package imports none of
its rooms, so `import fl_integration` needs no torch; name the room that you want:

* `fl_integration.vectorise`: a model's state <-> one flat vector and the manifest that describes it.
* `fl_integration.training`: one client's local training, repeatable from a seed. Needs `secagg[train]`.
* `fl_integration.hospitals`: the heart-disease records of four real hospitals, and a model for them.
"""

__all__ = ["hospitals", "training", "vectorise"]

"""Real hospitals with real records: who they are, what each of them knows, and a model they can share.

* `fl_integration.studies.heart.records`: each hospital's own rows, split, imputed and scaled by that hospital
  alone. Needs numpy only.
* `fl_integration.studies.heart.model`: logistic regression on these features, and the area under its curve.
* `fl_integration.studies.heart.study`: the experiment of the demonstration, over the protocols in `choices`;
  `stage` is where each way to train runs, `findings` is what it finds, `costs` measures large models,
  `charts`, `report` and `numbers` show it, and `secagg-hospitals` runs it all.
* `fl_integration.studies.heart.federation`: the same over an engine, hospitals and coordinator as processes
  of their own: `secagg study heart --engine flower`.
* `fl_integration.studies.heart.derive`: rebuilds `data/heart_disease.csv` from its source, byte for byte.

Where the records come from, whom to credit and what is wrong with them: `data/README.md`.
"""

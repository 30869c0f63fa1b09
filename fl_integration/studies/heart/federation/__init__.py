"""The study over an engine: hospitals and a coordinator as processes of their own, on this machine.

* `folders`: what each of them has on its disk; `journal`: what a watcher may know.
* `local`, `flower_client`, `flower_server`: what runs in those processes.
* `engine`: what an engine has to do for the study; `over_flower`: Flower's does it.
* `own_disk`: reads a model where only the hospitals have one; `signed`: the records of the rounds.
* `running`: follows a run to its end, kills a hospital and lets it come back; `outcome`: what came of it.
* `wires`: what the hospitals' wires carried, in words and tables.
"""

"""`infer` on several machines: the work on files, tiles and blocks goes to the workers of a dask scheduler.

    connect   the scheduler, and workers of this machine; the only file that imports dask
    tasks     what runs in a worker: opens input, model and scratch by path, does a piece, answers with a small record
    session   the model on the workers, as a session
    crew      how a run shares its work out: files, tiles and blocks

The process that was started plans, keeps journal and checkpoint, and writes the outputs: a worker that dies costs what
it had in hand, and the process itself may be killed and started again. Results are those of one process, bit by bit.
"""

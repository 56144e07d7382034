"""Data as it was published or annotated, turned into lists that `train` and `evaluate` read. No models, no torch.

One file a kind of data: `dsb2018`, `wbc`, `volumes`, `cellspotting`, `crops`. Each finds what there is, lists every
defect before the work begins, works item by item through `frame` (a kill costs one item), and sums up with `report`.
"""

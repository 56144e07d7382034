"""From a source to labels and a table: sessions, plan, tiles, scores, blocks, outputs. `infer` is the whole story."""

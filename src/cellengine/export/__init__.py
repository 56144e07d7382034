"""From a checkpoint to one portable file: ONNX with its spec, halo, golden test, and the parity of every precision."""

"""How fast a model runs here, in every combination of device, backend, precision, tile and batch."""

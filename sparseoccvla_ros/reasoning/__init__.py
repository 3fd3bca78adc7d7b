"""Third stage: a language model turns occupancy queries into anchor scores, forecasts and answers."""

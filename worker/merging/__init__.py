"""Models made of models, tensor by tensor: with an adapter added into them (the job ``merge``), with smaller values
(``quantize``)."""

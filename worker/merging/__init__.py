"""An adapter added into its base model, tensor by tensor: a model as any other. A job: ``merge``."""

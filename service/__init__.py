"""HTTP, batching, versions going live: serves the model store's versions. Imports `model_store`, never training or torch.

::

    request → routes → admission → images → preprocessing → batcher → session → postprocessing → answer
                                      registry leases the version ┘
"""

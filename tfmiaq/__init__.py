"""Quantization of Keras models against membership inference.

Public names are listed in `__init__.pyi`. Each is imported when it is first used, so that policies, `--help` and checks
of files work without loading TensorFlow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

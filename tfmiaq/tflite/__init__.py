"""Converts trained quantized models to .tflite files, runs them, and compares them with the model.

Names are listed in `__init__.pyi` and imported when they are first used: reading a file's bytes loads no TensorFlow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

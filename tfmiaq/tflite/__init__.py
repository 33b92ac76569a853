"""From a trained quantized model to a .tflite, and what a .tflite holds.

Names are listed in `__init__.pyi` and imported when they are first used: reading a file takes no TensorFlow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Rewriting functional models: into flat graphs of layers that TFLite has int8 kernels for, and from Keras 3."""

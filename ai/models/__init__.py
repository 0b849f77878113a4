"""The reference models that come with the node, and the scripts that build them.

The scripts need ``onnx``, which only tests and development install.
"""

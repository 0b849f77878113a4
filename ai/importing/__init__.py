"""Makes model packages of what other programs trained and saved.

A kind of source (`kinds.py`) reads files and says what they tell of a package: part of a
``model.toml``, and how to write its graph. What they do not tell is asked for and never guessed.
Torch, TensorFlow and the like are loaded only while a source that needs them is imported.
"""

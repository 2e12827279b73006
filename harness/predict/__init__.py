"""A fitted job applied to any image: kept in a folder, served by MLflow, or on the command line.

`python -m harness.predict model=RUN images=FOLDER` scores a folder of images.
"""

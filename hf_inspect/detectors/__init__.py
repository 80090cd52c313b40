"""Built data sets of boxes -> small models that find things in images without a prompt, and their predictions."""

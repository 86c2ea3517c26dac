"""Models as single files: export to an archive, import of one that may come from anywhere."""

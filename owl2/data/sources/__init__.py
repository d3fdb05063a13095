"""The sources of the instruction mixture, one small file each."""

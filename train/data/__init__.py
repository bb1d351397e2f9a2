"""Episodes on disk, and the windows cut from them."""

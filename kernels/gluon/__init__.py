"""Warp-specialised attention for Hopper in Gluon; imported only when the backend `hopper` is asked for."""

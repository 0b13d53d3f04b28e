"""The Triton kernels with their autograd wrappers, one operation a file; imported only when a backend needs them."""

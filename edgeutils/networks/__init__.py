"""Networks as kernels: what each kernel is and the work it does."""

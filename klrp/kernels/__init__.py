"""Kernels: each computes R_j = ⊕_k Θ(d_jk) ⊗ R_k for one layer, for the semirings and Θ it is made for."""

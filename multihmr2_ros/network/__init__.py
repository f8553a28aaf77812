"""The network: image → queries → people, after Multi-HMR 2 (arXiv:2606.14841)."""

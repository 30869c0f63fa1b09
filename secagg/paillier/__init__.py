"""Paillier: keys and ciphertexts (`scheme`), many values in one (`packing`), python-paillier (`phe`)."""

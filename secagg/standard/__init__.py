"""What RFCs and FIPS give, by `cryptography`: keys, sealing, signing, Merkle trees."""

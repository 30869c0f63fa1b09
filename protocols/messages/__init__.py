"""What is said: messages as dataclasses, their envelope, sealed states, and the signed record of a round."""

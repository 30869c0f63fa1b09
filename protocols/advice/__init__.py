"""Which protocol for whom, and why: `advice`; the estimates behind it: `costs`."""

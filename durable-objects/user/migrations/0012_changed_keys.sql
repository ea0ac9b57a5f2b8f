-- Which keys changed after a position is asked whenever a device has news, and its user may have signed hundreds.
CREATE INDEX public_key_changed ON public_key (changed);

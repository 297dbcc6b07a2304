"""One archive for a support ticket: what is needed to help, without secrets and without what was measured."""

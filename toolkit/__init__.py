"""The machinery under the scripts, one small file a concern. A user of the template need not open it."""
